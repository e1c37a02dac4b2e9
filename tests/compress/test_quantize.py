from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compress.float_graphs
import compress.quantize
from babelrs.bundle import open_bundle, read_selftest, verify_files
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from compress.export import export_graph
from compress.float_graphs import write_float_graphs
from compress.quantize import main, measured
from runtime.verify import main as verify
from tests.train.builders import CLASSES, random_detector, save_tiny, tiny_model, write_all_sensors
from train.models.detector import Detector

FLOAT = ["--precision", "fp32"]
SERVED = {sensor: CLASSES[sensor] for sensor in (Sensor.SAR, Sensor.IR)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny(folder, random_detector(tiny_model(), 5, SERVED))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A bundle made by the real command; one thread, since the sums of a self-test depend on their number."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    command = [sys.executable, "-m", "compress.quantize", "--checkpoint", str(checkpoint), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--precision", "fp32", "--target", "cpu"]
    subprocess.run(command, check=True, cwd=repository, timeout=200, env=environment)
    return out


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_command_writes_a_bundle_that_verifies(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify([str(bundle), "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("selftest ok") == 2
    files = ["manifest.json", "model.ir.onnx", "model.sar.onnx", "selftest.ir.npz", "selftest.sar.npz", "weights.bin"]
    assert left_in(bundle) == files and left_in(bundle.parent) == ["b"]


def test_the_manifest_says_what_the_checkpoint_is(bundle: Path) -> None:
    manifest, model = open_bundle(bundle).manifest, tiny_model()
    assert manifest.target == "cpu-x86" and tuple(manifest.strides) == model.strides
    assert tuple(manifest.taps) == model.backbone.taps
    assert manifest.training == {"seed": 3, "step": 7} and manifest.metrics == {"h_map": 0.5}
    assert set(manifest.sensors) == set(SERVED)
    for sensor, entry in manifest.sensors.items():
        assert entry.classes == SERVED[sensor] and entry.precision == "fp32"
        assert (entry.input_height, entry.input_width) == model.input_px.of(sensor)
        assert (entry.channels, entry.max_detections, entry.nms_iou) == (1, model.max_detections, model.nms_iou)


def test_the_same_checkpoint_gives_the_same_bundle_in_another_process(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    assert run_command(main, [*FLOAT, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "b")]) == 0
    assert open_bundle(tmp_path / "b").digest == open_bundle(bundle).digest


def test_altered_weights_do_not_verify(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b"
    assert run_command(main, [*FLOAT, "--checkpoint", str(checkpoint), "--out", str(out)]) == 0
    content = bytearray((out / "weights.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "weights.bin").write_bytes(content)
    assert verify([str(out)]) == 2
    assert "weights.bin" in capsys.readouterr().err


def test_an_existing_folder_is_refused_and_kept(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / "precious").write_text("x")
    assert run_command(main, [*FLOAT, "--checkpoint", str(checkpoint), "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err and left_in(out) == ["precious"] and left_in(tmp_path) == ["b"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*FLOAT, "--checkpoint", "nowhere"],
        ["--checkpoint", "nowhere", "--precision", "int3"],
        [*FLOAT, "--checkpoint", "nowhere", "--target", "toaster"],
        ["--checkpoint", "nowhere", "--precision", "int8"],
        ["--score_threshold", "2"],
    ],
)
def test_wrong_input_starts_nothing(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, [*arguments, "--out", str(tmp_path / "b")]) == 2
    assert left_in(tmp_path) == [] and capsys.readouterr().err.startswith("error: ")


def test_no_half_bundle_is_left_when_the_export_fails(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = export_graph

    def failing(detector: object, sensor: Sensor, opset: int) -> object:
        if sensor is Sensor.IR:
            raise RuntimeError("out of luck")
        return original(detector, sensor, opset)  # type: ignore[arg-type]

    monkeypatch.setattr(compress.float_graphs, "export_graph", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        main([*FLOAT, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "deep" / "b")])
    assert left_in(tmp_path / "deep") == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_that_differs_from_pytorch_misses_the_limit(
    precision: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Graphs of other weights than the model's: noise finds scores high enough to compare."""

    def altered(detector: Detector, *given: Any) -> None:
        wrong = copy.deepcopy(detector)
        with torch.no_grad():
            for head in wrong.heads.values():
                for weight in head.parameters():
                    weight.mul_(0.5)
        write_float_graphs(wrong, *given)

    monkeypatch.setattr(compress.quantize, "write_float_graphs", altered)
    given = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "b"), "--precision", precision]
    assert run_command(main, [*given, "--target", "jetson-orin"]) == 1
    assert "differs from PyTorch" in capsys.readouterr().err and left_in(tmp_path) == []


def test_selftests_are_noise_unless_images_are_given(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "eval", count=2)
    arguments = [*FLOAT, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "b"), "--selftest_px", "48"]
    assert run_command(main, [*arguments, "--selftest_root", str(tmp_path / "data")]) == 0
    for sensor in SERVED:
        noise, real = (read_selftest(open_bundle(folder), sensor) for folder in (bundle, tmp_path / "b"))
        assert noise.pixels.shape == real.pixels.shape and len(np.unique(noise.pixels)) > 200
        assert (real.pixels[:, :48, :48] > 0).mean() > 0.9
        assert (real.pixels[:, 48:] == 0).all() and (real.pixels[:, :, 48:] == 0).all()
        assert (noise.score_tolerance, noise.box_tolerance_px) == (1e-3, 0.05)
    assert verify([str(tmp_path / "b"), "--threads", "1"]) == 0


def test_the_archive_lies_beside_the_folder_under_its_whole_name(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "v0.1"
    assert run_command(main, [*FLOAT, "--checkpoint", str(checkpoint), "--out", str(out), "--archive"]) == 0
    assert left_in(tmp_path) == ["v0.1", "v0.1.babelrs"]
    unpacked = open_bundle(tmp_path / "v0.1.babelrs", cache=tmp_path / "cache")
    verify_files(unpacked)
    assert unpacked.digest == open_bundle(out).digest


def test_an_untrained_model_makes_a_bundle_as_well(tmp_path: Path) -> None:
    import torch

    from train.models.detector import Detector

    torch.manual_seed(0)
    save_tiny(tmp_path / "c", Detector(tiny_model(), SERVED).eval())
    assert run_command(main, [*FLOAT, "--checkpoint", str(tmp_path / "c"), "--out", str(tmp_path / "b")]) == 0
    assert verify([str(tmp_path / "b"), "--threads", "1"]) == 0


def test_a_bundle_without_a_served_sensor_says_so(bundle: Path) -> None:
    with pytest.raises(BabelRSError, match="rgb"):
        open_bundle(bundle).manifest.entry(Sensor.RGB)


def test_what_was_measured_of_the_checkpoint_travels_in_the_manifest(tmp_path: Path) -> None:
    record = {"split": "eval", "images": {"ir": 3}, "h_map": 0.5, "overall": {}, "sensors": {}, "training": {"step": 1}}
    file = tmp_path / "evaluation.eval" / "evaluation.json"
    file.parent.mkdir()
    file.write_text(json.dumps(record))
    assert measured(tmp_path) == {key: value for key, value in record.items() if key != "training"}
    assert measured(tmp_path / "elsewhere") == {}
    file.write_text("{}")
    with pytest.raises(BabelRSError, match=r"evaluation\.json is no evaluation"):
        measured(tmp_path)
