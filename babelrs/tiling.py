"""Cuts a scene into tiles of the model's input size at native resolution, and merges what was found in them.

Tiles overlap so that an object cut by one tile's edge lies whole in another. Each tile owns its ``core``: overlaps are
split in the middle, so the cores partition the image, and a detection counts where its centre lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_nms
from babelrs.detections import Detections

CORE_MARGIN_PX = 8.0
"""How far outside its core a tile's detection may have its centre: neighbours' copies of an object on the seam differ
by a few pixels, and without a margin both could be dropped. Double finds are left to non-maximum suppression."""


@dataclass(frozen=True)
class Tile:
    """A part of an image, in pixels of the image.

    Attributes:
        x: Left column.
        y: Top row.
        width: Columns inside the image; less than the model's where the image is narrower.
        height: Rows inside the image, alike.
        core: ``(x0, y0, x1, y1)``, the part (half open) whose detections this tile owns.
    """

    x: int
    y: int
    width: int
    height: int
    core: tuple[int, int, int, int]


def plan_tiles(width: int, height: int, tile_width: int, tile_height: int, overlap: float) -> list[Tile]:
    """Tiles that cover an image, row by row.

    Args:
        width: Image width, pixels.
        height: Image height, pixels.
        tile_width: Width of the model's input, pixels.
        tile_height: Height of the model's input, pixels.
        overlap: Least overlap of neighbours, a fraction of the tile in ``[0, 1)``. The last tile of a row or column
            is shifted back inside the image and overlaps more.

    Raises:
        ValueError: A size is not positive, or ``overlap`` lies outside ``[0, 1)``.
    """
    if min(width, height, tile_width, tile_height) <= 0 or not 0 <= overlap < 1:
        raise ValueError(f"image {width}x{height}, tile {tile_width}x{tile_height}, overlap {overlap}")
    columns, rows = _spans(width, tile_width, overlap), _spans(height, tile_height, overlap)
    return [
        Tile(x, y, min(tile_width, width), min(tile_height, height), (left, top, right, bottom))
        for y, top, bottom in rows
        for x, left, right in columns
    ]


def _spans(size: int, tile: int, overlap: float) -> list[tuple[int, int, int]]:
    """``(start, core start, core end)`` along one axis."""
    step = max(1, int(tile * (1 - overlap)))
    starts = [*range(0, max(1, size - tile), step), max(0, size - tile)] if size > tile else [0]
    seams = [(left + tile + right) // 2 for left, right in pairwise(starts)]
    return list(zip(starts, [0, *seams], [*seams, size], strict=True))


def cut_tile(image: npt.NDArray[Any], tile: Tile, tile_width: int, tile_height: int) -> npt.NDArray[Any]:
    """A tile's pixels, ``(tile_height, tile_width, C)``, zeros to the right and below the image.

    Args:
        image: ``(H, W, C)``.
        tile: From :func:`plan_tiles`.
        tile_width: Width of the model's input, pixels.
        tile_height: Height of the model's input, pixels.
    """
    part = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    if part.shape[:2] == (tile_height, tile_width):
        return np.ascontiguousarray(part)
    padded = np.zeros((tile_height, tile_width, image.shape[2]), image.dtype)
    padded[: part.shape[0], : part.shape[1]] = part
    return padded


def merge_tiles(
    parts: Sequence[tuple[Tile, Detections]], iou_threshold: float, margin_px: float = CORE_MARGIN_PX
) -> Detections:
    """One image's detections from those of its tiles.

    A tile keeps the detections whose centre lies in its core grown by ``margin_px``, but no more than half way to its
    edge (at the image's border: all).
    With several tiles, doubles along the seams go by class-aware rotated non-maximum suppression.

    Args:
        parts: Each tile with its detections in pixels of the tile.
        iou_threshold: Rotated IoU above which the lower-scored of two boxes of a class goes.
        margin_px: Largest growth of the core, pixels.

    Raises:
        ValueError: ``parts`` is empty or mixes class lists or sensors.
    """
    if len(parts) == 1:
        tile, found = parts[0]
        return found.shifted(tile.x, tile.y)
    right, bottom = max(tile.core[2] for tile, _ in parts), max(tile.core[3] for tile, _ in parts)
    merged = Detections.concatenate([_owned(tile, found, right, bottom, margin_px) for tile, found in parts])
    if len(merged) == 0:
        return merged
    return merged.select(rotated_nms(merged.boxes, merged.scores, merged.labels, iou_threshold))


def _owned(tile: Tile, found: Detections, right: int, bottom: int, margin_px: float) -> Detections:
    shifted = found.shifted(tile.x, tile.y)
    core, seen = tile.core, (tile.x, tile.y, tile.x + tile.width, tile.y + tile.height)
    # At most half way to the tile's edge, where objects are cut.
    left, top, right_side, bottom_side = (min(margin_px, abs(c - s) / 2) for c, s in zip(core, seen, strict=True))
    low = np.array([core[0] - left if core[0] > 0 else -np.inf, core[1] - top if core[1] > 0 else -np.inf])
    high = np.array(
        [
            core[2] + right_side if core[2] < right else np.inf,
            core[3] + bottom_side if core[3] < bottom else np.inf,
        ]
    )
    centres = shifted.boxes[:, :2]
    inside = (centres >= low) & (centres < high)
    return shifted.select(inside[:, 0] & inside[:, 1])
