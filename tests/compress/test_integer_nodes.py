from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from babelrs.sensors import Sensor
from compress.cpu_float_graph import cpu_float_graph
from compress.folding import folded
from compress.integer_nodes import IntegerNodes, find_integer_nodes
from compress.pixel_input import PIXEL_ZERO
from compress.qdq import prepared, quantize
from tests.train.builders import random_detector, tiny_backbone, tiny_model


@pytest.fixture(scope="module")
def conv_vit() -> IntegerNodes:
    detector = folded(random_detector(tiny_model(), 4))
    return find_integer_nodes(cpu_float_graph(detector, Sensor.IR).graph)


def test_a_part_holds_its_layers_and_what_lies_between_them(conv_vit: IntegerNodes) -> None:
    stem = "backbone.stem.stages.2"
    assert conv_vit.chosen(["stem 3"]) == [
        f"{stem}.0.0.Conv", f"{stem}.0.2.Sigmoid", f"{stem}.0.2.Mul",
        f"{stem}.1.body.0.0.Conv", f"{stem}.1.body.0.2.Sigmoid", f"{stem}.1.body.0.2.Mul",
        f"{stem}.1.body.1.0.Conv", f"{stem}.1.body.1.2.Sigmoid", f"{stem}.1.body.1.2.Mul",
        f"{stem}.1.Add",
    ]  # fmt: skip
    assert conv_vit.chosen([]) == conv_vit.chosen(["head rgb"]) == []


def test_transformer_blocks_keep_their_stream_in_float(conv_vit: IntegerNodes) -> None:
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert conv_vit.chosen(["block 2"]) == [f"backbone.blocks.1.{layer}.MatMul" for layer in layers]


def test_points_are_where_values_are_computed(conv_vit: IntegerNodes) -> None:
    points = conv_vit.quantization_points()
    assert len(points) == len(set(points))
    kinds = {point.rsplit(".", 1)[1].rstrip("_0123456789:") for point in points}
    assert kinds == {"Conv", "Mul", "Add", "LayerNormalization", "MatMul", "LayerwiseAggregate"}
    assert not any("stages.0.0.0.Conv." in point or point.endswith("Sigmoid") for point in points)


def test_patches_of_pixels_stay_the_bytes_they_are() -> None:
    """A patch embedding becomes a matrix product of pixels: nothing is measured, nothing rounded."""
    backbone = tiny_backbone(name="vit_tiny_patch16_224", taps=(1,), stem_widths=(8, 8, 8), stem_blocks=(0, 0, 0))
    graph = cpu_float_graph(folded(random_detector(tiny_model(backbone=backbone), 5, spread=0.1)), Sensor.RGB)
    nodes = find_integer_nodes(graph.graph)
    (patches,) = nodes.chosen(["patches"])
    assert patches.endswith("MatMul")
    model = quantize(prepared(graph), [patches], nodes.ranges([patches], {}), True)
    producer = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (product,) = [node for node in model.graph.node if node.name == patches]
    source = producer[product.input[0]]
    assert source.op_type == "DequantizeLinear"
    assert float(stored[source.input[1]]) == 1.0 and stored[source.input[2]] == np.uint8(PIXEL_ZERO)
