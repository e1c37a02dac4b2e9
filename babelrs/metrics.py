"""Accuracy of oriented detections: COCO-style average precision per class and sensor, and H-mAP over the sensors.

Average precision follows pycocotools (greedy matching in score order, precision envelope, 101 recall points) with
rotated IoU in place of horizontal IoU: on horizontal boxes it gives the same numbers. All values are fractions, NaN
where there is nothing to find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from babelrs.detections import Detections
from babelrs.matching import match
from babelrs.sensors import Sensor

ImageId = TypeVar("ImageId", int, str)
IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
_AT_50, _AT_75 = 0, 5
RECALL_POINTS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class GroundTruth:
    """The objects of one image of one sensor.

    Attributes:
        boxes: ``(N, 5)`` float32 ``cx, cy, w, h, theta`` in pixels of the full image and radians, ``le90``.
        labels: ``(N,)`` int32 indices into ``classes``.
        ignore: ``(N,)`` bool; ``True`` for objects that count neither when found nor when missed (DOTA "difficult").
        classes: The sensor's class names.
        sensor: The sensor that took the image.

    Raises:
        ValueError: Shapes disagree, or a label lies outside ``classes``.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]
    classes: tuple[str, ...]
    sensor: Sensor

    def __post_init__(self) -> None:
        ignore = np.asarray(self.ignore, bool)
        checked = Detections(self.boxes, np.zeros(len(self.labels), np.float32), self.labels, self.classes, self.sensor)
        if ignore.shape != (len(checked),):
            raise ValueError(f"ignore {ignore.shape}: ({len(checked)},) expected, one per box")
        for name, value in (("boxes", checked.boxes), ("labels", checked.labels), ("ignore", ignore)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "classes", checked.classes)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Precision:
    """Average precision as a fraction: at IoU 0.50, at 0.75, and the mean over 0.50:0.05:0.95."""

    ap50: float
    ap75: float
    ap: float

    @classmethod
    def mean(cls, parts: Iterable[Precision]) -> Precision:
        """The mean over ``parts``, those without ground truth (NaN) left out; NaN where none is left."""
        counted = [part for part in parts if not math.isnan(part.ap)]
        if not counted:
            return cls(math.nan, math.nan, math.nan)
        return cls(*np.mean([(part.ap50, part.ap75, part.ap) for part in counted], axis=0).tolist())

    def to_dict(self) -> dict[str, float | None]:
        """``ap50``, ``ap75`` and ``ap`` for JSON; ``None`` where there is no ground truth."""
        values = {"ap50": self.ap50, "ap75": self.ap75, "ap": self.ap}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class ClassResult:
    """The accuracy on one class of one sensor, with the objects that count and the detections made."""

    sensor: Sensor
    name: str
    precision: Precision
    num_objects: int
    num_detections: int


