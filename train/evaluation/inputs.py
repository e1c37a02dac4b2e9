"""What is scored: the truth of a split, and detections from a checkpoint or from the JSON Lines of ``babelrs-run``."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners, to_le90
from babelrs.detections import Detections
from babelrs.errors import BabelRSError, collected
from babelrs.pool import GroundTruth
from babelrs.sensors import Sensor
from train.data.samples import Sample

log = logging.getLogger("train.evaluate")

DETECTIONS_SCHEMA = "babelrs.detections/1"
Samples = Mapping[Sensor, Sequence[Sample]]


@dataclass(frozen=True)
class Scored:
    """Detections and truth of a set, by image name (``sensor/file name``).

    Attributes:
        found: Detections.
        truth: Ground truth.
        outside: Objects that lie wholly outside their image and so were set to be ignored, as ``image: class``.
    """

    found: dict[str, Detections] = field(default_factory=dict)
    truth: dict[str, GroundTruth] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)

    def add(self, sample: Sample, found: Detections, width: int, height: int) -> None:
        """Take an image of ``width`` by ``height`` pixels."""
        truth = ground_truth(sample, found.classes)
        outside = wholly_outside(truth.boxes, width, height)
        self.outside.extend(f"{sample.name}: {sample.names[row]}" for row in np.flatnonzero(outside))
        self.found[sample.name] = found
        self.truth[sample.name] = replace(truth, ignore=truth.ignore | outside)


def ground_truth(sample: Sample, classes: Sequence[str]) -> GroundTruth:
    """A sample's objects as metrics take them."""
    labels = np.array([list(classes).index(name) for name in sample.names], np.int32)
    return GroundTruth(sample.boxes, labels, sample.ignore, tuple(classes), sample.sensor)


