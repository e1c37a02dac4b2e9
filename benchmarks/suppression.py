"""Rotated non-maximum suppression to measure: detections of three scenes, and the rivals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import shapely

from babelrs.boxes import rotated_nms, to_corners, to_opencv

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
# What a method is handed before the clock starts, and the call that is timed.
Method = Callable[[Floats, Floats, float], Callable[[], Indices]]

DETECTIONS_PER_OBJECT = 8
PAIRS_AT_ONCE = 200_000  # of shapely's polygons: all at once would take gigabytes at 100,000 boxes


def sea(rng: np.random.Generator, count: int) -> Floats:
    """``(count, 5)`` ships of 20 to 150 px at any heading, one to about 400 x 400 px of open water."""
    objects = _objects(count)
    extent = 400 * math.sqrt(objects)
    length = np.exp(rng.uniform(math.log(20), math.log(150), objects))
    width = length / rng.uniform(3, 7, objects)
    centres = rng.uniform(0, extent, (objects, 2))
    return np.column_stack([centres, length, width, rng.uniform(-math.pi / 2, math.pi / 2, objects)])


def city(rng: np.random.Generator, count: int) -> Floats:
    """``(count, 5)`` vehicles of 18 to 60 px along streets of two directions, one to about 60 x 60 px."""
    objects = _objects(count)
    extent = 60 * math.sqrt(objects)
    length = np.where(rng.random(objects) < 0.9, rng.uniform(18, 26, objects), rng.uniform(40, 60, objects))
    centres = rng.uniform(0, extent, (objects, 2))
    street = np.round(centres / 80) * 80 + rng.choice([-8, 8], (objects, 2))
    along_x = rng.random(objects) < 0.5
    centres = np.where(np.column_stack([~along_x, along_x]), street, centres)
    heading = 0.2 + np.where(along_x, 0, -math.pi / 2) + rng.normal(0, 0.03, objects)
    return np.column_stack([centres, length, length / 2.2, heading])


def harbour(rng: np.random.Generator, count: int) -> Floats:
    """``(count, 5)`` boats of 40 to 60 px moored hull to hull, 14 px apart, both sides of slanting piers."""
    objects = _objects(count)
    per_pier = max(1, round(math.sqrt(objects * 64 / 14)))
    pier, berth = np.divmod(np.arange(objects), per_pier)
    local = np.column_stack([berth * 14.0, pier * 64.0]) + rng.normal(0, 0.5, (objects, 2))
    slant = 0.6
    turn = np.array([[math.cos(slant), math.sin(slant)], [-math.sin(slant), math.cos(slant)]])
    length = rng.uniform(40, 60, objects)
    heading = slant - math.pi / 2 + rng.normal(0, 0.03, objects)
    return np.column_stack([local @ turn, length, rng.uniform(12, 14, objects), heading])


SCENES: dict[str, Callable[[np.random.Generator, int], Floats]] = {"sea": sea, "city": city, "harbour": harbour}


def detections(scene: str, count: int, seed: int) -> tuple[Floats, Floats]:
    """What a dense head gives before suppression: ``(count, 5)`` boxes and ``(count,)`` scores in ``(0, 1)``.

    Every object of the scene is seen about ``DETECTIONS_PER_OBJECT`` times, a little displaced each time; the farther,
    the lower the score. In random order.
    """
    rng = np.random.default_rng([seed, count])
    objects = SCENES[scene](rng, count)
    boxes = objects[rng.integers(0, len(objects), count)]
    off = rng.normal(0, 1, (count, 5))
    boxes[:, :2] += off[:, :2] * 0.06 * boxes[:, 3:4]
    boxes[:, 2:4] *= np.exp(0.06 * off[:, 2:4])
    boxes[:, 4] += 0.03 * off[:, 4]
    return boxes, 0.999 * np.exp(-0.1 * (off**2).sum(axis=1)) * rng.uniform(0.9, 1, count) + 5e-4


def _objects(count: int) -> int:
    return max(1, count // DETECTIONS_PER_OBJECT)


def ours(boxes: Floats, scores: Floats, iou_threshold: float) -> Callable[[], Indices]:
    """:func:`babelrs.boxes.rotated_nms` in one thread, one class."""
    labels = np.zeros(len(boxes), np.int64)
    return lambda: rotated_nms(boxes, scores, labels, iou_threshold)


def opencv(boxes: Floats, scores: Floats, iou_threshold: float) -> Callable[[], Indices]:
    """OpenCV's ``cv2.dnn.NMSBoxesRotated`` in one thread; the lists that it takes are made before the clock starts."""
    import cv2

    cv2.setNumThreads(1)
    rectangles = [((b[0], b[1]), (b[2], b[3]), b[4]) for b in to_opencv(boxes).tolist()]
    values = scores.tolist()
    return lambda: np.asarray(cv2.dnn.NMSBoxesRotated(rectangles, values, 0.0, iou_threshold), np.int64).ravel()


def shapely_strtree(boxes: Floats, scores: Floats, iou_threshold: float) -> Callable[[], Indices]:
    """Shapely as fast as it goes: an STRtree, overlaps in vectorised calls, then the greedy pass."""
    return lambda: _shapely_nms(boxes, scores, iou_threshold)


def _shapely_nms(boxes: Floats, scores: Floats, iou_threshold: float) -> Indices:
    order = np.argsort(-scores, kind="stable")
    polygons = shapely.polygons(to_corners(boxes[order]))  # by rank
    worse, better = shapely.STRtree(polygons).query(polygons)  # whose bounds meet
    once = better < worse
    worse, better = worse[once], better[once]
    spans = [(start, start + PAIRS_AT_ONCE) for start in range(0, len(better) + 1, PAIRS_AT_ONCE)]
    shared = np.concatenate(
        [shapely.area(shapely.intersection(polygons[better[i:j]], polygons[worse[i:j]])) for i, j in spans]
    )
    areas = shapely.area(polygons)
    over = shared > iou_threshold * (areas[better] + areas[worse] - shared)
    worse, better = worse[over], better[over]
    by_rank = np.argsort(better, kind="stable")
    ends = np.cumsum(np.bincount(better, minlength=len(boxes)))
    falls, alive = worse[by_rank], np.ones(len(boxes), bool)
    for rank in range(len(boxes)):
        if alive[rank]:
            alive[falls[ends[rank - 1] if rank else 0 : ends[rank]]] = False
    return np.asarray(order[alive], np.int64)


METHODS: dict[str, Method] = {"babelrs": ours, "opencv": opencv, "shapely": shapely_strtree}
