"""``python -m compress.quantize``: a checkpoint becomes the bundle that goes on board."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from babelrs.bundle import Bundle, open_bundle, pack_bundle, sha256_of, write_manifest, write_selftest
from babelrs.errors import BabelRSError, LimitMissedError, collected, run_command
from babelrs.manifest import Manifest
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet, read_calibration
from compress.compressor import Compressor
from compress.config import QuantizeConfig, RowChoice
from compress.float_graphs import write_float_graphs
from compress.measure import measure
from compress.parity import Parity, compare
from compress.qat import train_quantized
from compress.report.live import SearchTable
from compress.report.page import write_report
from compress.report.record import Report, Row
from compress.search import Found, Search, SearchPlan, starting_parts
from compress.selftests import entry_of, from_engine, from_pytorch, selftest_pixels
from compress.source import load_source
from compress.steps import Steps, forget
from compress.summary import examples_of, report_of
from compress.targets import Target, find_target, read_targets
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.selftest import SelfTestResult, run_selftest
from train.checkpoint import WEIGHTS_FILE, Checkpoint
from train.cli import load_config, start_logging
from train.data.samples import Sample, limited
from train.evaluate import read_checked
from train.models.detector import Detector

log = logging.getLogger("compress.quantize")

Samples = dict[Sensor, list[Sample]]


def make_compressor(
    target: Target, detector: Detector, checkpoint: Checkpoint, images: CalibrationSet, config: QuantizeConfig
) -> Compressor:
    """What runs the model as the target's engine computes."""
    threads = config.threads or os.cpu_count() or 1
    if target.kind == "tensorrt":
        from compress.tensorrt_graphs import TensorRTCompressor

        return TensorRTCompressor(detector, checkpoint, images, config.probe_images, config.wide_norms, threads)
    from compress.cpu_graphs import OnnxRuntimeCompressor

    return OnnxRuntimeCompressor(detector, checkpoint, images, config.probe_images, target.reduce_range, threads)


def read_data(config: QuantizeConfig, checkpoint: Checkpoint) -> tuple[Samples, CalibrationSet]:
    """Held-out samples and calibration images.

    Raises:
        BabelRSError: Annotations or images are wrong, or calibration images are also measured on.
    """
    assert config.data.root is not None  # checked with the settings
    samples = read_checked(config.data.root, list(checkpoint.classes), config.data.split, checkpoint)
    samples = limited(samples, config.data.images_per_sensor)
    input_px = {sensor: checkpoint.model.input_px.of(sensor) for sensor in checkpoint.classes}
    return samples, read_calibration(config.calibration, config.data.root, checkpoint.profiles, input_px, samples)


def search(
    config: QuantizeConfig,
    target: Target,
    compressor: Compressor,
    samples: Samples,
    images: CalibrationSet,
    exact: Row | None = None,
) -> Found:
    """Calibrate, measure, and give parts back; goes on where an earlier call was killed.

    Args:
        config: Settings.
        target: The device.
        compressor: Runs the model.
        samples: What accuracy is measured on.
        images: What ranges come from.
        exact: The float32 model before quantization-aware training; ``None``: there was none.
    """
    decides = {
        "settings": config.model_dump(mode="json", exclude=_DECIDES_NOTHING),
        "target": target.model_dump(mode="json"),
        "weights": sha256_of(config.checkpoint / WEIGHTS_FILE),
        "calibration": images.to_dict(),
        "measured": {sensor.value: [sample.name for sample in group] for sensor, group in samples.items()},
    }
    float_heads = target.kind == "tensorrt"
    rows = rows_for(target) if config.rows is None else config.rows
    plan = SearchPlan(config.scales, config.calibrators, config.max_hmap_drop, rows, float_heads)
    steps = Steps(_aside(config.out, "search" if exact is None else "search-trained"), decides)
    with SearchTable(config.max_hmap_drop, log) as table:
        return Search(compressor, images, samples, plan, steps, table).run(exact)


def rows_for(target: Target) -> tuple[RowChoice, ...]:
    """The ways to quantize that a report compares: float16 only where the target computes in it."""
    always: tuple[RowChoice, ...] = ("naive", "pooled", "per-sensor")
    return ("float16", *always) if "fp16" in target.precisions else always


def retrained(
    config: QuantizeConfig, detector: Detector, checkpoint: Checkpoint, parts: Sequence[str], found: Found
) -> Detector:
    """The model after quantization-aware training with these parts in INT8."""
    root = config.calibration.root or config.data.root
    assert root is not None  # checked with the settings
    samples = read_checked(root, list(checkpoint.classes), config.calibration.split, checkpoint)
    log.info("H-mAP falls by %.2f points: training under INT8 for %g epochs", found.drop, config.qat_epochs)
    return train_quantized(
        detector, checkpoint, parts, found.ranges, samples, config.qat, config.qat_epochs, config.seed
    )


