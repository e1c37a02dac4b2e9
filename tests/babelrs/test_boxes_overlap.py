from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import shapely

from babelrs.boxes import paired_iou, rotated_intersection, rotated_iou, to_corners

Floats = npt.NDArray[np.float64]
PAIRS_PER_KIND = 12_500  # eight kinds: 100,000 pairs
TOLERANCE = 1e-5


def _random_boxes(rng: np.random.Generator, count: int, thinness: float = 1.0) -> Floats:
    sides = np.exp(rng.uniform(np.log(2), np.log(400), (count, 2)))
    sides[:, 1] = sides[:, 0] / thinness if thinness > 1 else sides[:, 1]
    return np.column_stack([rng.uniform(0, 800, (count, 2)), sides, rng.uniform(-2 * math.pi, 2 * math.pi, count)])


def _unrelated(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    return _random_boxes(rng, count), _random_boxes(rng, count)


def _jittered(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    a = _random_boxes(rng, count)
    b = a.copy()
    b[:, :2] += rng.normal(0, 0.2, (count, 2)) * a[:, 2:4]
    b[:, 2:4] *= np.exp(rng.normal(0, 0.2, (count, 2)))
    b[:, 4] += rng.normal(0, 0.3, count)
    return a, b


def _identical(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    a = _random_boxes(rng, count)
    b = a.copy()
    b[:, 4] += math.pi * rng.integers(-2, 3, count)  # the same rectangle, written with another angle
    return a, b


def _nested(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    a = _random_boxes(rng, count)
    b = a.copy()
    b[:, 2:4] *= rng.uniform(0.05, 1, (count, 1))
    b[:, 4] += np.where(rng.random(count) < 0.5, 0, rng.uniform(-0.01, 0.01, count))
    return a, b


def _touching(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Side by side along an edge, with the same angle: they share a line and no area."""
    a = _random_boxes(rng, count)
    b = a.copy()
    b[:, 0] += a[:, 2] * np.cos(a[:, 4])
    b[:, 1] += a[:, 2] * np.sin(a[:, 4])
    return a, b


def _thin(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    a, b = _random_boxes(rng, count, thinness=200), _random_boxes(rng, count, thinness=200)
    b[:, :2] = a[:, :2] + rng.normal(0, 3, (count, 2))
    b[::2, 4] = a[::2, 4] + rng.normal(0, 0.005, len(a[::2]))  # almost parallel, as wakes and jetties are
    return a, b


def _degenerate(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    a, b = _jittered(rng, count)
    a[rng.random(count) < 0.5, 2] = 0
    b[rng.random(count) < 0.5, 3] = 0
    a[rng.random(count) < 0.2, 2:4] = 0
    b[::3, :2] = a[::3, :2]
    return a, b


def _far_away(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    a, b = _jittered(rng, count)
    shift = rng.uniform(-1e5, 1e5, (count, 2))
    return a + np.pad(shift, ((0, 0), (0, 3))), b + np.pad(shift, ((0, 0), (0, 3)))


KINDS = [_unrelated, _jittered, _identical, _nested, _touching, _thin, _degenerate, _far_away]


def _shapely_iou(a: Floats, b: Floats) -> Floats:
    """IoU of paired boxes by shapely, in a frame near the origin; 0 where the union has no area."""
    local = np.pad(a[:, :2], ((0, 0), (0, 3)))
    left, right = shapely.polygons(to_corners(a - local)), shapely.polygons(to_corners(b - local))
    # On a grid: without one, GEOS 3.14 finds only points in common for some rectangles that are equal up to rounding.
    shared = shapely.area(shapely.intersection(left, right, grid_size=1e-9))
    united = shapely.area(left) + shapely.area(right) - shared
    return np.divide(shared, united, out=np.zeros_like(shared), where=united > 0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.strip("_"))
def test_iou_equals_shapelys(kind: object) -> None:
    assert callable(kind)
    rng = np.random.default_rng(KINDS.index(kind))
    a, b = kind(rng, PAIRS_PER_KIND)
    ours = paired_iou(a, b)
    assert not np.isnan(ours).any() and ours.min() >= 0 and ours.max() <= 1
    error = np.abs(ours - _shapely_iou(a, b))
    worst = int(error.argmax())
    assert error[worst] <= TOLERANCE, f"seed {KINDS.index(kind)}, pair {worst}: {a[worst]} and {b[worst]}"


def test_float32_boxes_keep_the_accuracy() -> None:
    a, b = _jittered(np.random.default_rng(8), 20_000)
    a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
    assert np.abs(paired_iou(a.astype(np.float32), b.astype(np.float32)) - _shapely_iou(a, b)).max() <= TOLERANCE


def test_table_holds_every_pair() -> None:
    a, b = _jittered(np.random.default_rng(9), 40)
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
