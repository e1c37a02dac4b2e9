"""Graphs for TensorRT: checked by ONNX, run by ONNX Runtime, and built by NVIDIA's own parser and builder (RTX)."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from babelrs.images import read_frame
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from compress.calibration import CalibrationConfig, read_calibration
from compress.config import QuantizeConfig
from compress.parity import compare
from compress.parts import is_head
from compress.ranges import SensorRanges, choose
from compress.selftests import entry_of
from compress.tensorrt_graphs import TensorRTCompressor
from runtime.engines.onnx_edit import without_quantization
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.pipeline import Detector, Stopwatch
from tests.compress.tiny_data import calibration_images
from tests.train.builders import CLASSES, random_detector, tiny_model
from train.checkpoint import Checkpoint, load_checkpoint
from train.data.soi_det import read_split

Model = tuple[TensorRTCompressor, SensorRanges, Path]


def built(folder: Path, choose_parts: Any, wide_norms: bool = False) -> Model:
    """A random tiny model's graphs, with the chosen of its parts in INT8."""
    detector = random_detector(tiny_model(), 4)
    checkpoint = Checkpoint(detector.config, CLASSES, dict(DEFAULT_PROFILES))
    images = calibration_images(8)
    compressor = TensorRTCompressor(detector, checkpoint, images, 2, wide_norms)
    ranges = choose("per-sensor", {sensor: compressor.observe(images, sensor) for sensor in Sensor}, "max")
    folder.mkdir()
    compressor.write_graphs([part for part in compressor.parts if choose_parts(part)], ranges, True, folder)
    return compressor, ranges, folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return built(tmp_path_factory.mktemp("graphs") / "mixed", lambda part: not is_head(part))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return built(tmp_path_factory.mktemp("graphs") / "whole", lambda part: True)


def graph_of(model: Model, sensor: Sensor) -> onnx.ModelProto:
    return onnx.load(model[2] / f"model.{sensor}.onnx")


