"""Simulated scenes cut so that objects lie on the edges of tiles, seen by a bundle's engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelrs.boxes import from_corners, rotated_intersection, rotated_iou, to_corners
from babelrs.detections import Detections
from babelrs.images import Frame
from babelrs.radiometry import to_uint8
from babelrs.seams import merge_tiles
from babelrs.tiling import Tile, cut_tile, plan_tiles
from runtime.pipeline import Detector
from train.simulation.annotate import annotate
from train.simulation.scenes import Plan, generator, make_world, render

SCENE_PX = 1920
GRID_PX = 64
"""The model's coarsest stride: moved by a multiple of it, an object meets the same patches."""
LEAST_IOU = 0.1
"""With the truth, for a detection to be that object's."""
COVERED = 0.5
"""A report is of an object if one of the two covers this share of the other."""

Image = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """One object on a seam.

    Attributes:
        reports: Detections of it after merging.
        iou: Of the best of them with the detection by a tile that has the object in its middle.
        moved_reports: Detections of it in a tile that has it whole, but elsewhere: what the model does without seams.
        moved_iou: Alike.
        longest_px: Longer side of the object.
    """

    reports: int
    iou: float
    moved_reports: int
    moved_iou: float
    longest_px: float


def simulated(detector: Detector, seed: int) -> Iterator[tuple[Image, Boxes]]:
    """Scenes without end: what the model sees, ``(H, W, C)``, and the boxes of its objects."""
    plan = Plan(Path("."), 0, 0, SCENE_PX, SCENE_PX, seed=seed)
    index = 0
    while True:
        world = make_world(plan, "eval", index)
        view = render(plan, world, detector.sensor, generator(seed, "eval", index, 1))
        corners = [one.corners_px for one in annotate(world, view, detector.sensor) if not one.difficult]
        index += 1
        if corners:
            yield to_uint8(Frame(view.pixels), detector.entry.profile), from_corners(np.array(corners))


def outcomes(
    detector: Detector, image: Image, boxes: Boxes, overlap: float, rng: np.random.Generator, most: int
) -> list[Outcome]:
    """What becomes of up to ``most`` of the objects when an edge of a tile goes through each.

    Only objects count that the model finds exactly once in the middle of a tile. All tiles around one object lie on one
    grid of :data:`GRID_PX`, so that the model samples it alike and merging is what differs.
    """
    found: list[Outcome] = []
    for box in boxes[rng.permutation(len(boxes))]:
        if len(found) == most:
            break
        cut = _cut_through(detector, image, box, overlap, rng)
        reference = None if cut is None else _centred(detector, image, box, cut[1], np.zeros(2))
        if cut is None or reference is None or reference[1] != 1:
            continue
        (tiles, offset), (whole, _) = cut, reference
        moved = _centred(detector, image, box, offset, rng.choice([-2, -1, 1, 2], 2) * GRID_PX, whole)
        count, iou = _reports(_tiled(detector, image, tiles, offset), whole)
        moved_count, moved_iou = (0, 0.0) if moved is None else (moved[1], float(rotated_iou(moved[0], whole)[0, 0]))
        found.append(Outcome(count, iou, moved_count, moved_iou, float(box[2])))
    return found


def _find(detector: Detector, tiles: list[Image]) -> list[Detections]:
    return detector.detect_tiles(tiles)


def _centred(
    detector: Detector,
    image: Image,
    box: Boxes,
    origin: npt.NDArray[np.int64],
    shift: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    like: Boxes | None = None,
) -> tuple[Boxes, int] | None:
    """The detection ``(1, 5)`` of an object by one tile around it, and how many there are of it.

    The tile lies on the grid through ``origin``, ``shift`` pixels off the object's middle. ``None``: not found.
    """
    size = np.array([detector.entry.input_width, detector.entry.input_height])
    steps = np.rint((box[:2] + shift - size / 2 - origin) / GRID_PX)
    x, y = (int(value) for value in origin + GRID_PX * steps)
    tile = Tile(x, y, int(size[0]), int(size[1]), (0, 0, 0, 0))
    if min(x, y) < 0 or x + tile.width > image.shape[1] or y + tile.height > image.shape[0]:
        return None
    (found,) = _find(detector, [cut_tile(image, tile, tile.width, tile.height)])
    target, shifted = box[None] if like is None else like, found.shifted(x, y)
    iou = rotated_iou(target, shifted.boxes)[0]
    if iou.max(initial=0.0) < LEAST_IOU:
        return None
    best = shifted.boxes[iou.argmax()][None]
    return best, _reports(shifted, best)[0]


def _cut_through(
    detector: Detector, image: Image, box: Boxes, overlap: float, rng: np.random.Generator
) -> tuple[list[Tile], npt.NDArray[np.int64]] | None:
    """Two by two tiles, and the corner of the part of the image they cover, with an edge through the object.

    ``None``: the object lies too near to the image's border.
    """
    width, height = detector.entry.input_width, detector.entry.input_height
    step_x, step_y = int(width * (1 - overlap)), int(height * (1 - overlap))
    tiles = plan_tiles(width + step_x, height + step_y, width, height, overlap)
    (corners,) = to_corners(box[None])
    reach = (corners.max(axis=0) - corners.min(axis=0)) / 2
    edges = np.array([rng.choice([width, step_x]), rng.choice([height, step_y])])
    aim = edges + rng.uniform(-1, 1, 2) * reach
    if rng.random() < 2 / 3:  # on one edge only
        axis = rng.integers(2)
        aim[axis] = rng.uniform(reach[axis], (width, height)[axis] / 2)
    offset = np.rint(box[:2] - aim).astype(np.int64)
    end = offset + np.array([width + step_x, height + step_y])
    if (offset < 0).any() or (end > image.shape[1::-1]).any():
        return None
    return tiles, offset


def _tiled(detector: Detector, image: Image, tiles: list[Tile], offset: npt.NDArray[np.int64]) -> Detections:
    """What the detector's merging makes of the tiles, in pixels of the image."""
    x, y = (int(value) for value in offset)
    cut = [cut_tile(image, replace(tile, x=tile.x + x, y=tile.y + y), tile.width, tile.height) for tile in tiles]
    parts = list(zip(tiles, _find(detector, cut), strict=True))
    return merge_tiles(parts, detector.entry.nms_iou).shifted(x, y)


def _reports(found: Detections, whole: Boxes) -> tuple[int, float]:
    """How many detections are of the object that ``whole`` ``(1, 5)`` is, of any class, and the best overlap."""
    if len(found) == 0:
        return 0, 0.0
    shared = rotated_intersection(whole, found.boxes)[0]
    areas = np.minimum(found.boxes[:, 2] * found.boxes[:, 3], whole[0, 2] * whole[0, 3])
    return int((shared >= COVERED * areas).sum()), float(rotated_iou(whole, found.boxes).max())
