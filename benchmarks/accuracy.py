"""``python -m benchmarks.accuracy``: what a bundle finds through the engine code that flies, against the annotations.

Writes a table, a JSON and a plot of AP per sensor.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import Bundle, open_bundle, verify_files
from babelrs.detections import Detections
from babelrs.errors import run_command
from babelrs.images import read_frame
from babelrs.metrics import Evaluation, GroundTruth, evaluate
from babelrs.sensors import Sensor
from runtime.engines import open_engine
from runtime.pipeline import Detector, Stopwatch
from train.cli import load_config, start_logging
from train.data.samples import Sample, check_classes
from train.data.soi_det import Split, read_split
from train.evaluate import ground_truth
from train.predict import EVALUATION_SCORE

log = logging.getLogger("benchmarks.accuracy")


class AccuracyConfig(BaseModel):
    """Measure a bundle on labelled images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path = Field(description="bundle folder or archive")
    data: Path = Field(description="folder in the SOI-Det layout")
    split: Split = Field("eval", description="split to measure on")
    out: Path = Field(Path("benchmarks/results/accuracy"), description="results go to OUT.json and OUT.png")
    threads: int = Field(0, ge=0, description="engine threads; 0: the engine's choice")


def measure(
    bundle: Bundle, samples: dict[Sensor, list[Sample]], threads: int
) -> tuple[Evaluation, dict[Sensor, float]]:
    """Accuracy of the bundle, and the median engine time of an image per sensor in milliseconds."""
    found: dict[str, Detections] = {}
    truth: dict[str, GroundTruth] = {}
    infer_ms: dict[Sensor, float] = {}
    for sensor, group in samples.items():
        entry = bundle.manifest.entry(sensor)
        check_classes(group, entry.classes, sensor)
        detector = Detector(open_engine(bundle, sensor, "auto", threads), entry, sensor, EVALUATION_SCORE)
        times = []
        for sample in group:
            watch = Stopwatch()
            found[sample.name], _ = detector.detect(read_frame(sample.path), watch)
            truth[sample.name] = ground_truth(sample, entry.classes)
            times.append(watch.elapsed_ms["infer"])
        infer_ms[sensor] = sorted(times)[len(times) // 2]
        log.info("%s: %d images", sensor, len(group))
    return evaluate(found, truth), infer_ms


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of AP50 and mAP per sensor, with H-mAP as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sensors = result["sensors"]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for offset, (key, label) in enumerate((("ap50", "AP50"), ("ap", "mAP (50:95)"))):
        positions = [index + 0.38 * offset for index in range(len(sensors))]
        bars = axes.bar(positions, [100 * sensors[name][key] for name in sensors], 0.36, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.axhline(
        100 * result["h_map"], color="black", linestyle="--", linewidth=1, label=f"H-mAP {100 * result['h_map']:.1f}"
    )
    axes.set_xticks([index + 0.19 for index in range(len(sensors))], [name.upper() for name in sensors])
    axes.set_ylabel("%")
    axes.set_ylim(0, 105)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(AccuracyConfig, arguments)
    start_logging()
    bundle = open_bundle(config.bundle)
    verify_files(bundle)
    samples = read_split(config.data, list(bundle.manifest.sensors), config.split)
    evaluation, infer_ms = measure(bundle, samples, config.threads)
    manifest = bundle.manifest
    record = {
        "schema": "babelrs.accuracy/1",
        "bundle": {"name": manifest.name, "target": manifest.target, "digest": bundle.digest},
        "data": config.data.name,
        "split": config.split,
        "images": {sensor.value: len(group) for sensor, group in samples.items()},
        "median_infer_ms": {sensor.value: round(value, 2) for sensor, value in infer_ms.items()},
        "training": dict(manifest.training),
        **evaluation.to_dict(),
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    plot(record, config.out.with_suffix(".png"))
    sys.stdout.write(evaluation.format_table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
