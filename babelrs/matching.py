"""Greedy matching of one image's detections to its ground truth, as COCO's evaluation does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_iou

_PAIRS_AT_ONCE = 4_000_000  # bounds the IoU table to 32 MB


@dataclass(frozen=True)
class Matches:
    """What became of one image's detections of one class.

    Attributes:
        matched: ``(T, D)`` bool: the detection found an object at that threshold.
        ignored: ``(T, D)`` bool: the object it found does not count, so neither does the detection.
    """

    matched: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]


def match(
    detections: npt.NDArray[np.float32],
    objects: npt.NDArray[np.float32],
    ignore: npt.NDArray[np.bool_],
    iou_thresholds: Sequence[float],
) -> Matches:
    """Give each detection, best first, the free object it overlaps most, at every threshold.

    The order of preference is COCO's: an object that counts before an ignored one, then the higher IoU, then the later
    object. An object that counts is found once; an ignored one takes any number of detections, like a COCO crowd
    region or a "difficult" DOTA object. Unlike a COCO crowd region its overlap is the plain IoU.

    Args:
        detections: ``(D, 5)`` boxes by descending score.
        objects: ``(G, 5)`` boxes.
        ignore: ``(G,)``; ``True`` for objects that do not count.
        iou_thresholds: ``T`` values; a match needs at least that IoU.
    """
    order = np.argsort(ignore, kind="stable")
    objects, hollow = objects[order], ignore[order].tolist()
    matched = np.zeros((len(iou_thresholds), len(detections)), bool)
    ignored = np.zeros_like(matched)
    candidates = list(_overlapping(detections, objects, min(iou_thresholds)))
    for row, threshold in enumerate(iou_thresholds):
        taken = [False] * len(objects)
        for detection, overlaps in candidates:
            chosen = _choose(overlaps, taken, hollow, threshold)
            if chosen is not None:
                matched[row, detection], ignored[row, detection] = True, hollow[chosen]
                taken[chosen] = not hollow[chosen]
    return Matches(matched, ignored)


def _choose(
    overlaps: Sequence[tuple[int, float]], taken: Sequence[bool], hollow: Sequence[bool], threshold: float
) -> int | None:
    """The object a detection gets out of those it overlaps, which are sorted with the ignored ones last."""
    chosen, best = None, min(threshold, 1 - 1e-10)
    for candidate, iou in overlaps:
        if taken[candidate] or iou < best:
            continue
        if chosen is not None and hollow[candidate] and not hollow[chosen]:
            break
        chosen, best = candidate, iou
    return chosen


def _overlapping(
    detections: npt.NDArray[np.float32], objects: npt.NDArray[np.float32], lowest: float
) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Detections in order, each with the objects it overlaps by at least ``lowest``, in order."""
    if not len(objects):
        return
    step = max(1, _PAIRS_AT_ONCE // len(objects))
    for start in range(0, len(detections), step):
        table = rotated_iou(detections[start : start + step], objects)
        rows, columns = np.nonzero(table >= min(lowest, 1 - 1e-10))
        pairs = zip(rows.tolist(), columns.tolist(), table[rows, columns].tolist(), strict=True)
        for row, group in groupby(pairs, key=itemgetter(0)):
            yield start + row, [(column, iou) for _, column, iou in group]