@dataclass(frozen=True)
class Evaluation:
    """Accuracy over a set of images of one or more sensors.

    Attributes:
        classes: One result per sensor and class, sorted by sensor; classes without objects are NaN and in no mean.
        num_images: Images per sensor.
    """

    classes: tuple[ClassResult, ...]
    num_images: Mapping[Sensor, int]

    @property
    def sensors(self) -> dict[Sensor, Precision]:
        """Per sensor, the mean over its classes (mAP)."""
        groups = groupby(self.classes, key=lambda result: result.sensor)
        return {sensor: Precision.mean(result.precision for result in results) for sensor, results in groups}

    @property
    def overall(self) -> Precision:
        """The mean over the classes of all sensors together, so a sensor with many classes weighs more."""
        return Precision.mean(result.precision for result in self.classes)

    @property
    def h_map(self) -> float:
        """H-mAP over the sensors that have ground truth; NaN where none has."""
        per_sensor = [precision.ap for precision in self.sensors.values() if not math.isnan(precision.ap)]
        return harmonic_map(per_sensor) if per_sensor else math.nan

    def to_dict(self) -> dict[str, object]:
        """Everything as plain values for JSON: ``h_map``, ``overall``, ``sensors`` and, within each, ``classes``."""
        return {
            "h_map": None if math.isnan(self.h_map) else self.h_map,
            "overall": self.overall.to_dict(),
            "sensors": {sensor.value: self._sensor_dict(sensor, mean) for sensor, mean in self.sensors.items()},
        }

    def _sensor_dict(self, sensor: Sensor, mean: Precision) -> dict[str, object]:
        classes = {
            result.name: {
                **result.precision.to_dict(),
                "num_objects": result.num_objects,
                "num_detections": result.num_detections,
            }
            for result in self.classes
            if result.sensor is sensor
        }
        return {**mean.to_dict(), "num_images": self.num_images[sensor], "classes": classes}

    def format_table(self) -> str:
        """A plain-text table in percent: every class, every sensor's mean, the overall mean and H-mAP."""
        width = max([12, *(len(result.name) for result in self.classes)])
        columns = f"{'AP50 %':>8}{'AP75 %':>8}{'mAP %':>8}{'objects':>9}{'detected':>10}"
        head = f"{'sensor':<8}{'class':<{width + 2}}{columns}"
        lines = [head, "-" * len(head)]
        for sensor, mean in self.sensors.items():
            for result in (result for result in self.classes if result.sensor is sensor):
                counts = f"{result.num_objects:>9}{result.num_detections:>10}"
                lines.append(f"{sensor:<8}{result.name:<{width + 2}}{_percent(result.precision)}{counts}")
            lines.append(f"{sensor:<8}{'mean':<{width + 2}}{_percent(mean)}   ({self.num_images[sensor]} images)")
        lines.append(f"{'all':<8}{'mean':<{width + 2}}{_percent(self.overall)}")
        return "\n".join([*lines, f"{'H-mAP':<{width + 10}}{'':>16}{_cell(self.h_map)}"])


@dataclass
class _Tally:
    """What is gathered of one class over the images."""

    num_objects: int = 0
    scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    matched: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    ignored: list[npt.NDArray[np.bool_]] = field(default_factory=list)


def harmonic_map(per_sensor: Mapping[Sensor, float] | Iterable[float]) -> float:
    """H-mAP: the harmonic mean of the sensors' mAP; 0 when any of them is 0.

    Args:
        per_sensor: mAP per sensor, all as fractions or all in percent; the result has the same unit.

    Raises:
        ValueError: There is no value, or one is negative, NaN or infinite.
    """
    values = [float(value) for value in (per_sensor.values() if isinstance(per_sensor, Mapping) else per_sensor)]
    if not values:
        raise ValueError("H-mAP needs the mAP of at least one sensor")
    for value in values:
        if not 0 <= value < math.inf:
            raise ValueError(f"the mAP of a sensor is {value}; it must be a finite number, not below 0")
    return 0.0 if min(values) == 0 else len(values) / sum(1 / value for value in values)


def average_precision(
    scores: npt.ArrayLike, matched: npt.ArrayLike, num_ground_truth: int, ignored: npt.ArrayLike | None = None
) -> float:
    """Area under the precision envelope at 101 recall points, as COCO computes it.

    Args:
        scores: ``(D,)``; equal scores keep their order.
        matched: ``(D,)`` bool; ``True`` for a true positive.
        num_ground_truth: The number of objects that count.
        ignored: ``(D,)`` bool; ``True`` for detections that count neither way.

    Returns:
        A fraction; NaN where ``num_ground_truth`` is 0.

    Raises:
        ValueError: Lengths differ, or more detections are true positives than there are objects.
    """
    values, hits = np.asarray(scores, np.float64), np.asarray(matched, bool)
    skipped = np.zeros(hits.shape, bool) if ignored is None else np.asarray(ignored, bool)
    if values.ndim != 1 or hits.shape != values.shape or skipped.shape != values.shape:
        raise ValueError(
            f"scores {values.shape}, matched {hits.shape}, ignored {skipped.shape}: (D,) expected for each"
        )
    order = np.argsort(-values, kind="stable")
    hits = hits[order][~skipped[order]]
    if hits.sum() > num_ground_truth:
        raise ValueError(f"{hits.sum()} true positives for {num_ground_truth} objects")
    if num_ground_truth == 0:
        return math.nan
    true_positives = np.cumsum(hits)
    precision = true_positives / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # 0 where that recall is never reached
    return float(envelope[np.searchsorted(true_positives / num_ground_truth, RECALL_POINTS, side="left")].mean())