def int8_weights(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    tensors = [tensor for tensor in graph.graph.initializer if tensor.data_type == TensorProto.INT8]
    return {tensor.name: tuple(tensor.dims) for tensor in tensors if len(tensor.dims) > 1}


@pytest.mark.parametrize("sensor", list(Sensor))
def test_graphs_are_valid_and_run_from_one_weight_file(mixed: Model, sensor: Sensor) -> None:
    onnx.checker.check_model(str(mixed[2] / f"model.{sensor}.onnx"), full_check=False)
    assert sorted(path.name for path in mixed[2].iterdir()) == [
        "model.ir.onnx", "model.rgb.onnx", "model.sar.onnx", "weights.bin",
    ]  # fmt: skip
    graph = graph_of(mixed, sensor)
    assert [function.name for function in graph.functions] == ["LayerwiseAggregate"]
    assert next(entry.version for entry in graph.opset_import if entry.domain == "") <= 20


def test_weights_of_the_trunk_are_the_same_for_all_sensors(mixed: Model) -> None:
    stored = {}
    for sensor in Sensor:
        for tensor in graph_of(mixed, sensor).graph.initializer:
            if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
                stored.setdefault(tuple(tensor.dims) + tuple(tensor.raw_data[:64]), set()).add(sensor)
    assert stored and all(len(sensors) == 3 for sensors in stored.values())  # heads are float16 here


def test_scales_of_activations_are_the_sensor_s_own(mixed: Model) -> None:
    scales = {}
    for sensor in Sensor:
        graph = graph_of(mixed, sensor).graph
        constants = {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
        node = next(n for n in graph.node if n.op_type == "QuantizeLinear" and "blocks.1/attn/qkv" in n.name)
        scale = onnx.numpy_helper.to_array(constants[node.input[1]], str(mixed[2]))
        assert scale.dtype == np.float16
        low, high = mixed[1][sensor]["backbone.blocks.1.attn.qkv"]
        assert float(scale) == pytest.approx(max(-low, high) / 127, rel=1e-3)
        scales[sensor] = float(scale)
    assert len(set(scales.values())) == 3


@pytest.mark.parametrize("sensor", list(Sensor))
def test_onnx_runtime_finds_what_the_simulation_finds(
    trained: Path, drawn: Path, tmp_path: Path, sensor: Sensor
) -> None:
    detector, checkpoint = load_checkpoint(trained)
    samples = read_split(drawn, [sensor], "train")[sensor] + read_split(drawn, [sensor], "eval")[sensor]
    profiles, input_px = {sensor: checkpoint.profiles[sensor]}, {sensor: checkpoint.model.input_px.of(sensor)}
    images = read_calibration(CalibrationConfig(), drawn, profiles, input_px, {})
    only = dataclasses.replace(checkpoint, classes={sensor: checkpoint.classes[sensor]}, profiles=profiles)
    compressor = TensorRTCompressor(detector, only, images, 2)
    ranges = {sensor: choose("per-sensor", {sensor: compressor.observe(images, sensor)}, "max")[sensor]}
    parts = [part for part in compressor.parts if not is_head(part)]
    expected = compressor.predict(parts, ranges, True, {sensor: samples}).found
    compressor.write_graphs(parts, ranges, True, tmp_path)
    config = QuantizeConfig(checkpoint=trained, precision="fp16")
    engine = OnnxRuntimeEngine(tmp_path, entry_of(config, checkpoint, sensor))
    runner = Detector(engine, entry_of(config, checkpoint, sensor), sensor, 0.02)
    found = {sample.name: runner.detect(read_frame(sample.path), Stopwatch())[0] for sample in samples}
    parity = compare((expected[name], found[name]) for name in expected)
    # Where two boxes of one object score alike, float16's rounding decides which is kept: here up to two of 64.
    assert parity.of >= len(samples) and parity.share > 0.95, parity


def build_engine(path: Path) -> tuple[bytes, Any]:
    """A strongly typed engine for Ampere GPUs, built without one; and the network's layers by type."""
    trt = pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX wheels are not installed")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    shape = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape("pixels", (1, *shape), (2, *shape), (4, *shape))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return bytes(engine), {network.get_output(i).name: network.get_output(i).dtype.name for i in range(3)}


def int8_constants(engine: bytes) -> list[tuple[int, ...]]:
    """Shapes of the int8 tensors that the engine's own listing of its layers holds."""
    found = re.findall(rb"tensor=\{[^\n]*?const_payload_size[^\n]*?dims=\{ ([0-9 ]+)\}[^\n]*?type=int8 \}", engine)
    return [tuple(map(int, dims.split())) for dims in found]


@pytest.mark.parametrize("sensor", list(Sensor))
@pytest.mark.parametrize("kind", ["mixed", "whole"])
def test_tensorrt_builds_every_graph_with_int8_layers(
    request: pytest.FixtureRequest, sensor: Sensor, kind: str
) -> None:
    model: Model = request.getfixturevalue(kind)
    engine, types = build_engine(model[2] / f"model.{sensor}.onnx")
    assert types == {"boxes": "FLOAT", "scores": "FLOAT", "labels": "INT32"}
    sizes = sorted(int(np.prod(dims)) for dims in int8_constants(engine))
    wanted = [int(np.prod(dims)) for dims in int8_weights(graph_of(model, sensor)).values()]
    # the first convolution's three input channels are padded to four; equal weights may be stored once
    assert len(sizes) >= 0.8 * len(wanted), (sizes, wanted)
    assert len(set(wanted) - set(sizes)) <= 1


def test_the_float16_form_that_a_device_makes_of_an_int8_graph_builds_without_int8(
    mixed: Model, tmp_path: Path
) -> None:
    shutil.copy(mixed[2] / "weights.bin", tmp_path)
    stored = (mixed[2] / "model.sar.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(without_quantization(stored, mixed[2]))
    onnx.checker.check_model(str(tmp_path / "half.onnx"), full_check=True)
    engine, types = build_engine(tmp_path / "half.onnx")
    assert types == {"boxes": "FLOAT", "scores": "FLOAT", "labels": "INT32"} and not int8_constants(engine)


def test_without_int8_parts_no_weight_is_int8(tmp_path: Path) -> None:
    model = built(tmp_path / "half", lambda part: False)
    graph = graph_of(model, Sensor.IR)
    assert not int8_weights(graph)
    floats = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 4}
    assert floats == {TensorProto.FLOAT16}
    engine, _ = build_engine(model[2] / "model.ir.onnx")
    assert not int8_constants(engine)


def test_tensorrt_takes_norms_in_float32_within_a_float16_graph(mixed: Model, tmp_path: Path) -> None:
    wide = built(tmp_path / "wide", lambda part: not is_head(part), wide_norms=True)
    casts = [sum(node.op_type == "Cast" for node in graph_of(each, Sensor.SAR).graph.node) for each in (mixed, wide)]
    assert casts[1] > casts[0]
    engine, _ = build_engine(wide[2] / "model.sar.onnx")
    assert int8_constants(engine)


def test_weights_shrink_with_their_precision(mixed: Model, whole: Model, tmp_path: Path) -> None:
    (tmp_path / "float").mkdir()
    mixed[0].write_graphs((), {}, False, tmp_path / "float")
    sizes = [(folder / "weights.bin").stat().st_size for folder in (tmp_path / "float", mixed[2], whole[2])]
    assert sizes[1] < 0.5 * sizes[0] and sizes[2] < sizes[1]
