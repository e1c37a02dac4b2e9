"""The whole way from a trained checkpoint to an INT8 bundle, by the real command."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import compress.quantize
from babelrs.bundle import open_bundle, read_selftest, verify_files
from babelrs.errors import run_command
from babelrs.sensors import Sensor
from compress.quantize import main
from compress.report.record import Report
from runtime.engines.candidates import candidates
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.selftest import run_selftest
from runtime.verify import main as verify
from tests.train.builders import CLASSES, random_detector, save_tiny, tiny_model
from train.checkpoint import load_checkpoint

QUICK = ["--target", "jetson-orin", "--calibrators", "max", "mse", "--probe_images", "2"]


def arguments(checkpoint: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--data.root", str(data), "--out", str(out), *QUICK, *more]


@pytest.fixture(scope="module")
def bundle(trained: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "b"
    assert run_command(main, arguments(trained, drawn, out, "--max_hmap_drop", "8")) == 0
    return out


def test_the_bundle_verifies_and_holds_its_report(bundle: Path) -> None:
    opened = open_bundle(bundle)
    verify_files(opened)
    assert verify([str(bundle), "--threads", "1"]) == 0
    assert {"report.html", "report.json", "weights.bin"} <= set(opened.manifest.files)
    assert opened.manifest.target == "jetson-orin"
    assert {entry.precision for entry in opened.manifest.sensors.values()} == {"int8"}
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["b"]  # nothing of the search is left


@pytest.mark.parametrize("sensor", list(Sensor))
def test_the_bundle_gives_float16_as_well_and_that_passes_the_self_test(
    bundle: Path, tmp_path: Path, sensor: Sensor
) -> None:
    opened = open_bundle(bundle)
    offered = {each.precision: each.model for each in candidates(opened, sensor, plugin=False)}
    assert set(offered) == {"int8", "fp16"}
    shutil.copy(bundle / "weights.bin", tmp_path)
    entry = opened.manifest.entry(sensor)
    (tmp_path / entry.graph).write_bytes(offered["fp16"]())
    assert run_selftest(OnnxRuntimeEngine(tmp_path, entry, 1), read_selftest(opened, sensor)).passed


def test_the_manifest_names_every_calibration_image(bundle: Path, drawn: Path) -> None:
    record = open_bundle(bundle).manifest.calibration
    for sensor in Sensor:
        assert len(record[sensor.value]) == 24
        entry = record[sensor.value][0]
        files = drawn.rglob(entry["file"])
        assert entry["sha256"] in {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_row_was_measured_and_the_final_one_keeps_the_limit(bundle: Path) -> None:
    report = Report.from_dict(json.loads((bundle / "report.json").read_text()))
    assert [row.name for row in report.rows] == ["float32", "float16", "naive", "pooled", "per-sensor", "mixed"]
    assert report.final == "mixed" and report.limit.met
    exact, mixed = report.row("float32"), report.row("mixed")
    assert exact is not None and mixed is not None and exact.h_map is not None and mixed.h_map is not None
    assert exact.h_map > 0.3 and 100 * (exact.h_map - mixed.h_map) <= 8
    assert report.chosen_calibrator in ("max", "mse") and len(report.calibrators) == 2
    assert {part.name: part.precision for part in report.parts}["head ir"] == "fp16"
    assert any(part.precision == "int8" for part in report.parts)
    assert open_bundle(bundle).manifest.metrics["mixed"]["h_map"] == mixed.h_map


def test_the_graphs_in_the_bundle_find_what_was_measured(bundle: Path) -> None:
    parity = Report.from_dict(json.loads((bundle / "report.json").read_text())).parity
    assert set(parity) == set(Sensor)
    assert all(one.of >= 8 and one.kept for one in parity.values()), parity


def test_the_same_inputs_give_the_same_bundle(bundle: Path, trained: Path, drawn: Path, tmp_path: Path) -> None:
    assert run_command(main, arguments(trained, drawn, tmp_path / "b", "--max_hmap_drop", "8")) == 0
    assert open_bundle(tmp_path / "b").digest == open_bundle(bundle).digest


def test_a_missed_limit_leaves_a_report_and_no_bundle(
    trained: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = compress.quantize.make_compressor

    def hurtful(*given: Any) -> Any:
        made = original(*given)
        predict = made.predict
        made.predict = lambda parts, ranges, half, samples: (  # half precision finds nothing at all
            predict(parts, ranges, half, samples) if not half else _nothing(predict(parts, ranges, half, samples))
        )
        return made

    monkeypatch.setattr(compress.quantize, "make_compressor", hurtful)
    more = ["--rows", "float16", "--calibrators", "max"]
    assert run_command(main, [*arguments(trained, drawn, tmp_path / "b"), *more]) == 1
    error = capsys.readouterr().err
    assert "H-mAP falls by" in error and "report.html" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.report", "b.search"]
    assert not Report.from_dict(json.loads((tmp_path / "b.report/report.json").read_text())).limit.met


def _nothing(scored: Any) -> Any:
    for name, found in scored.found.items():
        scored.found[name] = found.select(found.scores > 2)
    return scored


def test_int8_learns_where_calibration_is_not_enough(trained: Path, drawn: Path) -> None:
    """Quantization-aware training with ranges far too wide for 8 bits: the loss of images it has not seen falls.

    mAP would jump by more than what is learnt, on so few images.
    """
    from compress.calibration import CalibrationConfig, read_calibration
    from compress.config import QatConfig
    from compress.qat import train_quantized
    from compress.ranges import choose
    from compress.tensorrt_graphs import TensorRTCompressor
    from train.data.soi_det import read_split

    detector, checkpoint = load_checkpoint(trained)
    input_px = {sensor: checkpoint.model.input_px.of(sensor) for sensor in Sensor}
    images = read_calibration(CalibrationConfig(images_per_sensor=8), drawn, checkpoint.profiles, input_px, {})
    before = TensorRTCompressor(detector, checkpoint, images, 2)
    ranges = choose("per-sensor", {sensor: before.observe(images, sensor) for sensor in Sensor}, "max")
    wide = {s: {name: (16 * low, 16 * high) for name, (low, high) in found.items()} for s, found in ranges.items()}
    config = QatConfig(lr=5e-4, batch=2, crop_px=128)
    train = read_split(drawn, list(Sensor), "train")
    learnt = train_quantized(detector, checkpoint, before.parts, wide, train, config, 1.0, 0)
    unseen = read_split(drawn, list(Sensor), "eval")
    losses = [_loss(each, checkpoint, before.parts, wide, unseen, config) for each in (detector, learnt)]
    assert losses[1] < 0.9 * losses[0], losses


def _loss(detector: Any, checkpoint: Any, parts: Any, ranges: Any, samples: Any, config: Any) -> float:
    """Mean over four times as many crops as there are images, the same ones for every detector."""
    from compress import qat
    from compress.fake_quant import FakeQuantized

    model = FakeQuantized(detector, half=False)
    model.quantize_parts(parts)
    batches, steps = qat._batches(checkpoint, samples, config, 4.0, 7)
    learnt_by = qat.losses_of(checkpoint)
    total = sum(
        qat._backward(model, sensor, crops, ranges, config.crop_px, *learnt_by)
        for crops in batches
        for sensor in samples
    )
    return total / (steps * len(samples))


def test_what_int8_learns_by_is_what_the_checkpoint_was_trained_by(trained: Path) -> None:
    import dataclasses

    from compress.qat import losses_of
    from train.config import AssignerConfig, LossConfig

    _, checkpoint = load_checkpoint(trained)
    assert losses_of(checkpoint) == (LossConfig(), AssignerConfig())
    settings = {
        **checkpoint.training["settings"],
        "loss": {"overlap_weight": 7.5},
        "assigner": {"points_per_object": 5},
    }
    other = dataclasses.replace(checkpoint, training={"settings": settings})
    assert losses_of(other) == (LossConfig(overlap_weight=7.5), AssignerConfig(points_per_object=5))
    assert losses_of(dataclasses.replace(checkpoint, training={})) == (LossConfig(), AssignerConfig())


WRONG: dict[str, tuple[list[str], str]] = {
    "no data": (["--data.root", "nowhere"], "nowhere"),
    "the split that is measured on": (["--calibration.split", "eval"], "is the split that is measured on"),
    "an unknown target": (["--target", "jetson-orni"], "jetson-orin"),
    "no such calibrator": (["--calibrators", "median"], "median"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_start_nothing(
    name: str, trained: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, said = WRONG[name]
    assert run_command(main, [*arguments(trained, drawn, tmp_path / "b"), *more]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_sensor_that_the_checkpoint_lacks_is_named(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = {sensor: CLASSES[sensor] for sensor in (Sensor.SAR, Sensor.IR)}
    save_tiny(tmp_path / "c", random_detector(tiny_model(), 5, served))
    assert run_command(main, arguments(tmp_path / "c", drawn, tmp_path / "b", "--sensors", "rgb", "ir")) == 2
    assert "does not serve rgb" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_bundle(
    trained: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compress.quantize, "write_manifest", full)
    given = ["--checkpoint", str(trained), "--precision", "fp32", "--out", str(tmp_path / "b")]
    assert run_command(main, given) == 2
    assert "No space left on device" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_killed_search_goes_on(
    bundle: Path, trained: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    original = compress.quantize.make_compressor
    calls: list[str] = []

    def fragile(*given: Any) -> Any:
        made = original(*given)
        observe, predict = made.observe, made.predict
        made.observe = lambda *a: (calls.append("observe"), observe(*a))[1]

        def counted(parts: Any, *a: Any) -> Any:
            calls.append("predict")
            if len(calls) == 10:
                raise Killed
            return predict(parts, *a)

        made.predict = counted
        return made

    monkeypatch.setattr(compress.quantize, "make_compressor", fragile)
    given = arguments(trained, drawn, tmp_path / "b", "--max_hmap_drop", "8")
    with pytest.raises(Killed):
        main(given)
    assert not (tmp_path / "b").exists() and (tmp_path / "b.search/steps.json").exists()
    assert main(given) == 0
    assert calls.count("observe") == 6  # three of their own, three of RGB alone; not again after the kill
    assert open_bundle(tmp_path / "b").digest == open_bundle(bundle).digest
    shutil.rmtree(tmp_path / "b")


def test_a_bundle_for_cpus_is_made_and_measured_by_the_same_command(trained: Path, drawn: Path, tmp_path: Path) -> None:
    given = ["--checkpoint", str(trained), "--data.root", str(drawn), "--out", str(tmp_path / "b")]
    more = ["--target", "cpu-x86", "--calibrators", "max", "--probe_images", "2", "--max_hmap_drop", "8"]
    assert run_command(main, [*given, *more]) == 0
    assert verify([str(tmp_path / "b"), "--threads", "1"]) == 0
    report = Report.from_dict(json.loads((tmp_path / "b/report.json").read_text()))
    assert {row.measured_by for row in report.rows} == {"onnxruntime"}
    assert [row.name for row in report.rows] == [
        "float32",
        "naive",
        "pooled",
        "per-sensor",
        "mixed",
    ]  # no float16 there
    assert {part.name: part.precision for part in report.parts}["stem 1"] == "int8"
    assert {part.precision for part in report.parts} <= {"int8", "fp32"}
