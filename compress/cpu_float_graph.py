"""The float graph that ONNX Runtime's quantizer starts from: named by modules, and shaped for integer kernels."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, numpy_helper
from torch import nn

from babelrs.sensors import Sensor
from compress.cpu_rewrites import multiply_points, repeat_cells
from compress.export import OPSET, export_graph
from compress.onnx_graph import attribute, drop_unused, initializers, store
from compress.parts import part_of, serves
from compress.pixel_input import take_pixels
from train.models.detector import Detector

WEIGHT = ".weight"
"""What follows a module's name in the name of its weights."""


def cpu_float_graph(detector: Detector, sensor: Sensor) -> ModelProto:
    """A sensor's float graph with the outputs of :func:`compress.export.export_graph`, for quantization.

    Nodes and tensors are named by the modules they come from, weights ``MODULE.weight``. Pixels enter the first
    convolution as they are, 1x1 convolutions with nothing behind them are matrix products, and cells are repeated by
    copying: see :mod:`compress.pixel_input` and :mod:`compress.cpu_rewrites`.

    Args:
        detector: Without batch normalisation, in evaluation mode.
        sensor: The head to take.
    """
    model = export_graph(detector, sensor, OPSET)
    _store_constants(model.graph)
    _give_biases(model.graph)
    _name_weights(model.graph, detector, sensor)
    _name_nodes(model.graph)
    take_pixels(model.graph)
    multiply_points(model.graph)
    repeat_cells(model)
    drop_unused(model.graph)
    onnx.checker.check_model(model)
    return model


def layers_of(detector: Detector) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers with weights to quantize, by the names of their modules."""
    return {name: each for name, each in detector.named_modules() if isinstance(each, (nn.Conv2d, nn.Linear))}


def _store_constants(graph: GraphProto) -> None:
    """Constants as stored tensors: fewer bytes, and equal ones can be shared.

    The exporter stores equal parameters once and renames them: each gets its own name and values back.
    """
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        store(graph, node.output[0], numpy_helper.to_array(attribute(node, "value", None)))
        graph.node.remove(node)
    stored = initializers(graph)
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in stored]:
        store(graph, node.output[0], numpy_helper.to_array(stored[node.input[0]]))
        graph.node.remove(node)


def _give_biases(graph: GraphProto) -> None:
    """Zeros where a convolution has no bias."""
    stored = initializers(graph)
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 2:
            width = stored[node.input[1]].dims[0]
            node.input.append(store(graph, node.name + ".bias", np.zeros(width, np.float32)))


def _name_weights(graph: GraphProto, detector: Detector, sensor: Sensor) -> None:
    """Name the weights of convolutions and linear layers by their modules, whatever the exporter made of them.

    Raises:
        ValueError: A layer's weights are not in the graph.
    """
    layers = {name: layer for name, layer in layers_of(detector).items() if serves(part_of(name), sensor)}
    by_content: dict[bytes, str] = {}
    for name, layer in layers.items():
        weight = layer.weight.detach().numpy()
        by_content[np.ascontiguousarray(weight.T if isinstance(layer, nn.Linear) else weight).tobytes()] = name
    stored, names = initializers(graph), {}
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul") and node.input[1] in stored:
            exported = node.input[1].removeprefix("detector.").removesuffix(WEIGHT)
            layer_name = exported if exported in layers else by_content[stored[node.input[1]].raw_data]
            names[node.input[1]] = layer_name + WEIGHT
    if missing := layers.keys() - {name.removesuffix(WEIGHT) for name in names.values()}:
        raise ValueError(f"no weights of {sorted(missing)} in the {sensor} graph")
    _rename(graph, {name: names.get(name, name.removeprefix("detector.")) for name in stored})


def _name_nodes(graph: GraphProto) -> None:
    """``/backbone/stem/stages.0/stages.0.0/Conv`` becomes ``backbone.stem.stages.0.0.Conv``, and its output too."""
    outputs = {output.name for output in graph.output}
    names = {}
    for node in graph.node:
        node.name = dotted(node.name)
        for place, output in enumerate(node.output):
            if output and output not in outputs:
                names[output] = node.name + (f":{place}" if place else "")
    _rename(graph, names)


def dotted(scope: str) -> str:
    """A module's dotted name, and the operator, from the name that PyTorch's exporter gives a node."""
    parts: list[str] = []
    for part in scope.strip("/").split("/"):
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()  # an item of a list repeats the list's name
        parts.append(part)
    if parts[0] in list(Sensor):
        parts.insert(0, "heads")
    return ".".join(parts)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename tensors everywhere."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.value_info[:]