def evaluate(
    detections: Mapping[ImageId, Detections],
    ground_truth: Mapping[ImageId, GroundTruth],
    max_detections: int | None = None,
) -> Evaluation:
    """Accuracy of ``detections`` against ``ground_truth``, over images of any mix of sensors.

    Classes are compared by name within a sensor, so the two sides may list them differently. Detections of a class
    that has no objects are counted and otherwise left out, as in COCO. The order of the mappings plays no part.

    Args:
        detections: Per image; an image that is missing has none.
        ground_truth: Per image, also for images without objects.
        max_detections: Best-scored detections kept per image and class, as in COCO (there 100); ``None`` keeps all.

    Raises:
        ValueError: Detections for an image that ``ground_truth`` lacks, or of another sensor than it says.
    """
    unknown = [image for image in detections if image not in ground_truth]
    if unknown:
        raise ValueError(f"detections for {len(unknown)} images without ground truth, such as {unknown[0]!r}")
    tallies: dict[tuple[Sensor, str], _Tally] = {}
    num_images: dict[Sensor, int] = {}
    for image in sorted(ground_truth):  # equal scores fall in this order
        truth: GroundTruth = ground_truth[image]
        found: Detections = detections[image] if image in detections else Detections.empty(truth.classes, truth.sensor)
        if found.sensor is not truth.sensor:
            raise ValueError(f"image {image!r}: detections are {found.sensor}, the ground truth is {truth.sensor}")
        num_images[truth.sensor] = num_images.get(truth.sensor, 0) + 1
        for name in dict.fromkeys([*truth.classes, *found.classes]):
            _count_image(tallies.setdefault((truth.sensor, name), _Tally()), name, found, truth, max_detections)
    results = [_class_result(sensor, name, tally) for (sensor, name), tally in tallies.items()]
    return Evaluation(tuple(sorted(results, key=lambda result: list(Sensor).index(result.sensor))), num_images)


def _count_image(tally: _Tally, name: str, found: Detections, truth: GroundTruth, max_detections: int | None) -> None:
    """Add one image's detections and objects of class ``name`` to ``tally``."""
    objects = np.flatnonzero(truth.labels == _index(truth.classes, name))
    mine = np.flatnonzero(found.labels == _index(found.classes, name))
    mine = mine[np.argsort(-found.scores[mine], kind="stable")][:max_detections]
    matches = match(found.boxes[mine], truth.boxes[objects], truth.ignore[objects], IOU_THRESHOLDS)
    tally.num_objects += int((~truth.ignore[objects]).sum())
    tally.scores.append(found.scores[mine])
    tally.matched.append(matches.matched)
    tally.ignored.append(matches.ignored)


def _index(classes: Sequence[str], name: str) -> int:
    """Where ``name`` stands in ``classes``; -1, which is no label, where it does not."""
    return classes.index(name) if name in classes else -1


def _class_result(sensor: Sensor, name: str, tally: _Tally) -> ClassResult:
    scores = np.concatenate(tally.scores)
    matched, ignored = np.concatenate(tally.matched, axis=1), np.concatenate(tally.ignored, axis=1)
    values = [
        average_precision(scores, hits, tally.num_objects, skipped)
        for hits, skipped in zip(matched, ignored, strict=True)
    ]
    precision = Precision(values[_AT_50], values[_AT_75], float(np.mean(values)))
    return ClassResult(sensor, name, precision, tally.num_objects, len(scores))


def _percent(precision: Precision) -> str:
    return "".join(_cell(value) for value in (precision.ap50, precision.ap75, precision.ap))


def _cell(value: float) -> str:
    return f"{'-' if math.isnan(value) else format(100 * value, '.2f'):>8}"
