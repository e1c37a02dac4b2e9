"""Precision against recall, recall against false alarms, and what the scores are worth; all at IoU 0.5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.metrics import AT_50, Matched, precision_at_recall

Floats = npt.NDArray[np.float64]

FALSE_ALARMS_PER_IMAGE = (0.1, 0.3, 1.0, 3.0, 10.0)
SCORE_BINS = 20


@dataclass(frozen=True)
class PrecisionRecall:
    """One class's curve.

    Attributes:
        name: The class.
        ap50: Average precision, a fraction.
        precision: ``(101,)`` envelope at the recalls 0, 0.01 .. 1.
        score: ``(101,)`` score that reaches the recall; NaN where none does.
    """

    name: str
    ap50: float
    precision: Floats
    score: Floats


@dataclass(frozen=True)
class OperatingPoint:
    """The score threshold with the best F1 over all classes of a sensor together.

    Attributes:
        score: Detections from this score on; NaN where nothing is found.
        precision: Share of them that are right.
        recall: Share of the objects they find.
        f1: Harmonic mean of the two.
    """

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Calibration:
    """How often detections of a score are right.

    Attributes:
        edges: ``(B + 1,)`` bounds of the bins of score.
        right: ``(B,)`` true positives in each.
        wrong: ``(B,)`` false alarms in each.
        error: Expected calibration error: mean distance of a bin's precision from its mean score, by its detections.
    """

    edges: Floats
    right: npt.NDArray[np.int64]
    wrong: npt.NDArray[np.int64]
    error: float


def ranked_hits(matched: Matched, label: int | None = None) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Whether each detection that counts is right, and its score, by falling score; of one class or of all."""
    found = matched.pool.found
    counts = ~matched.ignored[AT_50]
    rows = np.flatnonzero(counts if label is None else counts & (found.labels == label))
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    return matched.hits[AT_50][rows], found.scores[rows]


def num_objects(matched: Matched, label: int | None = None) -> int:
    """The objects that count, of one class or of all."""
    counting = ~matched.ignore
    return int(np.count_nonzero(counting if label is None else counting & (matched.pool.objects.labels == label)))


def precision_recall(matched: Matched) -> list[PrecisionRecall]:
    """The curve of every class that has objects."""
    curves = []
    for label, name in enumerate(matched.pool.classes):
        count = num_objects(matched, label)
        if count:
            hits, scores = ranked_hits(matched, label)
            precision, rows = precision_at_recall(hits, count)
            curves.append(
                PrecisionRecall(name, float(precision.mean()), precision, np.append(scores, np.nan)[rows].astype(float))
            )
    return curves


def recall_at_false_alarms(
    hits: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float32],
    count: int,
    num_images: int,
    rates: Sequence[float] = FALSE_ALARMS_PER_IMAGE,
) -> list[float]:
    """The highest recall with at most so many false alarms an image (FROC); NaN without objects.

    Args:
        hits: ``(D,)`` by falling score; see :func:`ranked_hits`.
        scores: ``(D,)``; a threshold cannot part equal ones.
        count: Objects that count.
        num_images: Images, also those without objects.
        rates: False alarms per image.
    """
    if not count:
        return [math.nan] * len(rates)
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    alarms = np.append(0, np.cumsum(~hits)[last])
    recall = np.append(0, np.cumsum(hits)[last]) / count
    return [float(recall[np.searchsorted(alarms, rate * num_images, side="right") - 1]) for rate in rates]


def operating_point(matched: Matched) -> OperatingPoint:
    """The threshold with the best F1; of equal ones the highest."""
    hits, scores = ranked_hits(matched)
    count = num_objects(matched)
    if not count or not hits.any():
        return OperatingPoint(math.nan, math.nan, 0.0 if count else math.nan, 0.0 if count else math.nan)
    true = np.cumsum(hits)
    f1 = 2 * true / (np.arange(1, len(hits) + 1) + count)
    f1[np.flatnonzero(scores[1:] == scores[:-1])] = -1.0  # a threshold takes all of a score or none
    best = int(np.argmax(f1))
    return OperatingPoint(
        float(scores[best]), float(true[best] / (best + 1)), float(true[best] / count), float(f1[best])
    )


def calibration(matched: Matched, bins: int = SCORE_BINS) -> Calibration:
    """Right and wrong detections by score."""
    hits, scores = ranked_hits(matched)
    edges = np.linspace(0, 1, bins + 1)
    right, wrong = (np.histogram(scores[side], edges)[0] for side in (hits, ~hits))
    total = right + wrong
    sums = np.histogram(scores, edges, weights=scores.astype(np.float64))[0]
    error = float(np.abs(right - sums).sum() / total.sum()) if total.sum() else math.nan
    return Calibration(edges, right.astype(np.int64), wrong.astype(np.int64), error)
