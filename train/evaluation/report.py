"""The folder an evaluation leaves: numbers, plots, pictures and result files."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from babelrs.errors import BabelRSError
from babelrs.metrics import Evaluation, Matched, evaluate_matched, match_pool
from babelrs.pool import pool_images
from babelrs.radiometry import RadiometryProfile
from babelrs.sensors import Sensor
from train.data.soi_det import Split
from train.evaluation import plots
from train.evaluation.confusion import Confusion, confusion
from train.evaluation.curves import (
    FALSE_ALARMS_PER_IMAGE,
    Calibration,
    OperatingPoint,
    PrecisionRecall,
    calibration,
    num_objects,
    operating_point,
    precision_recall,
    ranked_hits,
    recall_at_false_alarms,
)
from train.evaluation.examples import Example, worst, write_sheets
from train.evaluation.inputs import Scored
from train.evaluation.result_files import write_coco, write_dota
from train.evaluation.sizes import SizeResult, by_size

log = logging.getLogger("train.evaluate")

FROC_RATES = tuple(np.logspace(-2, 2, 81).tolist())


@dataclass(frozen=True)
class SensorReport:
    """Everything that is known of one sensor.

    Attributes:
        matched: The images, matched.
        curves: Precision and recall per class.
        sizes: Accuracy by object size.
        point: The score threshold with the best F1.
        calibration: Right and wrong detections by score.
        confusion: Class against class, at the threshold of ``point``.
        recalls: Recall at :data:`FALSE_ALARMS_PER_IMAGE`, of each class and, as ``all``, of the sensor.
        froc: Recall of the sensor at :data:`FROC_RATES`.
        examples: The worst errors.
    """

    matched: Matched
    curves: list[PrecisionRecall]
    sizes: list[SizeResult]
    point: OperatingPoint
    calibration: Calibration
    confusion: Confusion
    recalls: dict[str, list[float]]
    froc: list[float]
    examples: list[Example]

    @property
    def least_score(self) -> float:
        """The threshold of the confusion table and the pictures: that of the best F1, or 0 where nothing is right."""
        return 0.0 if math.isnan(self.point.score) else self.point.score

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, NaN as ``None``."""
        names = [*self.confusion.classes, None]
        return {
            "by_size": [
                {
                    "name": one.name,
                    "lowest_px": one.lowest_px,
                    "highest_px": _number(one.highest_px),
                    "num_objects": one.num_objects,
                    **one.precision.to_dict(),
                }
                for one in self.sizes
            ],
            "best_f1": {key: _number(value) for key, value in vars(self.point).items()},
            "calibration": {
                "edges": self.calibration.edges.tolist(),
                "right": self.calibration.right.tolist(),
                "wrong": self.calibration.wrong.tolist(),
                "error": _number(self.calibration.error),
            },
            "confusion": {
                "least_score": self.least_score,
                "true": names,
                "detected": names,
                "table": self.confusion.table.tolist(),
            },
            "recall_at_false_alarms_per_image": {
                name: {f"{rate:g}": _number(value) for rate, value in zip(FALSE_ALARMS_PER_IMAGE, values, strict=True)}
                for name, values in self.recalls.items()
            },
        }

    def curves_dict(self) -> dict[str, Any]:
        """Precision and score at the recalls 0, 0.01 .. 1, by class."""
        return {
            curve.name: {
                "ap50": curve.ap50,
                "precision": np.round(curve.precision, 6).tolist(),
                "score": [_number(value) for value in curve.score.tolist()],
            }
            for curve in self.curves
        }


def analyse(matched: Matched, num_examples: int) -> SensorReport:
    """All there is to say about one sensor."""
    point = operating_point(matched)
    result = confusion(matched.pool, 0.0 if math.isnan(point.score) else point.score)
    images = len(matched.pool.images)
    recalls = {}
    for label, name in [(None, "all"), *enumerate(matched.pool.classes)]:
        if count := num_objects(matched, label):
            recalls[name] = recall_at_false_alarms(*ranked_hits(matched, label), count, images)
    return SensorReport(
        matched,
        precision_recall(matched),
        by_size(matched),
        point,
        calibration(matched),
        result,
        recalls,
        recall_at_false_alarms(*ranked_hits(matched), num_objects(matched), images, FROC_RATES),
        worst(matched.pool, result, num_examples),
    )


def analyse_all(scored: Scored, num_examples: int) -> tuple[Evaluation, dict[Sensor, SensorReport]]:
    """The averages, and each sensor's report."""
    pools = pool_images(scored.found, scored.truth)
    reports = {sensor: analyse(match_pool(pool), num_examples) for sensor, pool in pools.items()}
    return evaluate_matched([report.matched for report in reports.values()]), reports


