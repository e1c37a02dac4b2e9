from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from compress.calibration import CalibrationImage, CalibrationSet
from compress.cpu_float_graph import cpu_float_graph
from compress.cpu_graphs import OnnxRuntimeCompressor
from compress.fake_quant import FakeQuantized
from compress.folding import folded
from compress.histogram import Histogram
from compress.integer_nodes import find_integer_nodes
from compress.qdq import channel_scales
from compress.ranges import SensorRanges, choose
from tests.compress.tiny_data import calibration_images, write_data
from tests.train.builders import random_detector, random_pixels, tiny_model, write_text_image
from train.checkpoint import Checkpoint
from train.data.soi_det import read_split
from train.evaluate import predict_samples
from train.models.detector import Detector

PIXELS_LAYER = "backbone.stem.stages.0.0.0"
"""The layer that reads pixels: its weights hold the normalisation, and have as many bands as the sensor."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    return random_detector(tiny_model(), 4)


@pytest.fixture(scope="module")
def checkpoint(detector: Detector) -> Checkpoint:
    return Checkpoint(detector.config, detector.classes, {sensor: DEFAULT_PROFILES[sensor] for sensor in Sensor})


@pytest.fixture(scope="module")
def compressor(detector: Detector, checkpoint: Checkpoint) -> OnnxRuntimeCompressor:
    return OnnxRuntimeCompressor(detector, checkpoint, calibration_images(), 2, threads=1)


@pytest.fixture(scope="module")
def histograms(compressor: OnnxRuntimeCompressor) -> dict[Sensor, dict[str, Histogram]]:
    return {sensor: compressor.observe(calibration_images(8), sensor) for sensor in Sensor}


@pytest.fixture(scope="module")
def ranges(histograms: dict[Sensor, dict[str, Histogram]]) -> SensorRanges:
    return choose("per-sensor", histograms, "max")


def test_no_result_depends_on_the_number_of_threads(
    detector: Detector, checkpoint: Checkpoint, compressor: OnnxRuntimeCompressor, ranges: SensorRanges, tmp_path: Path
) -> None:
    several = OnnxRuntimeCompressor(detector, checkpoint, calibration_images(), 2, threads=3)
    images, own = calibration_images(8), {Sensor.IR: ranges[Sensor.IR]}
    alone, together = (each.observe(images, Sensor.IR) for each in (compressor, several))
    assert (
        all((alone[point].counts == together[point].counts).all() for point in alone)
        and alone.keys() == together.keys()
    )
    assert compressor.errors(compressor.parts, own) == several.errors(compressor.parts, own)
    for number in range(7):
        write_text_image(tmp_path, Sensor.IR, "eval", f"i{number}", [], (70, 90))
    samples = read_split(tmp_path, [Sensor.IR], "eval")
    found = [each.predict(compressor.parts, own, True, samples).found for each in (compressor, several)]
    assert list(found[0]) == list(found[1]) and len(found[0]) == 7
    for name, detections in found[0].items():
        assert len(detections) and np.array_equal(detections.scores, found[1][name].scores)


def written(
    compressor: OnnxRuntimeCompressor, parts: Collection[str], ranges: SensorRanges, folder: Path
) -> dict[Sensor, ModelProto]:
    """What ``write_graphs`` wrote, checked, with its weights."""
    compressor.write_graphs(parts, ranges, False, folder)
    for sensor in Sensor:
        onnx.checker.check_model(folder / f"model.{sensor}.onnx")
    return {sensor: onnx.load(folder / f"model.{sensor}.onnx") for sensor in Sensor}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def graphs(compressor: OnnxRuntimeCompressor, ranges: SensorRanges, folder: Path) -> dict[Sensor, ModelProto]:
    """All parts INT8."""
    return written(compressor, compressor.parts, ranges, folder)


class Reading:
    """A graph by its layers: what their weights and inputs are quantized with."""

    def __init__(self, model: ModelProto) -> None:
        self.stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.producer = {name: node for node in model.graph.node for name in node.output}
        self.layers = {
            node.name: node
            for node in model.graph.node
            if node.op_type in ("Conv", "MatMul") and self._constant(node.input[1])
        }

    def _constant(self, name: str) -> bool:
        source = self.producer.get(name)
        return name in self.stored or (source is not None and source.input[0] in self.stored)

    def quantized(self, name: str) -> list[np.ndarray] | None:
        """Values, scale and zero point where a tensor comes from a ``DequantizeLinear``; activations have no values."""
        source: NodeProto | None = self.producer.get(name)
        if source is None or source.op_type != "DequantizeLinear":
            return None
        return [self.stored.get(each, np.zeros(0)) for each in source.input]

    def int8_layers(self) -> set[str]:
        return {name for name, node in self.layers.items() if self.quantized(node.input[1]) is not None}


def test_it_has_the_parts_and_weights_of_the_other_compressor(
    detector: Detector, compressor: OnnxRuntimeCompressor
) -> None:
    other = FakeQuantized(detector, half=False)
    assert compressor.parts == other.parts
    assert compressor.num_weights() == other.num_weights()


def test_histograms_are_those_of_the_simulation_where_both_look(
    detector: Detector, histograms: dict[Sensor, dict[str, Histogram]]
) -> None:
    simulated, compared = FakeQuantized(detector, half=False), 0
    for sensor in Sensor:
        expected = simulated.observe(calibration_images(8), sensor)
        graph = cpu_float_graph(folded(detector), sensor).graph
        points = find_integer_nodes(graph).points
        for node in graph.node:
            layer = node.input[1].removesuffix(".weight") if len(node.input) > 1 else ""
            if layer not in expected or layer == PIXELS_LAYER or layer.startswith("heads"):
                continue  # a head's layer sees every level: the graph has a tensor for each
            found, wanted = histograms[sensor][points[node.input[0]]], expected[layer]
            assert found.low == pytest.approx(wanted.low, rel=1e-4, abs=1e-5), layer
            assert found.high == pytest.approx(wanted.high, rel=1e-4, abs=1e-5), layer
            assert found.counts.sum() == wanted.counts.sum() and found.limit == wanted.limit, layer
            moved = np.abs(np.cumsum(found.counts) - np.cumsum(wanted.counts)).max()
            assert moved <= max(2.0, 2e-3 * wanted.counts.sum()), layer  # values at the edge of a bin
            compared += 1
    assert compared == 3 * 39


def test_a_head_s_levels_have_ranges_of_their_own(histograms: dict[Sensor, dict[str, Histogram]]) -> None:
    towers = [point for point in histograms[Sensor.IR] if "class_tower" in point and point.endswith("Conv")]
    assert len(towers) == 4 and len({histograms[Sensor.IR][point].high for point in towers}) == 4


def test_trunk_weights_are_the_same_bytes_for_all_sensors(graphs: dict[Sensor, ModelProto]) -> None:
    readings = {sensor: Reading(graph) for sensor, graph in graphs.items()}
    trunk = {name for name in readings[Sensor.RGB].layers if not name.startswith("heads")}
    assert len(trunk) == 40
    for name in trunk - {PIXELS_LAYER + ".Conv"}:
        found = [reading.quantized(reading.layers[name].input[1]) for reading in readings.values()]
        weights, scales = ({each[place].tobytes() for each in found if each} for place in (0, 1))
        assert len(found) == 3 and len(weights) == len(scales) == 1, name
        assert found[0] is not None and found[0][0].dtype == np.int8
    mono = [readings[sensor].layers[PIXELS_LAYER + ".Conv"].input[1] for sensor in (Sensor.SAR, Sensor.IR)]
    first, second = (
        readings[sensor].quantized(name) for sensor, name in zip((Sensor.SAR, Sensor.IR), mono, strict=True)
    )
    assert first is not None and second is not None and first[0].tobytes() == second[0].tobytes()


def test_activations_have_scales_of_their_own(graphs: dict[Sensor, ModelProto]) -> None:
    name = "backbone.blocks.0.attn.qkv.MatMul"
    scales = set()
    for graph in graphs.values():
        reading = Reading(graph)
        found = reading.quantized(reading.layers[name].input[0])
        assert found is not None
        scales.add(float(found[1]))
    assert len(scales) == 3


def test_weights_are_stored_once_and_small(
    compressor: OnnxRuntimeCompressor, graphs: dict[Sensor, ModelProto], folder: Path
) -> None:
    size = (folder / "weights.bin").stat().st_size
    int8 = sum(compressor.num_weights().values())
    assert int8 < size < 1.6 * int8 + 20_000  # scales, biases and points beside them


@pytest.mark.parametrize("part", ["stem 1", "stem 3", "block 2", "pyramid", "head ir"])
def test_only_the_chosen_part_is_int8(
    compressor: OnnxRuntimeCompressor, ranges: SensorRanges, tmp_path: Path, part: str
) -> None:
    places = {
        "stem 1": "backbone.stem.stages.0.", "stem 3": "backbone.stem.stages.2.", "block 2": "backbone.blocks.1.",
        "pyramid": "pyramid.", "head ir": "heads.ir.",
    }  # fmt: skip
    graphs = written(compressor, [part], ranges, tmp_path)
    for sensor in Sensor:
        reading = Reading(graphs[sensor])
        assert reading.int8_layers() == {name for name in reading.layers if name.startswith(places[part])}
        quantizers = [node for node in graphs[sensor].graph.node if node.op_type == "QuantizeLinear"]
        assert bool(quantizers) == (part != "head ir" or sensor is Sensor.IR)


def test_unknown_parts_are_refused(compressor: OnnxRuntimeCompressor, ranges: SensorRanges) -> None:
    with pytest.raises(ValueError, match="head xray"):
        compressor.errors(["head xray"], ranges)


def test_scale_and_zero_point_are_those_of_the_range(
    detector: Detector, compressor: OnnxRuntimeCompressor, ranges: SensorRanges, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    given = {
        sensor: {point: (-float(rng.uniform(0, 3)), float(rng.uniform(0.1, 5))) for point in found}
        for sensor, found in ranges.items()
    }
    graphs = written(compressor, compressor.parts, given, tmp_path)
    for sensor in Sensor:
        plain = cpu_float_graph(folded(detector), sensor).graph
        points = find_integer_nodes(plain).points
        inputs = {node.name: node.input[0] for node in plain.node}
        reading = Reading(graphs[sensor])
        for name, node in reading.layers.items():
            found = reading.quantized(node.input[0])
            assert found is not None, name
            if name.startswith(PIXELS_LAYER):
                assert float(found[1]) == 1.0 and found[2].dtype == np.uint8
                continue
            low, high = given[sensor][points[inputs[name]]]
            assert float(found[1]) == pytest.approx((high - low) / 255, rel=1e-6), name
            assert found[2].dtype == np.uint8 and int(found[2]) == round(-low * 255 / (high - low)), name


def test_weights_use_seven_bits_where_they_must(
    detector: Detector, checkpoint: Checkpoint, ranges: SensorRanges, graphs: dict[Sensor, ModelProto], tmp_path: Path
) -> None:
    full = OnnxRuntimeCompressor(detector, checkpoint, calibration_images(), 1, reduce_range=False, threads=1)
    for greatest, models in ((64, graphs), (127, written(full, full.parts, ranges, tmp_path))):
        for model in models.values():
            reading = Reading(model)
            found = [reading.quantized(reading.layers[name].input[1]) for name in reading.int8_layers()]
            magnitudes = [np.abs(each[0].astype(int)).max() for each in found if each]
            assert set(magnitudes) == {greatest}


def run(model: ModelProto, pixels: np.ndarray, fused: bool) -> list[np.ndarray]:
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(["boxes", "scores", "labels"], {"pixels": pixels}))


@pytest.mark.parametrize("sensor", list(Sensor))
def test_integer_kernels_give_what_the_graph_says(graphs: dict[Sensor, ModelProto], sensor: Sensor) -> None:
    """Against the same graph unfused, in float: with 7-bit weights sums overflow on no CPU."""
    height, width = tiny_model().input_px.of(sensor)
    pixels = random_pixels((2, height, width, sensor.num_channels), 9).numpy()
    exact, found = run(graphs[sensor], pixels, fused=False), run(graphs[sensor], pixels, fused=True)
    np.testing.assert_allclose(found[1], exact[1], atol=5e-3)  # equal here; elsewhere a tie may round the other way
    assert np.median(np.abs(found[0] - exact[0])) < 0.05


def test_int8_is_near_float_and_only_where_it_is_used(compressor: OnnxRuntimeCompressor, ranges: SensorRanges) -> None:
    nothing = compressor.errors([], ranges)
    assert all(0 <= error < 5e-3 for error in nothing.values())
    whole = compressor.errors(compressor.parts, ranges)
    assert all(nothing[sensor] < whole[sensor] < 0.25 for sensor in Sensor)
    tight = {Sensor.SAR: {point: (low / 4, high / 4) for point, (low, high) in ranges[Sensor.SAR].items()}}
    clipped = compressor.errors(["head sar", "pyramid"], tight)
    assert clipped.keys() == {Sensor.SAR} and clipped[Sensor.SAR] > 1.5 * whole[Sensor.SAR]


def test_another_sensor_s_images_pass_with_channels_and_size_made_to_fit(
    compressor: OnnxRuntimeCompressor, histograms: dict[Sensor, dict[str, Histogram]]
) -> None:
    images = calibration_images(2)
    found = compressor.observe(images, Sensor.RGB, through=Sensor.SAR)
    assert found.keys() == histograms[Sensor.SAR].keys()
    seen = np.zeros((2, 96, 64), np.uint8)  # RGB is 64 x 96 there
    grey = np.stack([image.pixels for image in images.images[Sensor.RGB]]).astype(float).mean(-1)
    seen[:, :64] = np.rint(grey)[:, :, :64]
    by_hand = CalibrationSet(
        {Sensor.SAR: tuple(CalibrationImage(str(n), "0" * 64, each[..., None]) for n, each in enumerate(seen))}
    )
    expected = compressor.observe(by_hand, Sensor.SAR)
    for point, histogram in expected.items():
        np.testing.assert_array_equal(found[point].counts, histogram.counts)


def test_nan_is_traced_to_tensor_and_image(detector: Detector, checkpoint: Checkpoint) -> None:
    broken = folded(detector)
    with torch.no_grad():
        broken.backbone.blocks[1].mlp.fc1.bias.fill_(float("nan"))
    compressor = OnnxRuntimeCompressor(broken, checkpoint, calibration_images(), 1, threads=1)
    with pytest.raises(BabelRSError, match=r"backbone\.blocks\.1\.mlp\..* holds NaN .* for the sar image sar0"):
        compressor.observe(calibration_images(2), Sensor.SAR)


def test_predictions_are_the_graphs_through_the_engine(
    detector: Detector, checkpoint: Checkpoint, compressor: OnnxRuntimeCompressor, ranges: SensorRanges, tmp_path: Path
) -> None:
    samples = read_split(write_data(tmp_path), list(Sensor), "eval")
    wanted = predict_samples(detector, checkpoint, samples)
    exact = compressor.predict([], {}, False, samples)
    assert exact.truth.keys() == wanted.truth.keys() == wanted.found.keys() == exact.found.keys()
    for name, detections in wanted.found.items():
        np.testing.assert_allclose(exact.found[name].scores, detections.scores, atol=1e-3)
    for parts, half in (([], True), (list(compressor.parts), True)):
        rounded = compressor.predict(parts, ranges, half, samples)
        changes = [
            np.abs(rounded.found[name].scores[:5] - found.scores[:5]).max() for name, found in wanted.found.items()
        ]
        assert 0 < max(changes) < (0.3 if parts else 0.02)  # of a random model, whose scores say little


def test_the_same_model_gives_the_same_bytes(
    detector: Detector,
    checkpoint: Checkpoint,
    ranges: SensorRanges,
    graphs: dict[Sensor, ModelProto],
    folder: Path,
    tmp_path: Path,
) -> None:
    again = OnnxRuntimeCompressor(detector, checkpoint, calibration_images(), 1, threads=1)
    again.write_graphs(again.parts, ranges, False, tmp_path)
    files = sorted(file.name for file in folder.iterdir())
    assert files == ["model.ir.onnx", "model.rgb.onnx", "model.sar.onnx", "weights.bin"]
    for name in files:
        content = (folder / name).read_bytes()
        assert content == (tmp_path / name).read_bytes()
        assert b"/tmp/" not in content and b".py" not in content


def test_the_graph_is_for_every_engine_of_the_field(graphs: dict[Sensor, ModelProto]) -> None:
    for model in graphs.values():
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17, "babelrs": 1}
        assert model.ir_version <= 9 and model.producer_name == "babelrs"
        assert [function.name for function in model.functions] == ["LayerwiseAggregate"]
        assert {node.domain for node in model.graph.node} == {"", "babelrs"}
        types = {tensor.data_type for tensor in model.graph.initializer}
        assert TensorProto.INT8 in types and TensorProto.UINT8 in types and TensorProto.INT32 in types


def test_a_weak_channel_shares_the_step_of_stronger_ones() -> None:
    """A step of its own would be so small that the bias, in steps, overflows int32."""
    weight = np.array([[0.5, -1.0], [1e-12, 0.0], [0.0, 0.0]], np.float32)
    steps = channel_scales(weight, 0, 64)
    assert steps[0] == pytest.approx(1 / 64) and steps[1] == steps[2] and 1e-6 < steps[1] < 1e-4
    assert (channel_scales(np.zeros((3, 2), np.float32), 0, 64) == 1).all()
