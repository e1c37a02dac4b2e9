"""Greedy matching of detections to ground truth as COCO's evaluation does it, for all images of a set at once.

Detections and objects carry a *group*, such as the number of their image and class: only members of one group are ever
compared. What costs time is the exact overlap, so it is computed for true neighbours only (:func:`find_candidates`),
once; matching on it (:func:`assign`) can be repeated with other ignored objects, as for the bins of object size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.boxes import Boxes, Floats, paired_iou

Indices = npt.NDArray[np.int64]

UNMATCHED = -1
_PAIRS_AT_ONCE = 1_000_000  # bounds the memory of a block of pairs to some 100 MB
_STRIPS = 1 << 20  # of a group at most; the first and last stay empty, so that no strip has a neighbour elsewhere
_HIGHEST = 1 - 1e-10  # COCO's allowance: a perfect overlap passes a threshold of 1
_WORTH_A_ROUND = 500  # pairs that a round may look at for each detection it serves; more, and one by one is faster
_SLACK = 1e-6  # relative; the bound on the overlap must not fall below the exact one by rounding


@dataclass(frozen=True)
class Candidates:
    """The pairs that overlap enough to be matched at all.

    Attributes:
        detections: ``(P,)`` rows of the detections, ascending.
        objects: ``(P,)`` rows of the objects.
        iou: ``(P,)`` exact rotated IoU.
    """

    detections: Indices
    objects: Indices
    iou: Floats


@dataclass(frozen=True)
class _Extents:
    """Boxes by their centres, half the sides of the horizontal box around each, reaches and areas, in pixels."""

    centres: Floats
    halves: Floats
    areas: Floats

    @classmethod
    def of(cls, boxes: Boxes) -> _Extents:
        wide = boxes.astype(np.float64)
        cosine, sine = np.abs(np.cos(wide[:, 4])), np.abs(np.sin(wide[:, 4]))
        width, height = wide[:, 2], wide[:, 3]
        halves = np.column_stack([width * cosine + height * sine, width * sine + height * cosine]) / 2
        return cls(wide[:, :2], halves, width * height)


def find_candidates(
    detections: Boxes,
    detection_groups: npt.NDArray[Any],
    objects: Boxes,
    object_groups: npt.NDArray[Any],
    lowest_iou: float,
) -> Candidates:
    """The pairs of one group whose IoU reaches ``lowest_iou``.

    The time follows the number of neighbours: the horizontal boxes around both bound the overlap, and only what is left
    gets the exact one. The memory is bounded by blocks of pairs.

    Args:
        detections: ``(D, 5)`` boxes.
        detection_groups: ``(D,)`` integers.
        objects: ``(G, 5)`` boxes.
        object_groups: ``(G,)`` integers.
        lowest_iou: Above 0, at most 1.

    Raises:
        ValueError: ``lowest_iou`` lies outside, or a box is not finite or has a negative side.
    """
    if not 0 < lowest_iou <= 1:
        raise ValueError(f"lowest_iou is {lowest_iou}; it must lie in (0, 1]")
    found, real = _Extents.of(detections), _Extents.of(objects)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows, columns in _neighbours(found, detection_groups, real, object_groups):
        near = _may_reach(found, rows, real, columns, lowest_iou)
        rows, columns = rows[near], columns[near]
        iou = paired_iou(detections[rows], objects[columns])
        enough = iou >= min(lowest_iou, _HIGHEST)
        parts.append((rows[enough], columns[enough], iou[enough]))
    return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _neighbours(
    found: _Extents, found_groups: npt.NDArray[Any], real: _Extents, real_groups: npt.NDArray[Any]
) -> Iterator[tuple[Indices, Indices]]:
    """Rows of the detections and objects of one group that may overlap, in blocks, detections ascending.

    A group is cut into strips along y, as high as any of its boxes can reach: what a box may overlap lies in its own
    strip or the one above or below, where it is sought along x.
    """
    count = len(real.areas)
    if not count:
        return
    groups, group_of = np.unique(real_groups, return_inverse=True)
    mine = np.minimum(np.searchsorted(groups, found_groups), len(groups) - 1)
    known = groups[mine] == found_groups
    largest, largest_found = np.zeros((len(groups), 2)), np.zeros((len(groups), 2))
    np.maximum.at(largest, group_of, real.halves)
    np.maximum.at(largest_found, mine[known], found.halves[known])
    height = (largest + largest_found)[:, 1] * (1 + _SLACK) + 1e-6
    strips = group_of * _STRIPS + _strip(real.centres[:, 1], height[group_of])
    wanted = mine * _STRIPS + _strip(found.centres[:, 1], height[mine])
    reach = (found.halves[:, 0] + largest[mine, 0]) * (1 + _SLACK)
    order, first, numbers = _along_x(real.centres[:, 0], strips, found.centres[:, 0], reach, wanted)
    numbers = np.where(known[:, None], numbers, 0).reshape(-1)
    first = first.reshape(-1)
    for block in _blocks(numbers):
        rows = np.repeat(np.arange(block.start, block.stop), numbers[block])
        within = np.arange(len(rows)) - np.repeat(np.cumsum(numbers[block]) - numbers[block], numbers[block])
        yield rows // 3, order[np.repeat(first[block], numbers[block]) + within]


def _along_x(x: Floats, strips: Indices, found_x: Floats, reach: Floats, wanted: Indices) -> tuple[Indices, ...]:
    """Where the objects within ``reach`` of each detection along x stand, in the wanted strip and those beside it.

    Returns:
        ``(G,)`` an order of the objects; ``(D, 3)`` the first place in it and the number of places, by strip.
    """
    count = len(x)
    rank = np.empty(count, np.int64)  # of the centre among all objects: whole numbers sort without rounding
    rank[np.argsort(x, kind="stable")] = np.arange(count)
    order = np.lexsort((rank, strips))
    known, strip_of = np.unique(strips[order], return_inverse=True)
    keys = strip_of * (count + 1) + rank[order]
    sorted_x = np.sort(x)
    three = wanted[:, None] + np.array([-1, 0, 1])
    place = np.minimum(np.searchsorted(known, three), len(known) - 1)
    begin, end = np.searchsorted(sorted_x, found_x - reach, "left"), np.searchsorted(sorted_x, found_x + reach, "right")
    first, last = (np.searchsorted(keys, place * (count + 1) + side[:, None]) for side in (begin, end))
    return order, first, np.where(known[place] == three, last - first, 0)


def _strip(y: Floats, height: Floats) -> Indices:
    """The number of the strip, 1 to ``_STRIPS - 2``; what lies further out shares the outermost, which does no harm."""
    half = _STRIPS // 2
    return (np.clip(np.floor(y / height), 2 - half, half - 3) + half).astype(np.int64)


def _blocks(numbers: Indices) -> Iterator[slice]:
    """Runs of rows with about ``_PAIRS_AT_ONCE`` pairs in each; a row is never divided."""
    totals = np.cumsum(numbers)
    start = 0
    while start < len(numbers):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _PAIRS_AT_ONCE, "right")))
        yield slice(start, stop)
        start = stop


def _may_reach(
    found: _Extents, rows: Indices, real: _Extents, columns: Indices, lowest_iou: float
) -> npt.NDArray[np.bool_]:
    """Whether the horizontal boxes and the areas leave room for that IoU: ``I >= t (A + B) / (1 + t)``."""
    apart = np.abs(found.centres[rows] - real.centres[columns])
    ours, theirs = found.halves[rows], real.halves[columns]
    sides = np.minimum(ours + theirs - apart, 2 * np.minimum(ours, theirs))  # (P, 2)
    shared = np.maximum(sides, 0).prod(axis=1)
    areas, others = found.areas[rows], real.areas[columns]
    most = np.minimum(shared, np.minimum(areas, others)) * (1 + _SLACK)
    wanted = min(lowest_iou, _HIGHEST)
    possible: npt.NDArray[np.bool_] = most >= wanted / (1 + wanted) * (areas + others)
    return possible


def assign(
    candidates: Candidates, ignore: npt.NDArray[np.bool_], num_detections: int, iou_thresholds: Sequence[float]
) -> npt.NDArray[np.int32]:
    """Give each detection, best first, the free object it overlaps most, at every threshold.

    The order of preference is COCO's: an object that counts before an ignored one, then the higher IoU, then the later
    object. An object that counts is found once; an ignored one takes any number of detections, like a COCO crowd
    region or a "difficult" DOTA object. Unlike a COCO crowd region its overlap is the plain IoU.

    Args:
        candidates: Pairs; of the detections that share an object, a lower row is served first.
        ignore: ``(G,)``; ``True`` for objects that do not count.
        num_detections: ``D``.
        iou_thresholds: ``T`` values, none below the one the candidates were sought with.

    Returns:
        ``(T, D)`` int32 row of the object each detection got; -1 where it got none.
    """
    chosen = np.full((len(iou_thresholds), num_detections), UNMATCHED, np.int32)
    taken = np.zeros((len(iou_thresholds), len(ignore)), bool)
    order = np.lexsort((-candidates.objects, -candidates.iou, ignore[candidates.objects], candidates.detections))
    rows, columns, iou = candidates.detections[order], candidates.objects[order], candidates.iou[order]
    least = np.minimum(np.asarray(iou_thresholds), _HIGHEST)
    while len(rows):
        ready = _ready(rows, columns, ignore)
        if np.count_nonzero(_firsts(rows[ready])) * _WORTH_A_ROUND < len(rows):
            _one_by_one(rows, columns, iou >= least[:, None], ignore, taken, chosen)
            break
        served = np.flatnonzero(ready)
        for index, threshold in enumerate(least):
            free = served[(iou[served] >= threshold) & ~taken[index, columns[served]]]
            best = free[_firsts(rows[free])]
            chosen[index, rows[best]] = columns[best]
            taken[index, columns[best]] = ~ignore[columns[best]]
        rows, columns, iou = rows[~ready], columns[~ready], iou[~ready]
    return chosen


def _one_by_one(
    rows: Indices,
    columns: Indices,
    enough: npt.NDArray[np.bool_],
    ignore: npt.NDArray[np.bool_],
    taken: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int32],
) -> None:
    """Serve the rest in turn: for detections that nearly all want the same objects, when rounds would not end."""
    bounds = np.append(np.flatnonzero(_firsts(rows)), len(rows)).tolist()
    for begin, end in pairwise(bounds):
        mine = columns[begin:end]
        free = enough[:, begin:end] & ~taken[:, mine]  # (T, candidates), best first
        index = np.flatnonzero(free.any(axis=1))
        best = mine[free[index].argmax(axis=1)]
        chosen[index, rows[begin]] = best
        taken[index, best] = ~ignore[best]


def _ready(rows: Indices, columns: Indices, ignore: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pairs of detections whose turn it is: no better detection is still waiting for an object of theirs.

    That is so for the first of all at least, so every round serves some; an ignored object makes nobody wait.
    """
    first = np.empty(len(ignore), np.int64)
    first[columns[::-1]] = rows[::-1]  # rows ascend, so the lowest one of an object is written last
    free = ignore[columns] | (first[columns] == rows)
    starts = np.flatnonzero(_firsts(rows))
    ready: npt.NDArray[np.bool_] = np.repeat(np.logical_and.reduceat(free, starts), np.diff(starts, append=len(rows)))
    return ready


def _firsts(rows: Indices) -> npt.NDArray[np.bool_]:
    """Where a new value begins in a sorted array."""
    return np.append(True, rows[1:] != rows[:-1])[: len(rows)]
