"""Settles which of the overlapping detections of several tiles are one object, and what is reported for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_intersection, rotated_nms, to_corners, to_le90
from babelrs.detections import Detections

OTHER_CLASS_IOU = 0.6
"""Overlap above which boxes that two tiles give different classes are one object: the better score says its class.
Within a tile both stay, as the model meant."""
CONTAINED = 0.5
"""A fragment goes where this share of it lies in a box that another tile saw whole: that tile saw all there is."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """Detections of several tiles that overlap.

    Attributes:
        found: ``N`` detections in pixels of the image.
        cut: ``(N,)``, whether an edge of the tile cuts the object.
        tiles: ``(N,)``, from which tile each is.
        windows: ``(N, 5)``, that tile as a box in pixels of the image.
        same: Pairs of them, of two tiles, that agree about the part that both tiles see.
    """

    found: Detections
    cut: Bools
    tiles: npt.NDArray[np.int64]
    windows: npt.NDArray[np.float32]
    same: frozenset[tuple[int, int]]


def settle(cluster: Cluster, iou_threshold: float) -> Detections:
    """One detection an object.

    Whole boxes suppress copies from other tiles, the best score first. Fragments go that lie in a whole box; the rest
    are joined where they agree.

    Args:
        cluster: Overlapping detections.
        iou_threshold: Rotated IoU above which two boxes of a class are one object.
    """
    found = cluster.found
    shared = rotated_intersection(found.boxes, found.boxes)  # (N, N)
    whole = _best_whole(cluster, shared, iou_threshold)
    area = np.maximum(found.boxes[:, 2].astype(np.float64) * found.boxes[:, 3], 1e-12)
    contained = shared / area[:, None]  # share of row i in column j
    agree = _pair_mask(cluster)
    other_tile = cluster.tiles[:, None] != cluster.tiles[None]
    seen_whole = ((contained >= CONTAINED) | agree)[:, whole] & other_tile[:, whole]
    fragments = np.flatnonzero(cluster.cut & ~seen_whole.any(axis=1))
    groups = _connected(fragments, agree)
    joined = _without_strays(_joined(cluster, groups), [{int(cluster.tiles[one]) for one in group} for group in groups])
    both = Detections.concatenate([found.select(whole), joined])
    whole_first = -np.arange(len(both), dtype=np.float64)
    return both.select(rotated_nms(both.boxes, whole_first, both.labels, iou_threshold))


def join(boxes: npt.NDArray[np.float32], windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The box of an object of which tiles saw fragments.

    Of the fragments and of the box around them, the one that agrees best with what every tile saw: a model may box what
    it sees, and then the fragments must be put together, or guess the whole from a part.

    Args:
        boxes: ``(N, 5)``, in pixels of the image.
        windows: ``(N, 5)``, the tile of each.

    Returns:
        ``(5,)``.
    """
    candidates = np.concatenate([_around(boxes), boxes])  # (2 N, 5)
    seen = np.array([rotated_intersection(boxes[i : i + 1], windows[i : i + 1])[0, 0] for i in range(len(boxes))])
    expected = rotated_intersection(candidates, windows)  # (2 N, N)
    shared = np.minimum(rotated_intersection(candidates, boxes), np.minimum(expected, seen))
    agreement = shared / np.maximum(expected + seen - shared, 1e-12) @ seen  # who saw more of it knows more
    best: npt.NDArray[np.float32] = candidates[int(np.argmax(agreement))]
    return best


def _around(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The smallest boxes around all ``boxes`` ``(N, 5)`` at the angle of each, ``(N, 5)`` ``le90``."""
    points = to_corners(boxes).reshape(-1, 2)
    middle = points.mean(axis=0)
    angles = boxes[:, 4].astype(np.float64)
    axes = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], axis=-1).reshape(-1, 2, 2)
    turned = np.einsum("kij,pj->kpi", axes, points - middle)  # (N, 4 N, 2): along and across each angle
    low, high = turned.min(axis=1), turned.max(axis=1)
    centres = middle + np.einsum("kji,kj->ki", axes, (low + high) / 2)
    return to_le90(np.column_stack([centres, high - low, angles]))


def _best_whole(cluster: Cluster, shared: Floats, iou_threshold: float) -> npt.NDArray[np.int64]:
    """Indices of the whole boxes that stay, the best score first."""
    found = cluster.found
    kept: list[int] = []
    area = found.boxes[:, 2].astype(np.float64) * found.boxes[:, 3]
    iou = shared / np.maximum(area[:, None] + area[None] - shared, 1e-12)
    alike = found.labels[:, None] == found.labels[None]
    double = (cluster.tiles[:, None] != cluster.tiles[None]) & (iou > np.where(alike, iou_threshold, OTHER_CLASS_IOU))
    for index in np.argsort(-found.scores, kind="stable"):
        if not cluster.cut[index] and not double[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)


def _pair_mask(cluster: Cluster) -> Bools:
    agree = np.zeros((len(cluster.found), len(cluster.found)), np.bool_)
    for a, b in cluster.same:
        agree[a, b] = agree[b, a] = True
    return agree


def _connected(members: npt.NDArray[np.int64], agree: Bools) -> list[list[int]]:
    """``members`` in groups that ``agree`` ``(N, N)`` connects, each in order."""
    groups, left = [], [int(member) for member in members]
    while left:
        group, waiting = [], [left.pop(0)]
        while waiting:
            group.append(waiting.pop())
            near = [member for member in left if agree[group[-1], member]]
            waiting += near
            left = [member for member in left if member not in near]
        groups.append(sorted(group))
    return groups


def _joined(cluster: Cluster, groups: list[list[int]]) -> Detections:
    """One detection a group, with the score and class of its best."""
    found = cluster.found
    best = found.select(np.array([max(group, key=lambda index: found.scores[index]) for group in groups], np.int64))
    boxes = [
        join(found.boxes[group], cluster.windows[group]) if len(group) > 1 else found.boxes[group[0]]
        for group in groups
    ]
    return replace(best, boxes=np.array(boxes, np.float32))


def _without_strays(joined: Detections, tiles: list[set[int]]) -> Detections:
    """Joined fragments without those that lie in a larger one, of other tiles."""
    shared = rotated_intersection(joined.boxes, joined.boxes)
    area = np.maximum(joined.boxes[:, 2].astype(np.float64) * joined.boxes[:, 3], 1e-12)
    kept: list[int] = []
    for index in np.argsort(-area, kind="stable").tolist():
        inside = [other for other in kept if shared[index, other] >= CONTAINED * area[index]]
        if all(tiles[index] & tiles[other] for other in inside):
            kept.append(index)
    return joined.select(np.array(kept, np.int64))
