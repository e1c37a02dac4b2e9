from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from babelrs.boxes import to_corners
from babelrs.sensors import Sensor
from compress.export import export_graph
from tests.train.builders import CLASSES, random_detector, random_pixels, tiny_backbone, tiny_model
from tests.train.models.vits import tiny_internvit
from train.config import ModelConfig
from train.models.detector import Detector, SensorDetector

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]
SCORE_LIMIT, BOX_LIMIT_PX = 1e-3, 0.05


def run_onnx(graph: onnx.ModelProto, pixels: torch.Tensor) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 2
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"pixels": pixels.numpy()})
    return boxes, scores, labels


def run_torch(detector: Detector, sensor: Sensor, pixels: torch.Tensor) -> Arrays:
    with torch.no_grad():
        outputs = SensorDetector(detector, sensor, detector.config.max_detections).eval()(pixels)
    boxes, scores, labels = (output.numpy() for output in outputs)
    return boxes, scores, labels


def corner_distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    first, second = to_corners(a[None])[0], to_corners(b[None])[0]
    return float(min(np.linalg.norm(first - np.roll(second, shift, 0), axis=1).max() for shift in range(4)))


def assert_same_detections(wanted: Arrays, found: Arrays) -> int:
    """Equal within the limits; candidates of almost equal score may swap places. Returns how many cannot."""
    clear_places = 0
    for boxes, scores, labels, other_boxes, other_scores, other_labels in zip(*wanted, *found, strict=True):
        np.testing.assert_allclose(other_scores, scores, atol=SCORE_LIMIT, rtol=0)
        for index, score in enumerate(scores):
            close = np.flatnonzero(np.abs(other_scores - score) <= SCORE_LIMIT)
            clear = (np.abs(np.delete(scores, index) - score) > 2 * SCORE_LIMIT).all() and len(close) == 1
            if not clear and abs(score - scores[-1]) <= 2 * SCORE_LIMIT:
                continue  # among the last, others may have been cut off
            places = [index] if clear else close.tolist()
            clear_places += clear
            assert any(
                other_labels[place] == labels[index]
                and corner_distance(other_boxes[place], boxes[index]) <= BOX_LIMIT_PX
                for place in places
            ), (index, score)
    return clear_places


@pytest.fixture(scope="module", params=list(Sensor), ids=str)
def exported(request: pytest.FixtureRequest) -> tuple[Sensor, Detector, onnx.ModelProto]:
    detector = random_detector(tiny_model(), 2)
    return request.param, detector, export_graph(detector, request.param)


Exported = tuple[Sensor, Detector, onnx.ModelProto]


def test_the_graph_has_the_designed_inputs_and_outputs(exported: Exported) -> None:
    sensor, detector, graph = exported
    height, width = detector.config.input_px.of(sensor)
    described = [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert described == [
        ("pixels", TensorProto.UINT8, ["N", height, width, sensor.num_channels]),
        ("boxes", TensorProto.FLOAT, ["N", 24, 5]),
        ("scores", TensorProto.FLOAT, ["N", 24]),
        ("labels", TensorProto.INT32, ["N", 24]),
    ]


def test_the_graph_is_valid_opset_17_with_one_aggregation_as_a_local_function(exported: Exported) -> None:
    _, detector, graph = exported
    onnx.checker.check_model(graph, full_check=False)
    assert {entry.domain: entry.version for entry in graph.opset_import} == {"": 17, "babelrs": 1}
    assert graph.ir_version <= 9  # the oldest engines in the field read no newer
    custom = [node for node in graph.graph.node if node.domain not in ("", "ai.onnx")]
    assert [(node.domain, node.op_type) for node in custom] == [("babelrs", "LayerwiseAggregate")]
    assert len(custom[0].output) == 4 and len(custom[0].input) == 2 + 3
    assert [(function.domain, function.name) for function in graph.functions] == [("babelrs", "LayerwiseAggregate")]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in custom[0].attribute}
    assert attributes["prefix_tokens"] == 0 and attributes["epsilon"] == pytest.approx(1e-6)
    assert (attributes["height"], attributes["width"]) in [(2, 3), (3, 2), (2, 2)]
    assert set(graph.functions[0].attribute) == set(attributes)
    assert detector.config.max_detections == 24


def test_the_aggregation_says_what_tensorrt_s_parser_needs_to_make_the_plugin_of_it(exported: Exported) -> None:
    (node,) = [node for node in exported[2].graph.node if node.domain == "babelrs"]
    types = {attribute.name: attribute.type for attribute in node.attribute}
    numbers = dict.fromkeys(("prefix_tokens", "height", "width", "num_levels"), onnx.AttributeProto.INT)
    names = dict.fromkeys(("plugin_namespace", "plugin_version"), onnx.AttributeProto.STRING)
    assert types == {**numbers, **names, "epsilon": onnx.AttributeProto.FLOAT}
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes["num_levels"] == len(node.output)
    assert (attributes["plugin_namespace"], attributes["plugin_version"]) == (b"babelrs", b"1")
    parameters = {tensor.name: tensor for tensor in exported[2].graph.initializer}
    assert [parameters[name].data_type for name in node.input[-3:]] == [TensorProto.FLOAT] * 3