def write_numbers(
    evaluation: Evaluation, reports: Mapping[Sensor, SensorReport], provenance: Mapping[str, Any], folder: Path
) -> None:
    """Write ``evaluation.json``, ``precision-recall.json`` and ``table.txt``.

    Args:
        evaluation: The averages.
        reports: By sensor.
        provenance: What was evaluated, for ``evaluation.json``.
        folder: Where the files go; made where it is missing.

    Raises:
        BabelRSError: The folder cannot be written.
    """
    details = {sensor.value: report.to_dict() for sensor, report in reports.items()}
    record = {"schema": "babelrs.evaluation/1", **provenance, **evaluation.to_dict(), "details": details}
    curves = {"recall": np.linspace(0, 1, 101).round(2).tolist(), "iou": 0.5}
    curves |= {sensor.value: report.curves_dict() for sensor, report in reports.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "precision-recall.json", json.dumps(curves) + "\n")
        _write(folder / "table.txt", format_report(evaluation, reports) + "\n")
        _write(folder / "evaluation.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    except OSError as error:
        raise BabelRSError(
            f"{folder} cannot be written ({error.strerror}).", "Name another folder with --out."
        ) from None


def format_report(evaluation: Evaluation, reports: Mapping[Sensor, SensorReport]) -> str:
    """The table of the averages, and below it those by size, at fixed false alarms and at the best F1."""
    lines = [evaluation.format_table(), "", "AP50 / mAP %, by the square root of an object's area (objects)"]
    for sensor, report in reports.items():
        cells = [
            f"{one.name} {_percent(one.precision.ap50)} / {_percent(one.precision.ap)} ({one.num_objects})"
            for one in report.sizes
        ]
        lines.append(f"{sensor:<8}" + "   ".join(cells))
    lines += ["", "recall % of all classes, by false alarms per image"]
    for sensor, report in reports.items():
        values = report.recalls.get("all", [math.nan] * len(FALSE_ALARMS_PER_IMAGE))
        cells = [f"{rate:g}: {_percent(value)}" for rate, value in zip(FALSE_ALARMS_PER_IMAGE, values, strict=True)]
        lines.append(f"{sensor:<8}" + "   ".join(cells))
    lines += ["", "at the score with the best F1"]
    for sensor, report in reports.items():
        point = report.point
        lines.append(
            f"{sensor:<8}score {point.score:.3f}   precision {_percent(point.precision)}   "
            f"recall {_percent(point.recall)}   F1 {_percent(point.f1)}"
        )
    return "\n".join(lines)


def write_plots(evaluation: Evaluation, reports: Mapping[Sensor, SensorReport], folder: Path) -> None:
    """Write the plots as PNG files."""
    for sensor, report in reports.items():
        mean = evaluation.sensors[sensor].ap50
        path = folder / f"precision-recall.{sensor.value}.png"
        plots.plot_precision_recall(sensor, report.curves, report.point, mean, path)
        plots.plot_confusion(sensor, report.confusion, folder / f"confusion.{sensor.value}.png")
    plots.plot_sizes({sensor: report.sizes for sensor, report in reports.items()}, folder / "ap-by-size.png")
    froc = {sensor: report.froc for sensor, report in reports.items()}
    plots.plot_false_alarms(FROC_RATES, froc, evaluation.num_images, folder / "recall-at-false-alarms.png")
    calibrations = {sensor: report.calibration for sensor, report in reports.items()}
    points = {sensor: report.point for sensor, report in reports.items()}
    plots.plot_calibration(calibrations, points, folder / "scores.png")


def write_examples(
    reports: Mapping[Sensor, SensorReport],
    paths: Mapping[str, Path],
    profiles: Mapping[Sensor, RadiometryProfile],
    folder: Path,
) -> None:
    """Write the sheets of errors, and ``examples.json`` that says where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for sensor, report in reports.items():
        write_sheets(report.examples, report.matched.pool, report.least_score, paths, profiles[sensor], folder)
    listed = [example.to_dict() for report in reports.values() for example in report.examples]
    _write(folder / "examples.json", json.dumps(listed, indent=1) + "\n")


def write_result_files(reports: Mapping[Sensor, SensorReport], root: Path, split: Split, folder: Path) -> None:
    """Write DOTA Task 1 for the oriented sensors and COCO results for SAR."""
    folder.mkdir(parents=True, exist_ok=True)
    for sensor, report in reports.items():
        if sensor is Sensor.SAR:
            write_coco(report.matched.pool, root, split, folder / "coco.sar.json")
        else:
            write_dota(report.matched.pool, folder / f"dota.{sensor.value}")


def _write(path: Path, text: str) -> None:
    """Write aside and rename, so that no reader sees half a file."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
