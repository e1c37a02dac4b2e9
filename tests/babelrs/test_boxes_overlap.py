from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.boxes import paired_iou, rotated_intersection, rotated_iou
from benchmarks.box_pairs import KINDS, jittered, shapely_iou

Floats = npt.NDArray[np.float64]
PAIRS_PER_KIND = 12_500  # eight kinds: 100,000 pairs
TOLERANCE = 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_iou_equals_shapelys(kind: str) -> None:
    seed = list(KINDS).index(kind)
    a, b = KINDS[kind](np.random.default_rng(seed), PAIRS_PER_KIND)
    ours = paired_iou(a, b)
    assert not np.isnan(ours).any() and ours.min() >= 0 and ours.max() <= 1
    error = np.abs(ours - shapely_iou(a, b))
    worst = int(error.argmax())
    assert error[worst] <= TOLERANCE, f"seed {seed}, pair {worst}: {a[worst]} and {b[worst]}"


def test_float32_boxes_keep_the_accuracy() -> None:
    a, b = jittered(np.random.default_rng(8), 20_000)
    a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
    assert np.abs(paired_iou(a.astype(np.float32), b.astype(np.float32)) - shapely_iou(a, b)).max() <= TOLERANCE


def test_table_holds_every_pair() -> None:
    a, b = jittered(np.random.default_rng(9), 40)
    a[:, :2] /= 8  # crowd them, so that most pairs overlap
    b[:, :2] /= 8
    table = rotated_iou(a, b[:30])
    assert table.shape == (40, 30) and table.dtype == np.float64
    rows, columns = np.indices(table.shape).reshape(2, -1)
    np.testing.assert_array_equal(table.ravel(), paired_iou(a[rows], b[columns]))
    np.testing.assert_allclose(table, rotated_iou(b[:30], a).T, atol=1e-12)


def test_intersection_is_an_area_in_square_pixels() -> None:
    shared = rotated_intersection([[0, 0, 4, 4, 0]], [[0, 0, 4, 4, math.pi / 4], [2, 2, 4, 4, 0], [4, 0, 4, 4, 0]])
    octagon = 32 * (math.sqrt(2) - 1)
    np.testing.assert_allclose(shared, [[octagon, 4, 0]], atol=1e-12)


def test_a_box_with_itself_is_one_at_every_angle() -> None:
    thetas = np.linspace(-math.pi, math.pi, 721, dtype=np.float32)
    boxes = np.column_stack([np.full((721, 2), 1e5), np.full(721, 400), np.full(721, 2), thetas]).astype(np.float32)
    np.testing.assert_allclose(paired_iou(boxes, boxes), 1, atol=1e-9)


@pytest.mark.parametrize("sides", [(0, 0), (0, 5), (5, 0)])
def test_a_box_without_area_overlaps_nothing_not_even_itself(sides: tuple[float, float]) -> None:
    flat = [[3, 3, *sides, 0.4]]
    assert rotated_iou(flat, flat) == 0 and rotated_iou(flat, [[3, 3, 10, 10, 0]]) == 0
    assert rotated_intersection(flat, [[3, 3, 10, 10, 0]]) == 0


@pytest.mark.parametrize("side", [1e-45, 1e-30, 1e-10, 1e10, 1e30, 3e38])
def test_extreme_sizes_never_give_nan(side: float) -> None:
    boxes = np.array([[0, 0, side, side, 0.3], [0, 0, side, side / 2, 1.3], [side, -side, side, 1, 0], [0, 0, 1, 1, 0]])
    table = rotated_iou(boxes, boxes)
    assert np.isfinite(table).all() and table.min() >= 0 and table.max() <= 1


def test_no_boxes_give_an_empty_table() -> None:
    one = [[0, 0, 1, 1, 0]]
    assert rotated_iou([], one).shape == (0, 1) and rotated_iou(one, []).shape == (1, 0)
    assert rotated_iou([], []).shape == (0, 0) and paired_iou([], []).shape == (0,)


def test_bad_rows_are_refused_by_argument_and_row() -> None:
    good, bad = [[0, 0, 1, 1, 0]], [[0, 0, 1, 1, 0], [0, 0, math.nan, 1, 0]]
    with pytest.raises(ValueError, match="a row 1 is not finite"):
        rotated_iou(bad, good)
    with pytest.raises(ValueError, match="b row 1 is not finite"):
        rotated_intersection(good, bad)
    with pytest.raises(ValueError, match="same number of boxes"):
        paired_iou(good, good * 2)
