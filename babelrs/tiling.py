"""Cuts a scene into tiles of the model's input size at native resolution; :mod:`babelrs.seams` merges their detections.

Tiles overlap so that an object cut by one tile's edge lies whole in another. Each tile owns its ``core``: overlaps are
split in the middle, so the cores partition the image, and a detection counts where its centre lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt


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
    """All of :func:`iter_tiles` at once."""
    return list(iter_tiles(width, height, tile_width, tile_height, overlap))


def iter_tiles(width: int, height: int, tile_width: int, tile_height: int, overlap: float) -> Iterator[Tile]:
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
    return (
        Tile(x, y, min(tile_width, width), min(tile_height, height), (left, top, right, bottom))
        for y, top, bottom in rows
        for x, left, right in columns
    )


def count_tiles(width: int, height: int, tile_width: int, tile_height: int, overlap: float) -> int:
    """How many tiles :func:`iter_tiles` gives."""
    return len(_spans(width, tile_width, overlap)) * len(_spans(height, tile_height, overlap))


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
