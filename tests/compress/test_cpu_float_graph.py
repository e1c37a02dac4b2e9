from __future__ import annotations

import pytest
import torch

from babelrs.sensors import Sensor
from compress.cpu_float_graph import WEIGHT, cpu_float_graph, dotted, layers_of
from compress.folding import folded
from compress.graph_session import raw_outputs_from
from compress.integer_nodes import find_integer_nodes
from compress.output_error import raw_outputs_of
from compress.parts import part_of, serves
from tests.train.builders import CLASSES, random_detector, random_pixels, tiny_backbone, tiny_model
from tests.train.models.vits import tiny_internvit
from train.config import BackboneConfig
from train.models.detector import Detector

BACKBONES: dict[str, BackboneConfig] = {
    "conv_vit": tiny_backbone(),
    "timm": tiny_backbone(
        name="vit_tiny_patch16_224", taps=(1, 3), stem_widths=(8, 8, 8), stem_blocks=(0, 0, 0), drop_path=0.0
    ),
    "internvit": tiny_internvit(patch_px=16, image_px=64),
}


def detector_of(name: str) -> Detector:
    return folded(random_detector(tiny_model(backbone=BACKBONES[name]), 5, spread=0.1))


@pytest.mark.parametrize("name", BACKBONES)
def test_the_rewritten_graph_computes_the_detector_s_raw_outputs(name: str) -> None:
    detector = detector_of(name)
    for sensor in Sensor:
        graph = cpu_float_graph(detector, sensor)
        pixels = random_pixels((2, *detector.config.input_px.of(sensor), sensor.num_channels), 4)
        with torch.no_grad():
            wanted = raw_outputs_of(detector)(sensor, pixels)
        found = raw_outputs_from({sensor: graph}, 1)(sensor, pixels)
        assert (found.directions is None) == (sensor is Sensor.SAR)
        for kind in ("logits", "distributions", "directions"):
            exact = getattr(wanted, kind)
            if exact is not None:
                torch.testing.assert_close(getattr(found, kind), exact, rtol=1e-3, atol=2e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_of_the_sensor_is_named_by_its_module(name: str) -> None:
    detector = detector_of(name)
    graph = cpu_float_graph(detector, Sensor.SAR).graph
    weighted = {
        node.input[1].removesuffix(WEIGHT): node.name
        for node in graph.node
        if node.op_type in ("Conv", "MatMul") and node.input[1].endswith(WEIGHT)
    }
    assert weighted.keys() == {layer for layer in layers_of(detector) if serves(part_of(layer), Sensor.SAR)}
    assert all(part_of(layer) == part_of(node) or "vit." in layer for layer, node in weighted.items())


def test_layers_of_equal_parameters_each_hold_their_own() -> None:
    """As in a model that was never trained, whose biases are all zero: the exporter stores them once."""
    torch.manual_seed(3)
    detector = folded(Detector(tiny_model(), CLASSES))
    with torch.no_grad():
        for layer in layers_of(detector).values():
            if layer.bias is not None:
                layer.bias.fill_(0.25)
    graph = cpu_float_graph(detector, Sensor.IR).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "Identity" and node.input[0] in stored]
    assert find_integer_nodes(graph).quantization_points()


def test_what_the_graph_keeps_and_what_it_no_longer_holds() -> None:
    graph = cpu_float_graph(detector_of("conv_vit"), Sensor.RGB)
    used = [node.op_type for node in graph.graph.node]
    assert used.count("LayerwiseAggregate") == 1 and [function.name for function in graph.functions] == [
        "LayerwiseAggregate"
    ]
    assert not {"Resize", "Constant", "Sub"} & {node.op_type for node in graph.graph.node[:20]} and "Resize" not in used
    heads = [node for node in graph.graph.node if node.op_type in ("Conv", "MatMul") and ".classify" in node.name]
    assert {node.op_type for node in heads} == {"MatMul"} and len(heads) == 4


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("/backbone/stem/stages.2/stages.2.1/body/body.0/body.0.2/Mul", "backbone.stem.stages.2.1.body.0.2.Mul"),
        ("/backbone/blocks.0/attn/qkv/MatMul", "backbone.blocks.0.attn.qkv.MatMul"),
        ("/pyramid/Add_3", "pyramid.Add_3"),
        ("/ir/shared/shared.0_1/Conv", "heads.ir.shared.0_1.Conv"),
        ("/TopK", "TopK"),
    ],
)
def test_scopes_of_the_exporter_become_names_of_modules(scope: str, expected: str) -> None:
    assert dotted(scope) == expected