_DECIDES_NOTHING: Any = {
    **dict.fromkeys(("checkpoint", "out", "name", "archive", "max_hmap_drop", "examples", "targets_file"), True),
    **dict.fromkeys(
        ("selftest_root", "selftest_px", "score_threshold", "parity_images", "wide_norms", "threads"), True
    ),
    "data": {"root"},
    "calibration": {"root"},
}
"""Settings that no step of a search depends on: a search goes on though they change."""


def _aside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name}.{what}")


def write_rounded(
    config: QuantizeConfig,
    checkpoint: Checkpoint,
    compressor: Compressor,
    found: Found,
    folder: Path,
) -> None:
    """The graphs of what a search found, and self-tests of what they give here."""
    compressor.write_graphs(found.int8_parts, found.ranges, True, folder)
    for sensor in checkpoint.classes:
        entry = entry_of(config, checkpoint, sensor)
        engine = OnnxRuntimeEngine(folder, entry, threads=1)
        write_selftest(folder / entry.selftest, from_engine(engine, selftest_pixels(config, checkpoint, sensor)))


def write_float(config: QuantizeConfig, checkpoint: Checkpoint, detector: Detector, folder: Path) -> None:
    """Float graphs that agree with PyTorch in float32, and their self-tests.

    Raises:
        LimitMissedError: ONNX Runtime's outputs differ from PyTorch's by more than the tolerance.
    """
    half = config.precision == "fp16"
    write_float_graphs(detector, list(checkpoint.classes), half, folder, config.wide_norms)
    for sensor in checkpoint.classes:
        entry = entry_of(config, checkpoint, sensor)
        engine = OnnxRuntimeEngine(folder, entry, threads=1)
        pixels = selftest_pixels(config, checkpoint, sensor)
        exact = from_pytorch(detector, sensor, pixels, rounded=half)
        _require(sensor, run_selftest(engine, exact))
        write_selftest(folder / entry.selftest, from_engine(engine, pixels) if half else exact)


def _require(sensor: Sensor, result: SelfTestResult) -> None:
    log.info(
        "%s: self-test: scores %.1e, boxes %.1e px apart", sensor, result.score_difference, result.box_difference_px
    )
    if not result.passed:
        raise LimitMissedError(
            f"The exported {sensor} graph differs from PyTorch: {result}.",
            "No bundle was written; the self-test's tolerances are in compress/selftests.py.",
        )


