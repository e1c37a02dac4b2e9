"""Merging gives what one look at the whole would give: every object once, and whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from babelrs.boxes import from_corners, rotated_iou, to_corners
from babelrs.detections import Detections
from babelrs.seams import SeamMerger, merge_tiles
from babelrs.sensors import Sensor
from babelrs.tiling import Tile, plan_tiles

CLASSES = ("ship", "vehicle")
Boxes = npt.NDArray[np.float32]


def detections(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Detections:
    values = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(
        values,
        np.array(scores, np.float32),
        np.array(labels if labels is not None else [0] * len(values), np.int32),
        CLASSES,
        Sensor.SAR,
    )


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


def visible(tile: Tile, boxes: Boxes, least: float = 0.1) -> Detections:
    """A perfect detector that boxes what it sees: the smallest rectangle around the visible part, by shapely."""
    shapely = pytest.importorskip("shapely", reason="the oracle of what is visible")
    window = shapely.box(tile.x, tile.y, tile.x + tile.width, tile.y + tile.height)
    found, scores = [], []
    for box, corners in zip(boxes, to_corners(boxes), strict=True):
        whole = shapely.Polygon(corners)
        part = whole.intersection(window)
        share = part.area / whole.area
        if share < least:
            continue
        if share < 0.999:
            around = np.array(shapely.minimum_rotated_rectangle(part).exterior.coords)[:4]
            box = from_corners(around[None])[0]
        found.append(box - np.array([tile.x, tile.y, 0, 0, 0], np.float32))
        scores.append(0.3 + 0.6 * share)
    return detections([box.tolist() for box in found], scores)


def on_seams(rng: np.random.Generator, tiles: list[Tile], size: int, count: int, longest: float) -> Boxes:
    """Boxes that do not touch each other, each across an edge of a tile inside the image."""
    edges = [
        sorted({s for tile in tiles for s in (start(tile), start(tile) + extent(tile)) if 0 < s < size})
        for start, extent in ((lambda t: t.x, lambda t: t.width), (lambda t: t.y, lambda t: t.height))
    ]
    boxes: list[list[float]] = []
    for _ in range(50 * count):
        length = float(rng.uniform(6, longest))
        box = [*rng.uniform(0, size, 2), length, length / rng.uniform(1, 5), rng.uniform(-np.pi / 2, np.pi / 2)]
        for axis in rng.choice(2, rng.integers(1, 3), replace=False):
            box[axis] = rng.choice(edges[axis]) + rng.uniform(-0.4, 0.4) * length
        reach = np.hypot(box[2], box[3]) / 2
        free = all(np.hypot(box[0] - b[0], box[1] - b[1]) > reach + np.hypot(b[2], b[3]) / 2 + 2 for b in boxes)
        if free and reach < min(box[0], box[1], size - box[0], size - box[1]):
            boxes.append([float(value) for value in box])
        if len(boxes) == count:
            break
    return np.array(boxes, np.float32).reshape(-1, 5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.15, 0.2, 0.3, 0.5]), st.integers(20, 90))
def test_an_object_on_a_seam_is_reported_once_and_whole(seed: int, overlap: float, longest: int) -> None:
    """Also where it is longer than the overlap, so that no tile sees it whole."""
    tiles = plan_tiles(500, 500, 160, 160, overlap)
    boxes = on_seams(np.random.default_rng(seed), tiles, 500, 12, longest)
    merged = merge_tiles([(tile, visible(tile, boxes)) for tile in tiles], 0.3)
    assert len(merged) == len(boxes)
    iou = rotated_iou(boxes, merged.boxes)
    assert sorted(iou.argmax(axis=1).tolist()) == list(range(len(boxes)))
    assert iou.max(axis=1).min() >= 0.7


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.25]), st.floats(0.3, 1.2))
def test_ships_moored_side_by_side_across_a_seam_stay_apart(seed: int, overlap: float, angle: float) -> None:
    """Hulls 3 px apart, cut by the same edges: fragments of one must not be joined to the next."""
    rng = np.random.default_rng(seed)
    tiles = plan_tiles(500, 500, 160, 160, overlap)
    across = np.array([-np.sin(angle), np.cos(angle)])
    start = np.array([250.0, 250.0]) + rng.uniform(-20, 20, 2)
    boxes = np.array([[*(start + across * 13 * n), 60, 10, angle] for n in range(-5, 6)], np.float32)
    merged = merge_tiles([(tile, visible(tile, boxes, 0.25)) for tile in tiles], 0.3)
    iou = rotated_iou(boxes, merged.boxes)
    assert len(merged) == len(boxes) and iou.max(axis=1).min() >= 0.7


def test_an_object_longer_than_a_tile_is_one_box() -> None:
    tiles = plan_tiles(400, 100, 100, 100, 0.2)
    box = np.array([[200, 50, 250, 16, 0.02]], np.float32)
    merged = merge_tiles([(tile, visible(tile, box, 0.05)) for tile in tiles], 0.3)
    assert len(merged) == 1 and rotated_iou(box, merged.boxes)[0, 0] > 0.9


def test_a_fragment_of_another_class_gives_way_to_the_whole_object() -> None:
    tiles = plan_tiles(280, 100, 160, 100, 0.3)  # the right tile begins at 112
    bow = detections([[145, 50, 30, 8, 0]], [0.95], [1])  # cut by the left tile's edge, at 160
    ship = detections([[150 - tiles[1].x, 50, 40, 8, 0]], [0.6], [0])
    merged = merge_tiles([(tiles[0], bow), (tiles[1], ship)], 0.3)
    assert merged.boxes.tolist() == [[150, 50, 40, 8, 0]] and merged.labels.tolist() == [0]


def test_two_tiles_that_disagree_about_the_class_report_one_object_and_one_tile_may_report_two() -> None:
    tiles = plan_tiles(200, 40, 120, 40, 0.5)
    box = [93, 20, 20, 8, 0]
    there = [box[0] - tiles[1].x, *box[1:]]
    alone = detections([box, box], [0.9, 0.5], [0, 1])
    assert len(merge_tiles([(tiles[0], alone), (tiles[1], detections([], []))], 0.3)) == 2
    merged = merge_tiles([(tiles[0], detections([box], [0.5])), (tiles[1], detections([there], [0.7], [1]))], 0.3)
    assert merged.labels.tolist() == [1]


def test_a_whole_box_that_both_tiles_guess_is_not_made_longer() -> None:
    """A model that draws the whole object from a part: the better guess is reported, not a box around both."""
    tiles = plan_tiles(280, 100, 160, 100, 0.2)  # 0 to 160 and 120 to 280
    object_box, guess = [140.0, 50.0, 90.0, 20.0, 0.0], [150.0, 50.0, 130.0, 20.0, 0.0]  # 95 to 185; 85 to 215
    right = detections([[object_box[0] - tiles[1].x, *object_box[1:]]], [0.5])
    merged = merge_tiles([(tiles[0], detections([guess], [0.8])), (tiles[1], right)], 0.3)
    assert merged.boxes.tolist() == [object_box] and merged.scores.tolist() == pytest.approx([0.8])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.3, 0.6]))
def test_rows_that_are_settled_early_change_nothing(seed: int, overlap: float) -> None:
    """A merger that settles after every row gives what one that waits for all tiles gives."""
    tiles = plan_tiles(400, 700, 100, 90, overlap)
    rng = np.random.default_rng(seed)
    parts = []
    for tile in tiles:
        count = int(rng.integers(0, 9))
        boxes = np.column_stack(
            [
                rng.uniform(0, 100, (count, 2)),
                np.sort(rng.uniform(4, 40, (count, 2)))[:, ::-1],
                rng.uniform(-1, 1, count),
            ]
        )
        parts.append((tile, detections(boxes.tolist(), rng.uniform(0.3, 1, count).tolist(), rng.integers(0, 2, count))))
    merger, patient = SeamMerger(400, 700, 0.3), SeamMerger(400, 700, 0.3)
    for tile, found in parts:
        merger.add(tile, found)
    patient._settle = lambda top, settle=patient._settle: settle(top) if top > 700 else None  # type: ignore[method-assign]
    for tile, found in parts:
        patient.add(tile, found)
    first, second = merger.finish(), patient.finish()
    as_rows = [sorted(np.column_stack([f.scores, f.labels, f.boxes]).tolist()) for f in (first, second)]
    assert as_rows[0] == as_rows[1]
    assert (np.diff(first.scores) <= 0).all()


def test_what_waits_does_not_grow_with_the_scene() -> None:
    """A hundred rows of tiles: never more than those of two rows wait to be settled."""
    merger = SeamMerger(200, 8000, 0.3)
    waiting = []
    for tile in plan_tiles(200, 8000, 100, 100, 0.2):
        merger.add(tile, detections([[50, 50, 12, 6, 0], [95, 97, 20, 9, 0.5]], [0.9, 0.8]))
        waiting.append(sum(len(part.ids) for part in merger._parts))
    assert max(waiting) <= 2 * 2 * 3 and len(merger.finish()) > 200


def test_tiles_out_of_order_and_no_tiles_are_refused() -> None:
    merger = SeamMerger(100, 100, 0.3)
    with pytest.raises(ValueError, match="no tile"):
        merger.finish()
    first, *_, last = plan_tiles(100, 100, 60, 60, 0.2)
    merger.add(last, detections([], []))
    with pytest.raises(ValueError, match="row 0 after"):
        merger.add(first, detections([], []))
    with pytest.raises(ValueError, match="no tile"):
        merge_tiles([], 0.3)


def test_tiles_of_other_classes_are_refused() -> None:
    tiles = plan_tiles(100, 40, 60, 40, 0.3)
    other = Detections.empty(("x",), Sensor.SAR)
    with pytest.raises(ValueError, match="class lists"):
        merge_tiles([(tiles[0], detections([], [])), (tiles[1], other)], 0.3)
