from __future__ import annotations

import json
from pathlib import Path

import pytest

from babelrs.bundle import write_manifest, write_selftest
from babelrs.errors import BabelRSError, run_command
from babelrs.manifest import Manifest
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from benchmarks.cpu_int8 import WARM_UP, cpu, in_turn, main, summary
from compress.entries import sensor_entry
from compress.float_graphs import write_float_graphs
from compress.selftests import from_engine
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from tests.train.builders import random_detector, random_pixels, tiny_model
from train.checkpoint import Checkpoint


def write_bundle(folder: Path, sensors: tuple[Sensor, ...]) -> Path:
    """A float bundle of the tiny model."""
    detector = random_detector(tiny_model(), 3)
    checkpoint = Checkpoint(detector.config, detector.classes, {sensor: DEFAULT_PROFILES[sensor] for sensor in Sensor})
    folder.mkdir()
    write_float_graphs(detector, sensors, False, folder)
    entries = {sensor: sensor_entry(checkpoint, sensor, "fp32", 0.3) for sensor in sensors}
    for entry in entries.values():
        pixels = random_pixels((1, entry.input_height, entry.input_width, entry.channels), 0).numpy()
        write_selftest(folder / entry.selftest, from_engine(OnnxRuntimeEngine(folder, entry, 1), pixels))
    write_manifest(folder, Manifest("tiny", "cpu-x86", detector.config.backbone.taps, detector.config.strides, entries))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "two", (Sensor.SAR, Sensor.IR))


def test_runs_take_turns_and_the_first_rounds_do_not_count() -> None:
    order: list[str] = []
    wall, process = in_turn({"float32": lambda: order.append("f"), "int8": lambda: order.append("i")}, 3)
    assert "".join(order) == "fi" * (WARM_UP + 3)
    assert {name: len(values) for name, values in {**wall, **process}.items()} == {"float32": 3, "int8": 3}


def test_ratios_are_those_of_medians_and_of_the_least() -> None:
    found = summary({"float32": [4.0, 5.0, 90.0], "int8": [1.0, 2.0, 80.0]})
    assert found["median_ms"] == {"float32": 5.0, "int8": 2.0} and found["ratio"] == 0.4
    assert found["least_ms"] == {"float32": 4.0, "int8": 1.0} and found["least_ratio"] == 0.25


def test_the_command_writes_a_line_a_sensor_and_the_sizes(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "cpu.json"
    arguments = ["--float32", str(bundle), "--int8", str(bundle), "--rounds", "2", "--out", str(out)]
    assert run_command(main, arguments) == 0
    record = json.loads(out.read_text())
    assert record["schema"] == "babelrs.cpu-int8/1" and (record["threads"], record["rounds"]) == (1, 2)
    files = [bundle / name for name in ("model.sar.onnx", "model.ir.onnx", "weights.bin")]
    size = sum(file.stat().st_size for file in files)
    assert record["bytes"] == {"float32": size, "int8": size, "ratio": 1.0}
    assert {name: each["input"] for name, each in record["sensors"].items()} == {"sar": [96, 64, 1], "ir": [64, 64, 1]}
    for each in record["sensors"].values():
        assert each["median_ms"]["int8"] > 0 and each["process"]["least_ms"]["float32"] > 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == [*record["sensors"], "bytes"]


def test_bundles_of_other_sensors_are_not_compared(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_bundle(tmp_path / "one", (Sensor.IR,))
    assert run_command(main, ["--float32", str(bundle), "--int8", str(other), "--out", str(tmp_path / "x")]) == 2
    assert "serve" in capsys.readouterr().err and not (tmp_path / "x").exists()
    with pytest.raises(BabelRSError):
        main(["--float32", str(bundle), "--int8", str(other)])


def test_the_cpu_says_how_it_multiplies_bytes(tmp_path: Path) -> None:
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text(
        "model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n"
    )
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert cpu(x86) == {"name": "A CPU", "features": ["avx2", "avx512_vnni"]}
    assert cpu(arm)["features"] == ["asimddp", "i8mm"]
    assert cpu(tmp_path / "none") == {}