def manifest_of(
    config: QuantizeConfig,
    target: Target,
    checkpoint: Checkpoint,
    calibration: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Manifest:
    """What the bundle says about itself; the files' hashes are added when it is written."""
    return Manifest(
        name=config.name,
        target=target.name,
        taps=checkpoint.model.backbone.taps,
        strides=checkpoint.model.strides,
        sensors={sensor: entry_of(config, checkpoint, sensor) for sensor in checkpoint.classes},
        metrics=metrics,
        calibration=calibration,
        training=checkpoint.training,
    )


def measured(checkpoint: Path) -> dict[str, Any]:
    """What ``train.evaluate`` measured of a checkpoint, for the manifest; empty where it was not run.

    Raises:
        BabelRSError: The evaluation's file is damaged.
    """
    file = checkpoint / "evaluation.eval" / "evaluation.json"
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text())
        return {key: record[key] for key in ("split", "images", "h_map", "overall", "sensors")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BabelRSError(f"{file} is no evaluation: {error}.", "Remove it or run train.evaluate again.") from None


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``out`` when all went well, and is gone when not: there is no half bundle.

    Raises:
        BabelRSError: The folder cannot be written, such as on a full disk.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            yield folder
            folder.chmod(0o755)
            os.rename(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        what = f"{out} cannot be written ({error.strerror or error})."
        raise BabelRSError(
            what, "Free some space or name another folder with --out; nothing is left behind."
        ) from error


def make_float_bundle(config: QuantizeConfig, target: Target, detector: Detector, checkpoint: Checkpoint) -> None:
    """A bundle without INT8."""
    with written_aside(config.out) as folder:
        write_float(config, checkpoint, detector, folder)
        metrics = measured(config.checkpoint) or checkpoint.metrics
        write_manifest(folder, manifest_of(config, target, checkpoint, {}, metrics))


def make_int8_bundle(config: QuantizeConfig, target: Target, detector: Detector, checkpoint: Checkpoint) -> None:
    """A bundle with as much INT8 as the limit allows, and its report.

    Raises:
        LimitMissedError: The limit cannot be kept; the report is written beside where the bundle would be.
    """
    samples, images = read_data(config, checkpoint)
    compressor = make_compressor(target, detector, checkpoint, images, config)
    found = search(config, target, compressor, samples, images)
    if config.qat_epochs and found.drop > config.max_hmap_drop:
        start = starting_parts(compressor.parts, target.kind == "tensorrt")
        detector = retrained(config, detector, checkpoint, start, found)
        compressor = make_compressor(target, detector, checkpoint, images, config)
        found = search(config, target, compressor, samples, images, found.rows[0])
    report = report_of(config, target, compressor, found, samples, images)
    pictures = examples_of(config, compressor, found, samples, checkpoint.profiles)
    if not report.limit.met:
        folder = _aside(config.out, "report")
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder, report, pictures)
        raise LimitMissedError(
            f"H-mAP falls by {found.drop:.2f} points, where {config.max_hmap_drop} are allowed, with all but "
            f"{len(found.int8_parts)} parts in float.",
            f"No bundle was written; see {folder / 'report.html'}. Allow more, or give --qat_epochs.",
        )
    with written_aside(config.out) as folder:
        write_rounded(config, checkpoint, compressor, found, folder)
        parity = parity_of(config, checkpoint, compressor, found, samples, folder)
        write_report(folder, completed(report, folder, parity), pictures)
        metrics = {row["name"]: row for row in report.to_dict()["rows"]}
        write_manifest(folder, manifest_of(config, target, checkpoint, images.to_dict(), metrics))
    for what in ("search", "search-trained"):
        forget(_aside(config.out, what))


def parity_of(
    config: QuantizeConfig,
    checkpoint: Checkpoint,
    compressor: Compressor,
    found: Found,
    samples: Samples,
    folder: Path,
) -> dict[Sensor, Parity]:
    """Whether the graphs in ``folder`` find what was measured, on a few held-out images of each sensor."""
    few = limited(samples, config.parity_images)
    expected = compressor.predict(found.int8_parts, found.ranges, True, few).found
    entries = {sensor: entry_of(config, checkpoint, sensor) for sensor in few}
    scored, _ = measure(lambda sensor: OnnxRuntimeEngine(folder, entries[sensor], threads=1), entries, few)
    parities = {
        sensor: compare((expected[sample.name], scored.found[sample.name]) for sample in group)
        for sensor, group in few.items()
    }
    for sensor, parity in parities.items():
        level = logging.INFO if parity.kept else logging.WARNING
        log.log(level, "%s: the graph finds %d of %d detections as measured", sensor, parity.same, parity.of)
    return parities


def completed(report: Report, folder: Path, parity: Mapping[Sensor, Parity]) -> Report:
    """The report with what is known of the written graphs: bytes of them and their weights, and their parity."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".onnx", ".bin"))
    rows = [dataclasses.replace(row, size_bytes=size) if row.name == report.final else row for row in report.rows]
    return dataclasses.replace(report, rows=tuple(rows), parity=parity)


def check(config: QuantizeConfig) -> Target:
    """The target, if everything fits together.

    Raises:
        BabelRSError: It does not; all faults are listed.
    """
    target = find_target(config.target, read_targets(config.targets_file))
    faults = []
    if config.out.exists():
        faults.append(f"{config.out} exists already: remove it or name another folder with --out")
    if config.wide_norms and (target.kind != "tensorrt" or config.precision == "fp32"):
        faults.append(f"wide_norms: {config.precision} graphs for {target.name} compute these in float32 already")
    if config.precision not in target.precisions:
        faults.append(f"{target.name} does not compute in {config.precision}, but in {', '.join(target.precisions)}")
    if faults:
        raise collected("Nothing was started", faults, "See --help.")
    return target


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(QuantizeConfig, arguments)
    start_logging()
    target = check(config)
    torch.set_num_threads(1)  # within an operator: the order of sums depends on it, and so do the last bits
    detector, checkpoint = load_source(config.checkpoint, target, config.sensors)
    make = make_int8_bundle if config.precision == "int8" else make_float_bundle
    make(config, target, detector, checkpoint)
    bundle: Bundle = open_bundle(config.out)
    if config.archive:
        pack_bundle(bundle, config.out.with_name(config.out.name + ".babelrs"))
    log.info("bundle %s in %s", bundle.digest[:12], config.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