def wholly_outside(boxes: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Which of ``(N, 5)`` boxes have no point inside the image, by the horizontal box around each."""
    corners = to_corners(boxes)  # (N, 4, 2)
    lowest, highest = corners.min(axis=1), corners.max(axis=1)
    outside: npt.NDArray[np.bool_] = (highest <= 0).any(axis=1) | (lowest >= (width, height)).any(axis=1)
    return outside


def check_samples(samples: Samples) -> None:
    """Refuse a set that cannot be scored as it stands.

    Raises:
        BabelRSError: A sensor has no image, an image file is missing, or a sensor has two images of one file name;
            everything is listed.
    """
    faults = [f"{sensor}: no image" for sensor, group in samples.items() if not group]
    for group in samples.values():
        faults += [f"{sample.path}: no such image" for sample in group if not sample.path.is_file()]
        counts = Counter(sample.name for sample in group)
        faults += [f"{name}: {count} images of this name" for name, count in counts.items() if count > 1]
    if faults:
        raise collected("The images cannot be evaluated", faults, "Correct or remove these and start again.")


def warn_of(scored: Scored, samples: Samples) -> None:
    """Log what makes the numbers other than one might expect."""
    if scored.outside:
        shown = ", ".join(scored.outside[:5]) + (" ..." if len(scored.outside) > 5 else "")
        log.warning("%d objects lie wholly outside their image and are ignored: %s", len(scored.outside), shown)
    for sensor, group in samples.items():
        if not any((~scored.truth[sample.name].ignore).any() for sample in group):
            log.warning("%s: no object counts; the sensor has no AP and is not in H-mAP", sensor)


def read_detections(path: Path, samples: Samples, least_score: float = 0.0) -> Scored:
    """Score what ``babelrs-run`` wrote, matched to the samples by sensor and file name.

    Args:
        path: A JSON Lines file, or a folder with some (``*.jsonl``).
        samples: All images that may occur; each must.
        least_score: Detections below it are left out.

    Raises:
        BabelRSError: A line cannot be read, holds a number that cannot be, or names an image that the samples lack or
            that occurred before; or an image of the samples has no line. All of them are listed.
    """
    records, faults = _read_records(path)
    by_name = {sample.name: sample for group in samples.values() for sample in group}
    present = {record["sensor"] for record in records.values()}
    faults += [f"{place}: {name} is no image of the split" for name, place in _places(records, by_name)]
    faults += [
        f"{name}: no line, so nobody looked at it"
        for name, sample in by_name.items()
        if name not in records and sample.sensor.value in present
    ]
    faults += [f"{sensor}: no line at all" for sensor in samples if sensor.value not in present]
    if faults:
        raise collected(
            f"The detections in {path} do not fit the images",
            faults,
            "Run babelrs-run on exactly these images, or choose them with data.sensors and split.",
        )
    names = {sensor: _class_names(sensor, group, records) for sensor, group in samples.items()}
    scored = Scored()
    for sample in by_name.values():
        record = records[sample.name]
        found = _detections(record, names[sample.sensor], sample.sensor)
        scored.add(sample, found.select(found.scores >= least_score), record["width"], record["height"])
    return scored


def _places(records: Mapping[str, dict[str, Any]], known: Mapping[str, Sample]) -> list[tuple[str, str]]:
    return [(name, record["place"]) for name, record in records.items() if name not in known]


def _class_names(sensor: Sensor, group: Sequence[Sample], records: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    """The classes of both sides; one that has no objects is counted but in no mean."""
    true = {name for sample in group for name in sample.names}
    found = {item["label"] for sample in group for item in records[sample.name]["detections"]}
    if found and true and not found & true:
        raise BabelRSError(
            f"{sensor}: the detections are of {', '.join(sorted(found))}, the objects of {', '.join(sorted(true))}.",
            "Give the classes of both sides the same names.",
        )
    return tuple(sorted(true | found))


def _detections(record: Mapping[str, Any], classes: tuple[str, ...], sensor: Sensor) -> Detections:
    rows = record["detections"]
    if not rows:
        return Detections.empty(classes, sensor)
    boxes = to_le90([row["obb"] for row in rows])
    labels = np.array([classes.index(row["label"]) for row in rows], np.int32)
    return Detections(boxes, np.array([row["score"] for row in rows], np.float32), labels, classes, sensor)


def _read_records(path: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Every image's record by name, and the faults of the lines."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BabelRSError(f"{path} holds no *.jsonl file.", "Give the --out folder of babelrs-run, or a file in it.")
    records: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BabelRSError(f"{file}: cannot be read ({error}).", "Give JSON Lines of babelrs-run.") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            try:
                record = _checked_record(line)
            except (ValueError, TypeError, KeyError, BabelRSError) as error:
                faults.append(f"{place}: {_reason(error)}")
                continue
            name = f"{record['sensor']}/{_file_name(record['source'])}"
            if name in records:
                faults.append(f"{place}: {name} occurs in {records[name]['place']} already")
            records.setdefault(name, {**record, "place": place})
    return records, faults


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _file_name(source: str) -> str:
    return PureWindowsPath(source).name  # takes / and \ for separators


def _checked_record(line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict) or record.get("schema") != DETECTIONS_SCHEMA:
        raise ValueError(f"not a line of schema {DETECTIONS_SCHEMA!r}")
    Sensor.parse(record["sensor"])
    if not (isinstance(record["width"], int) and isinstance(record["height"], int)):
        raise ValueError("width and height are not whole numbers")
    for number, item in enumerate(record["detections"]):
        obb, score = [float(value) for value in item["obb"]], float(item["score"])
        if not isinstance(item["label"], str):
            raise ValueError(f"detection {number}: label {item['label']!r} is no name")
        if len(obb) != 5 or not all(map(math.isfinite, obb)) or not (obb[2] > 0 and obb[3] > 0):
            raise ValueError(f"detection {number}: obb {item['obb']} is not five finite numbers with positive sides")
        if not 0 <= score <= 1:  # NaN as well
            raise ValueError(f"detection {number}: score {score} is outside 0..1")
    return {key: record[key] for key in ("sensor", "source", "width", "height", "detections")}
