"""Objects on the edges of tiles, and a detector that is right about what a tile shows: the oracle of merging alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

from babelrs.boxes import from_corners, rotated_intersection, rotated_iou, rotated_nms, to_corners
from babelrs.detections import Detections
from babelrs.sensors import Sensor
from babelrs.tiling import Tile

Boxes = npt.NDArray[np.float32]
Kind = Literal["visible", "whole"]
CLASSES = ("object",)
LEAST_VISIBLE = 0.1
"""Share of an object that a tile must show for the oracle to find it there."""
MATCH_IOU = 0.7


@dataclass(frozen=True)
class Verdict:
    """What became of the objects.

    Attributes:
        objects: How many there were.
        once: Reported exactly once.
        matched: Reported exactly once, and at IoU 0.7 or more.
        missed: Reported not at all.
        repeated: Reported twice or more.
    """

    objects: int
    once: int
    matched: int
    missed: int
    repeated: int


def place_on_seams(rng: np.random.Generator, tiles: Sequence[Tile], side: int, count: int, longest_px: float) -> Boxes:
    """Boxes ``(N, 5)`` that do not touch, each across an edge of a tile inside an image of ``side`` pixels square.

    Lengths are log-uniform from 8 px, aspects uniform from 1 to 6, angles uniform; a third lie on a vertical edge, a
    third on a horizontal one, a third on both.
    """
    edges = [sorted({start for tile in tiles for start in (tile.x, tile.x + tile.width)})[1:-1]]
    edges.append(sorted({start for tile in tiles for start in (tile.y, tile.y + tile.height)})[1:-1])
    boxes, circles = [], np.zeros((0, 3))
    for _ in range(1000 * count):
        length = np.exp(rng.uniform(np.log(8.0), np.log(longest_px)))
        width, theta = max(4.0, length / rng.uniform(1, 6)), rng.uniform(-np.pi / 2, np.pi / 2)
        reach = np.abs([length * np.cos(theta), length * np.sin(theta)]) / 2
        reach += np.abs([width * np.sin(theta), width * np.cos(theta)]) / 2
        centre = rng.uniform(0, side, 2)
        for axis in ((0,), (1,), (0, 1))[rng.integers(3)]:
            centre[axis] = rng.choice(edges[axis]) + rng.uniform(-1, 1) * reach[axis]
        radius = np.hypot(length, width) / 2
        apart = np.hypot(*(circles[:, :2] - centre).T) > circles[:, 2] + radius + 2
        if apart.all() and (centre > radius).all() and (centre < side - radius).all():
            circles = np.vstack([circles, [*centre, radius]])
            boxes.append([*centre, length, width, theta])
        if len(boxes) == count:
            break
    return np.array(boxes, np.float32)


def perfect(tile: Tile, boxes: Boxes, kind: Kind, rng: np.random.Generator) -> Detections:
    """What a detector without faults finds in a tile, in its pixels; the score falls with the share that is cut off.

    Args:
        tile: The tile.
        boxes: ``(N, 5)``, all objects of the image.
        kind: ``visible``: of an object that is cut, the smallest rectangle around the part that is seen. ``whole``: a
            guess of the whole object, wrong in length by a log-normal factor of 0.3 times the share that is hidden.
        rng: Draws the guesses and a little of the scores.
    """
    window = shapely.box(tile.x, tile.y, tile.x + tile.width, tile.y + tile.height)
    shapes = shapely.polygons(to_corners(boxes))
    parts = shapely.intersection(shapes, window)
    shares = shapely.area(parts) / shapely.area(shapes)
    found, scores = [], []
    for index in np.flatnonzero(shares >= LEAST_VISIBLE):
        box = boxes[index].astype(np.float64)
        if shares[index] < 0.999:
            box = _around(parts[index]) if kind == "visible" else _guess(box, parts[index], 1 - shares[index], rng)
        found.append(box - [tile.x, tile.y, 0, 0, 0])
        scores.append(0.3 + 0.6 * shares[index] + rng.uniform(0, 0.05))
    labels = np.zeros(len(found), np.int32)
    return Detections(np.array(found, np.float32), np.array(scores, np.float32), labels, CLASSES, Sensor.RGB)


def by_centre(parts: Sequence[tuple[Tile, Detections]], iou_threshold: float) -> Detections:
    """For comparison: what most tilers do, each tile's detections with their centre in its core, then suppression."""
    owned = []
    for tile, found in parts:
        shifted = found.shifted(tile.x, tile.y)
        x, y = shifted.boxes[:, 0], shifted.boxes[:, 1]
        left, top, right, bottom = tile.core
        owned.append(shifted.select((x >= left - 8) & (x < right + 8) & (y >= top - 8) & (y < bottom + 8)))
    merged = Detections.concatenate(owned)
    return merged.select(rotated_nms(merged.boxes, merged.scores, merged.labels, iou_threshold))


def judge(boxes: Boxes, merged: Detections) -> Verdict:
    """Compare reports with objects ``(N, 5)`` that do not touch; a report belongs to the object it covers most of."""
    shared = rotated_intersection(boxes, merged.boxes)  # (N, M)
    belongs = shared.argmax(axis=0)[shared.max(axis=0) > 0] if len(merged) else np.zeros(0, np.int64)
    reports = np.bincount(belongs, minlength=len(boxes))
    best = rotated_iou(boxes, merged.boxes).max(axis=1, initial=0.0)
    once = reports == 1
    return Verdict(
        objects=len(boxes),
        once=int(once.sum()),
        matched=int((once & (best >= MATCH_IOU)).sum()),
        missed=int((reports == 0).sum()),
        repeated=int((reports > 1).sum()),
    )


def _around(part: shapely.Geometry) -> npt.NDArray[np.float64]:
    outline = shapely.get_coordinates(shapely.minimum_rotated_rectangle(part))[:4]
    return np.asarray(from_corners(outline[None])[0], np.float64)


def _guess(
    box: npt.NDArray[np.float64], part: shapely.Geometry, hidden: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The box, its hidden end moved."""
    factor = float(np.exp(rng.normal(0, 0.3 * hidden)))
    along = np.array([np.cos(box[4]), np.sin(box[4])])
    seen = shapely.get_coordinates(shapely.centroid(part))[0] - box[:2]
    towards_hidden = -np.sign(seen @ along) if abs(seen @ along) > 1e-9 else 1.0
    guess = box.copy()
    guess[:2] += towards_hidden * along * (factor - 1) * box[2] / 2
    guess[2] *= factor
    return guess
