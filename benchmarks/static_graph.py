"""An ONNX graph for one batch size: local functions inlined, constants folded, the shape of every tensor known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from babelrs.errors import BabelRSError, collected

_FOLDED_ELEMENTS = 1 << 16
"""Larger results of constants are left to the engine: no shape comes from them."""
_KEPT = ("QuantizeLinear", "DequantizeLinear")
"""Weights stay as they are stored."""
_CONSTANT_VALUES = ("value", "value_int", "value_ints", "value_float", "value_floats")


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor without running the graph.

    Attributes:
        shape: Sizes, all known.
        kind: ONNX element type.
    """

    shape: tuple[int, ...]
    kind: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StaticGraph:
    """A graph with nothing unknown but the values.

    Attributes:
        nodes: In the order of the file, which is topological.
        tensors: Everything that a node reads or writes, and the inputs, by name.
        constants: Tensors that do not depend on the inputs.
        calls: Which call of a local function a node comes from, by the node's first output.
        outputs: Names.
    """

    nodes: tuple[NodeProto, ...]
    tensors: Mapping[str, Tensor]
    constants: frozenset[str]
    calls: Mapping[str, int]
    outputs: tuple[str, ...]


def read_model(path: Path) -> ModelProto:
    """A graph without its external weights: their shapes are in the graph.

    Raises:
        BabelRSError: The file is missing or no ONNX graph.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BabelRSError(f"{path}: not an ONNX graph ({error}).", "Fetch the bundle again.") from None


def static_graph(model: ModelProto, batch: int) -> StaticGraph:
    """The graph for ``batch`` images, the first dimension of every input.

    Raises:
        BabelRSError: The graph takes another batch only, or a shape depends on the data or on an unknown operator.
    """
    called = [(list(node.input), list(node.output)) for node in model.graph.node if _is_call(node, model)]
    model = inline_local_functions(model)
    _fix_batch(model.graph, batch)
    _constants_to_initializers(model.graph)
    _fold(model)
    graph = _inferred(model).graph
    tensors = _known_tensors(graph)
    _require_shapes(graph, tensors)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in constants for name in node.input if name):
            constants.update(node.output)
    calls = {name: index for index, (given, made) in enumerate(called) for name in _between(graph, given, made)}
    outputs = tuple(value.name for value in graph.output)
    return StaticGraph(tuple(graph.node), tensors, frozenset(constants), calls, outputs)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or ``default`` where the node leaves it out."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _require_shapes(graph: GraphProto, tensors: Mapping[str, Tensor]) -> None:
    """Name the nodes where shapes get lost, not all those after them."""
    faults = [
        f"{node.op_type} {name}"
        for node in graph.node
        for name in node.output
        if name and name not in tensors and all(given in tensors for given in node.input if given)
    ]
    if faults:
        raise collected("Shapes depend on the data or on unknown operators", faults, "Export with fixed shapes.")


def _is_call(node: NodeProto, model: ModelProto) -> bool:
    return any((each.domain, each.name) == (node.domain, node.op_type) for each in model.functions)


def _between(graph: GraphProto, given: list[str], made: list[str]) -> set[str]:
    """First outputs of the nodes that compute ``made`` out of ``given``."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    open_names = list(made)
    while open_names:
        name = open_names.pop()
        if name in makers and name not in given and makers[name].output[0] not in found:
            found.add(makers[name].output[0])
            open_names += makers[name].input
    return found


def _fix_batch(graph: GraphProto, batch: int) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in weights:
            continue
        first = value.type.tensor_type.shape.dim[0]
        if first.HasField("dim_value") and first.dim_value != batch:
            raise BabelRSError(f"The graph takes batches of {first.dim_value}, not of {batch}.", "Choose that batch.")
        first.dim_value = batch
    del graph.value_info[:]  # made for a batch of any size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _constants_to_initializers(graph: GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = next((attribute(node, name) for name in _CONSTANT_VALUES if attribute(node, name) is not None), None)
        if node.op_type != "Constant" or value is None:
            kept.append(node)
        elif isinstance(value, TensorProto):
            graph.initializer.add().CopyFrom(value)
            graph.initializer[-1].name = node.output[0]
        else:
            kind = np.int64 if "int" in node.attribute[0].name else np.float32
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), node.output[0]))
    _replace_nodes(graph, kept)


def _fold(model: ModelProto) -> None:
    """Compute what depends on constants and shapes only, as often as that makes more shapes known."""
    graph, values = model.graph, _small_values(model.graph)
    while True:
        tensors = _known_tensors(_inferred(model).graph)
        kept = []
        for node in graph.node:
            made = _computed(node, values, tensors, model)
            values.update(made)
            graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
            if not made:
                kept.append(node)
        if len(kept) == len(graph.node):
            return
        _replace_nodes(graph, kept)


def _computed(
    node: NodeProto, values: Mapping[str, Any], tensors: Mapping[str, Tensor], model: ModelProto
) -> dict[str, Any]:
    """The outputs of a node whose inputs are known, or of a Shape of a known shape; else nothing."""
    if node.op_type == "Shape" and node.input[0] in tensors:
        shape = tensors[node.input[0]].shape[attribute(node, "start", 0) : attribute(node, "end")]
        return {node.output[0]: np.asarray(shape, np.int64)}
    if node.domain or node.op_type in _KEPT or any(name not in values for name in node.input if name):
        return {}
    if any(tensors[name].elements > _FOLDED_ELEMENTS for name in node.output if name in tensors):
        return {}
    run = ReferenceEvaluator(node, opsets={entry.domain: entry.version for entry in model.opset_import})
    results = run.run(None, {name: values[name] for name in node.input if name})
    return {name: np.asarray(value) for name, value in zip(node.output, results, strict=True) if name}


def _small_values(graph: GraphProto) -> dict[str, Any]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL and math.prod(tensor.dims) <= _FOLDED_ELEMENTS
    }


def _inferred(model: ModelProto) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BabelRSError(f"The graph contradicts itself: {error}.", "Export it again.") from None


def _known_tensors(graph: GraphProto) -> dict[str, Tensor]:
    found = {tensor.name: Tensor(tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[value.name] = Tensor(tuple(dim.dim_value for dim in kind.shape.dim), kind.elem_type)
    return found


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
