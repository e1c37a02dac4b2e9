"""A second opinion on average precision: shapely polygons, plain loops, float64; nothing of ``babelrs`` is used.

COCO's conventions: detections of a class by falling score (equal scores in the order of image and of detection), each
gets the free object it overlaps most; an object that counts goes before one that does not, and of equal overlaps the
later object wins; an ignored object takes any number of detections, which then count neither way. Precision is read
off its envelope at the recalls 0, 0.01 .. 1, which are the floating-point products ``step * 0.01`` as in COCO's tool:
some lie one bit above the fraction, so that a recall of exactly 7 in 100 does not reach the eighth of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import shapely

THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]
Point = tuple[float, float]


@dataclass(frozen=True)
class TrueObject:
    """One annotated object."""

    name: str
    polygon: shapely.Polygon
    ignore: bool = False


@dataclass(frozen=True)
class Detection:
    """One detected object."""

    name: str
    polygon: shapely.Polygon
    score: float


def polygon_of(box: Sequence[float]) -> shapely.Polygon:
    """The rectangle ``cx, cy, w, h, theta``: pixels, radians clockwise on screen."""
    cx, cy, width, height, theta = (float(value) for value in box)
    if abs(abs(theta) - math.pi / 2) < 1e-7:  # what float32 makes of a quarter turn
        theta = math.copysign(math.pi / 2, theta)
    along = (math.cos(theta) * width / 2, math.sin(theta) * width / 2)
    across = (-math.sin(theta) * height / 2, math.cos(theta) * height / 2)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return shapely.Polygon([(cx + i * along[0] + j * across[0], cy + i * along[1] + j * across[1]) for i, j in signs])


def overlap(a: shapely.Polygon, b: shapely.Polygon) -> float:
    """Intersection over union of two convex polygons; 0 where they have no area."""
    if not a.intersects(b):
        return 0.0
    shared = shapely.intersection(a, b, grid_size=1e-9).area
    united = a.area + b.area - shared
    return shared / united if united > 0 else 0.0


def average_precisions(
    found: Mapping[str, Sequence[Detection]],
    true: Mapping[str, Sequence[TrueObject]],
    name: str,
    excused: Callable[[Detection], bool] = lambda _: False,
) -> list[float]:
    """Average precision of class ``name`` at the ten thresholds; NaN without objects that count.

    An ``excused`` detection that finds nothing is no false alarm.
    """
    overlaps = {}
    counting = 0
    for image, objects in true.items():
        mine = [one for one in objects if one.name == name]
        counting += sum(not one.ignore for one in mine)
        ranked = sorted((one for one in found.get(image, ()) if one.name == name), key=lambda one: -one.score)
        overlaps[image] = (ranked, mine, [[overlap(one.polygon, other.polygon) for other in mine] for one in ranked])
    return [_average_precision(overlaps, counting, threshold, excused) for threshold in THRESHOLDS]


def _average_precision(
    overlaps: Mapping[str, tuple[list[Detection], list[TrueObject], list[list[float]]]],
    counting: int,
    least: float,
    excused: Callable[[Detection], bool],
) -> float:
    if counting == 0:
        return math.nan
    verdicts: list[tuple[float, str]] = []
    for image in sorted(overlaps):
        ranked, objects, table = overlaps[image]
        given: set[int] = set()
        for detection, row in zip(ranked, table, strict=True):
            verdict = _verdict(row, objects, given, least)
            if verdict == "alarm" and excused(detection):
                verdict = "ignored"
            verdicts.append((detection.score, verdict))
    verdicts.sort(key=lambda one: -one[0])
    points: list[tuple[float, float]] = []  # recall, precision
    hits = alarms = 0
    for _, verdict in verdicts:
        if verdict == "ignored":
            continue
        hits += verdict == "hit"
        alarms += verdict == "alarm"
        points.append((hits / counting, hits / (hits + alarms)))
    total = 0.0
    for step in range(101):
        total += max((precision for recall, precision in points if recall >= step * 0.01), default=0.0)
    return total / 101


def _verdict(row: Sequence[float], objects: Sequence[TrueObject], given: set[int], least: float) -> str:
    best, overlap_of_best = None, least - 1e-12
    for index, (value, one) in enumerate(zip(row, objects, strict=True)):
        if not one.ignore and index not in given and value >= overlap_of_best:
            best, overlap_of_best = index, value
    if best is not None:
        given.add(best)
        return "hit"
    return "ignored" if any(value >= least for value, one in zip(row, objects, strict=True) if one.ignore) else "alarm"