def test_the_graph_needs_no_operator_that_engines_lack(exported: Exported) -> None:
    used = {node.op_type for node in exported[2].graph.node}
    assert not used & {"GridSample", "RoiAlign", "NonMaxSuppression", "NonZero", "Loop", "If", "Scan", "Unique"}


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_gives_pytorch_s_detections(exported: Exported, batch: int) -> None:
    sensor, detector, graph = exported
    pixels = random_pixels((batch, *detector.config.input_px.of(sensor), sensor.num_channels), 10 + batch)
    wanted, found = run_torch(detector, sensor, pixels), run_onnx(graph, pixels)
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int32]
    assert [array.shape for array in found] == [(batch, 24, 5), (batch, 24), (batch, 24)]
    assert (np.diff(found[1], axis=1) <= 0).all()
    assert assert_same_detections(wanted, found) >= 5 * batch, "the model is too even to tell candidates apart"
    assert len(np.unique(wanted[0][..., 2].round(1))) > 5


def test_an_image_s_detections_do_not_depend_on_its_batch(exported: Exported) -> None:
    sensor, detector, graph = exported
    pixels = random_pixels((3, *detector.config.input_px.of(sensor), sensor.num_channels), 21)
    together = run_onnx(graph, pixels)
    for index in range(3):
        alone = run_onnx(graph, pixels[index : index + 1])
        assert_same_detections(alone, tuple(array[index : index + 1] for array in together))  # type: ignore[arg-type]


def test_exporting_twice_gives_the_same_bytes_and_leaves_the_detector_alone(exported: Exported) -> None:
    sensor, detector, graph = exported
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    again = export_graph(detector, sensor)
    assert again.SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in detector.state_dict().items())
    assert all(block.attn.fused_attn for block in detector.backbone.blocks)  # type: ignore[union-attr]


def test_nothing_in_the_graph_names_the_machine(exported: Exported, repository: object) -> None:
    content = exported[2].SerializeToString()
    for text in (str(repository), "/tmp/", ".py"):
        assert text.encode() not in content


def test_an_untrained_model_exports_as_well() -> None:
    """All its scores are nearly equal, and all its boxes are squares."""
    torch.manual_seed(0)
    detector = Detector(tiny_model(), CLASSES).eval()
    pixels = random_pixels((2, 64, 64, 1), 0)
    found = run_onnx(export_graph(detector, Sensor.IR), pixels)
    assert_same_detections(run_torch(detector, Sensor.IR, pixels), found)
    assert np.isfinite(found[0]).all() and np.abs(found[1] - 0.01).max() < 0.01


def test_a_model_with_fewer_points_than_detections_says_how_many_it_gives() -> None:
    detector = random_detector(tiny_model(max_detections=200), 7)
    graph = export_graph(detector, Sensor.IR)
    declared = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim][1] for o in graph.graph.output}
    assert declared == {"boxes": 85, "scores": 85, "labels": 85}
    assert run_onnx(graph, random_pixels((1, 64, 64, 1), 0))[0].shape == (1, 85, 5)


def timm_config() -> ModelConfig:
    backbone = tiny_backbone(
        name="vit_tiny_patch16_224", taps=(1, 3), stem_widths=(8, 8, 8), stem_blocks=(0, 0, 0), drop_path=0.0
    )
    return tiny_model(backbone=backbone)


def test_a_timm_backbone_exports_with_its_prefix_token_dropped() -> None:
    detector = random_detector(timm_config(), 5, spread=0.1)
    graph = export_graph(detector, Sensor.RGB)
    (call,) = [node for node in graph.graph.node if node.domain == "babelrs"]
    assert {a.name: a.i for a in call.attribute if a.name == "prefix_tokens"} == {"prefix_tokens": 1}
    pixels = random_pixels((2, 64, 96, 3), 1)
    assert_same_detections(run_torch(detector, Sensor.RGB, pixels), run_onnx(graph, pixels))


def test_an_internvit_exports_at_each_sensor_s_size_with_its_positions_resampled_beforehand() -> None:
    detector = random_detector(tiny_model(backbone=tiny_internvit(patch_px=16, image_px=64)), 5, spread=0.1)
    for sensor, size in ((Sensor.RGB, (64, 96)), (Sensor.IR, (64, 64))):
        graph = export_graph(detector, sensor)
        resizes = [node for node in graph.graph.node if node.op_type == "Resize"]
        assert resizes and {a.s for node in resizes for a in node.attribute if a.name == "mode"} == {b"nearest"}
        pixels = random_pixels((2, *size, sensor.num_channels), 1)
        assert_same_detections(run_torch(detector, sensor, pixels), run_onnx(graph, pixels))
