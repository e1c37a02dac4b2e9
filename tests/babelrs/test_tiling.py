"""Tiles cover a scene and their cores partition it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.tiling import Tile, count_tiles, cut_tile, plan_tiles

sizes = st.integers(1, 200)
tile_sizes = st.integers(1, 90)
overlaps = st.floats(0, 0.9)


@given(sizes, sizes, tile_sizes, tile_sizes, overlaps)
def test_tiles_lie_inside_the_image_and_cover_it(
    width: int, height: int, tile_width: int, tile_height: int, overlap: float
) -> None:
    covered = np.zeros((height, width), np.int32)
    for tile in plan_tiles(width, height, tile_width, tile_height, overlap):
        assert tile.x >= 0 and tile.y >= 0 and tile.x + tile.width <= width and tile.y + tile.height <= height
        assert (tile.width, tile.height) == (min(tile_width, width), min(tile_height, height))
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert covered.min() >= 1


@given(sizes, sizes, tile_sizes, tile_sizes, overlaps)
def test_cores_partition_the_image_and_lie_inside_their_tiles(
    width: int, height: int, tile_width: int, tile_height: int, overlap: float
) -> None:
    owners = np.zeros((height, width), np.int32)
    for tile in plan_tiles(width, height, tile_width, tile_height, overlap):
        x0, y0, x1, y1 = tile.core
        assert tile.x <= x0 < x1 <= tile.x + tile.width and tile.y <= y0 < y1 <= tile.y + tile.height
        owners[y0:y1, x0:x1] += 1
    assert np.all(owners == 1)


@given(sizes, sizes, tile_sizes, overlaps)
def test_tiles_are_counted_without_being_made(width: int, height: int, tile: int, overlap: float) -> None:
    assert count_tiles(width, height, tile, 40, overlap) == len(plan_tiles(width, height, tile, 40, overlap))


@given(sizes, tile_sizes, overlaps)
def test_neighbours_overlap_at_least_as_asked(width: int, tile_width: int, overlap: float) -> None:
    starts = [tile.x for tile in plan_tiles(width, 5, tile_width, 5, overlap)]
    assert starts == sorted(set(starts))
    assert all(right - left <= max(1, tile_width * (1 - overlap)) for left, right in pairwise(starts))


def test_an_image_of_the_tiles_size_is_one_tile() -> None:
    assert plan_tiles(64, 48, 64, 48, 0.5) == [Tile(0, 0, 64, 48, (0, 0, 64, 48))]


def test_the_last_tile_is_shifted_back_inside() -> None:
    assert [(tile.x, tile.core[0], tile.core[2]) for tile in plan_tiles(100, 10, 40, 40, 0.25)] == [
        (0, 0, 35),
        (30, 35, 65),
        (60, 65, 100),
    ]


@pytest.mark.parametrize("wrong", [(0, 5, 5, 5, 0.1), (5, 5, 5, -1, 0.1), (5, 5, 5, 5, 1.0), (5, 5, 5, 5, -0.1)])
def test_impossible_plans_are_refused(wrong: tuple[int, int, int, int, float]) -> None:
    with pytest.raises(ValueError, match="overlap"):
        plan_tiles(*wrong)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3]))
def test_a_tile_is_the_image_at_native_resolution_padded_with_zeros(width: int, height: int, channels: int) -> None:
    image = np.random.default_rng(width * 61 + height).integers(1, 256, (height, width, channels)).astype(np.uint8)
    for tile in plan_tiles(width, height, 32, 24, 0.25):
        pixels = cut_tile(image, tile, 32, 24)
        assert pixels.shape == (24, 32, channels) and pixels.dtype == np.uint8
        part = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        assert np.array_equal(pixels[: tile.height, : tile.width], part)
        assert not pixels[tile.height :].any() and not pixels[:, tile.width :].any()
