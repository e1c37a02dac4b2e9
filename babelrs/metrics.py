"""Accuracy of oriented detections: COCO-style average precision per class and sensor, and H-mAP over the sensors.

Average precision follows pycocotools (greedy matching in score order, precision envelope, 101 recall points) with
rotated IoU in place of horizontal IoU: on horizontal boxes it gives the same numbers. All values are fractions, NaN
where there is nothing to find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from babelrs.detections import Detections
from babelrs.matching import Candidates, assign
from babelrs.pool import GroundTruth as GroundTruth
from babelrs.pool import ImageId, Pool, pool_images
from babelrs.sensors import Sensor

IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
AT_50, AT_75 = 0, 5
RECALL_POINTS = np.linspace(0.0, 1.0, 101)


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
    return _interpolated(hits, num_ground_truth)


def _interpolated(hits: npt.NDArray[np.bool_], num_ground_truth: int) -> float:
    if num_ground_truth == 0:
        return math.nan
    return float(precision_at_recall(hits, num_ground_truth)[0].mean())


def precision_at_recall(
    hits: npt.NDArray[np.bool_], num_ground_truth: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The precision envelope at the 101 recalls 0, 0.01 .. 1; its mean is the average precision.

    Args:
        hits: ``(D,)`` whether each detection that counts is a true positive, by falling score.
        num_ground_truth: The number of objects that count, 1 or more.

    Returns:
        ``(101,)`` the best precision at that recall or beyond, 0 where it is never reached; ``(101,)`` the row of the
        detection that reaches it, ``D`` where none does.
    """
    true_positives = np.cumsum(hits)
    precision = true_positives / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    rows = np.searchsorted(true_positives / num_ground_truth, RECALL_POINTS, side="left")
    return envelope[rows], rows.astype(np.int64)


@dataclass(frozen=True)
class Matched:
    """A sensor's pool, matched.

    Attributes:
        pool: The images.
        candidates: The pairs that overlap by 0.50 or more, within a class.
        chosen: ``(T, D)`` row of the object each detection got at each of :data:`IOU_THRESHOLDS`; -1: none.
        ignore: ``(G,)`` the objects that did not count.
    """

    pool: Pool
    candidates: Candidates
    chosen: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        """``(T, D)`` whether a detection is a true positive."""
        return (self.chosen >= 0) & ~self.ignored

    @property
    def ignored(self) -> npt.NDArray[np.bool_]:
        """``(T, D)`` whether a detection fell to an object that does not count, so it counts neither way."""
        on_ignored: npt.NDArray[np.bool_] = np.append(self.ignore, False)[self.chosen]  # -1 reads the appended row
        return on_ignored


def match_pool(pool: Pool) -> Matched:
    """Match a sensor's detections to its objects, class by class."""
    return rematch(pool, pool.candidates(IOU_THRESHOLDS[0]), pool.objects.ignore)


def rematch(pool: Pool, candidates: Candidates, ignore: npt.NDArray[np.bool_]) -> Matched:
    """The same with overlaps that are known already and objects of one's own choice, ``(G,)``, that do not count."""
    return Matched(pool, candidates, assign(candidates, ignore, len(pool.found), IOU_THRESHOLDS), ignore)


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
        ValueError: Detections for an image that ``ground_truth`` lacks or of another sensor than it says, or a number
            that is not finite.
    """
    pools = pool_images(detections, ground_truth, max_detections)
    return evaluate_matched([match_pool(pool) for pool in pools.values()])


def evaluate_matched(sensors: Sequence[Matched]) -> Evaluation:
    """The same from pools that are matched already, one a sensor."""
    results = [result for matched in sensors for result in _class_results(matched)]
    return Evaluation(tuple(results), {matched.pool.sensor: len(matched.pool.images) for matched in sensors})


def _class_results(matched: Matched) -> list[ClassResult]:
    pool = matched.pool
    num_objects = np.bincount(pool.objects.labels[~matched.ignore], minlength=len(pool.classes)).tolist()
    num_detections = np.bincount(pool.found.labels, minlength=len(pool.classes)).tolist()
    precisions = class_precisions(matched)
    rows = zip(pool.classes, precisions, num_objects, num_detections, strict=True)
    return [ClassResult(pool.sensor, name, precision, *counts) for name, precision, *counts in rows]


def class_precisions(matched: Matched, extra_ignored: npt.NDArray[np.bool_] | None = None) -> list[Precision]:
    """Average precision per class of the pool, in its order.

    Args:
        matched: The matched pool.
        extra_ignored: ``(T, D)`` further detections that count neither way.
    """
    found, objects = matched.pool.found, matched.pool.objects
    hits, ignored = matched.hits, matched.ignored if extra_ignored is None else matched.ignored | extra_ignored
    precisions = []
    for label in range(len(matched.pool.classes)):
        rows = np.flatnonzero(found.labels == label)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        count = int(np.count_nonzero((objects.labels == label) & ~matched.ignore))
        values = [_interpolated(hits[at, rows][~ignored[at, rows]], count) for at in range(len(IOU_THRESHOLDS))]
        precisions.append(Precision(values[AT_50], values[AT_75], float(np.mean(values))))
    return precisions


def _percent(precision: Precision) -> str:
    return "".join(_cell(value) for value in (precision.ap50, precision.ap75, precision.ap))


def _cell(value: float) -> str:
    return f"{'-' if math.isnan(value) else format(100 * value, '.2f'):>8}"
