"""Tiles cover a scene, their cores partition it, and merging gives what one look at the whole would give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from babelrs.detections import Detections
from babelrs.sensors import Sensor
from babelrs.tiling import Tile, cut_tile, merge_tiles, plan_tiles

CLASSES = ("ship", "vehicle")

sizes = st.integers(1, 200)
tile_sizes = st.integers(1, 90)
overlaps = st.floats(0, 0.9)


def detections(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Detections:
    values = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(
        values,
        np.array(scores, np.float32),
        np.array(labels if labels is not None else [0] * len(values), np.int32),
        CLASSES,
        Sensor.SAR,
    )


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


def seen_from(tile: Tile, boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> Detections:
    """A perfect detector: every box whose centre lies in the tile."""
    x, y = boxes[:, 0] - tile.x, boxes[:, 1] - tile.y
    inside = (x >= 0) & (x < tile.width) & (y >= 0) & (y < tile.height)
    shifted = boxes[inside] - np.array([tile.x, tile.y, 0, 0, 0], np.float32)
    return detections(shifted.tolist(), scores[inside].tolist())


@given(st.integers(0, 2**31), st.integers(40, 300), st.integers(40, 300), st.floats(0, 0.6))
def test_merging_a_perfect_detectors_tiles_gives_every_object_once(
    seed: int, width: int, height: int, overlap: float
) -> None:
    rng = np.random.default_rng(seed)
    cells = [(x, y) for x in range(10, width - 9, 20) for y in range(10, height - 9, 20)]  # apart: no suppression
    assume(cells)
    boxes = np.array([[x, y, 12, 6, rng.uniform(-1.5, 1.5)] for x, y in cells], np.float32)
    boxes[:, :2] += rng.uniform(-2, 2, (len(boxes), 2))
    scores = rng.permutation(np.linspace(0.3, 0.9, len(boxes))).astype(np.float32)
    tiles = plan_tiles(width, height, 64, 48, overlap)
    merged = merge_tiles([(tile, seen_from(tile, boxes, scores)) for tile in tiles], 0.3)
    order = np.argsort(-scores, kind="stable")
    assert len(merged) == len(boxes)
    assert np.allclose(merged.boxes[np.argsort(-merged.scores, kind="stable")], boxes[order], atol=1e-3)


def test_a_copy_cut_by_the_tiles_edge_does_not_win_over_the_whole_object() -> None:
    tiles = plan_tiles(100, 40, 60, 40, 0.3)
    cut = detections([[57, 20, 6, 8, 0]], [0.9])  # the left tile sees only the object's left end, at its edge
    whole = detections([[64 - tiles[1].x, 20, 20, 8, 0]], [0.8])
    merged = merge_tiles([(tiles[0], cut), (tiles[1], whole)], 0.3)
    assert merged.boxes.tolist() == [[64, 20, 20, 8, 0]]


def test_copies_that_disagree_about_the_seam_give_one_object() -> None:
    tiles = plan_tiles(100, 40, 60, 40, 0.3)
    seam = tiles[0].core[2]
    left = detections([[seam + 0.6, 20, 20, 8, 0]], [0.8])
    right = detections([[seam - 0.6 - tiles[1].x, 20, 20, 8, 0]], [0.7])
    assert merge_tiles([(tiles[0], left), (tiles[1], right)], 0.3).scores.tolist() == pytest.approx([0.8])
    only_left = merge_tiles([(tiles[0], left), (tiles[1], detections([], []))], 0.3)
    assert len(only_left) == 1


def test_objects_of_different_classes_do_not_suppress_each_other() -> None:
    tiles = plan_tiles(100, 40, 60, 40, 0.3)
    both = detections([[10, 20, 20, 8, 0], [10, 20, 20, 8, 0]], [0.9, 0.8], [0, 1])
    assert len(merge_tiles([(tiles[0], both), (tiles[1], detections([], []))], 0.3)) == 2


def test_centres_beyond_the_image_belong_to_the_border_tile() -> None:
    tiles = plan_tiles(100, 40, 60, 40, 0.3)
    found = detections([[-12, 20, 30, 8, 0]], [0.9])
    assert len(merge_tiles([(tiles[0], found), (tiles[1], detections([], []))], 0.3)) == 1


def test_nothing_found_anywhere_is_no_detections() -> None:
    tiles = plan_tiles(100, 40, 60, 40, 0.3)
    assert len(merge_tiles([(tile, detections([], [])) for tile in tiles], 0.3)) == 0
