"""Suppression against its definition, on sets of boxes made to mislead an index."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs.boxes import rotated_iou, rotated_nms
from benchmarks.box_pairs import shapely_iou

Floats = npt.NDArray[np.float64]
THREADS = (1, 2, 5)


def plain_nms(boxes: Floats, scores: Floats, labels: npt.NDArray[np.int64], threshold: float) -> list[int]:
    """Every kept box against every other one, in order of score and index."""
    alive = np.ones(len(boxes), bool)
    kept = []
    for index in np.lexsort((np.arange(len(boxes)), -scores)):
        if alive[index]:
            kept.append(int(index))
            alive &= ~((rotated_iou(boxes[index : index + 1], boxes)[0] > threshold) & (labels == labels[index]))
    return kept


def assert_plain(boxes: Floats, scores: Floats, labels: npt.NDArray[np.int64], threshold: float) -> None:
    expected = plain_nms(boxes, scores, labels, threshold)
    for threads in THREADS:
        assert rotated_nms(boxes, scores, labels, threshold, threads=threads).tolist() == expected


def scattered(rng: np.random.Generator, count: int, extent: float, smallest: float, largest: float) -> Floats:
    """Centres over a square of side ``extent`` px, sides evenly over the decades."""
    sides = np.exp(rng.uniform(math.log(smallest), math.log(largest), (count, 2)))
    return np.column_stack([rng.uniform(0, extent, (count, 2)), sides, rng.uniform(-4, 4, count)])


def drawn(rng: np.random.Generator, count: int, classes: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores of two decimals, so that many are equal, and labels, some of them negative."""
    return np.round(rng.random(count), 2), rng.integers(-1, classes - 1, count)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("extent", [300.0, 3_000.0, 30_000.0])
def test_five_thousand_boxes_dense_and_sparse(extent: float, threshold: float) -> None:
    rng = np.random.default_rng(int(extent))
    assert_plain(scattered(rng, 5_000, extent, 5, 80), *drawn(rng, 5_000, 3), threshold)


@pytest.mark.parametrize("seed", range(30))
def test_many_random_sets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 600))
    extent, largest = 10 ** rng.uniform(0, 4), 10 ** rng.uniform(0.5, 3)
    boxes = scattered(rng, count, extent, largest / 10 ** rng.uniform(0, 3), largest)
    assert_plain(boxes, *drawn(rng, count, int(rng.integers(1, 20))), float(rng.choice([0, 0.1, 0.3, 0.7, 1])))


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_shapely(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    count, threshold = 200, 0.2
    boxes, scores = scattered(rng, count, 150, 5, 60), rng.random(count)
    rows, columns = np.indices((count, count)).reshape(2, -1)
    overlap = shapely_iou(boxes[rows], boxes[columns]).reshape(count, count)
    kept: list[int] = []
    for index in np.argsort(-scores):
        if (overlap[index, kept] <= threshold).all():
            kept.append(int(index))
    assert rotated_nms(boxes, scores, np.zeros(count, int), threshold).tolist() == kept


ADVERSARIAL = {
    "every size at once": lambda rng: scattered(rng, 1_500, 1_000, 1e-3, 1e5),
    "at one point": lambda rng: scattered(rng, 1_500, 0, 2, 200),
    "all the same": lambda rng: np.tile(scattered(rng, 1, 100, 5, 50), (1_500, 1)),
    "a million pixels away": lambda rng: np.add(scattered(rng, 1_500, 300, 5, 50), [1e6, -1e6, 0, 0, 0]),
    "over millions of pixels": lambda rng: scattered(rng, 1_500, 2e6, 1e3, 3e5) - [1e6, 1e6, 0, 0, 0],
    "points and lines": lambda rng: (
        scattered(rng, 1_500, 300, 5, 50) * rng.integers(0, 2, (1_500, 5)) ** [0, 0, 1, 1, 0]
    ),
    "needles side by side": lambda rng: np.column_stack(
        [rng.uniform(0, 5, 1_500), rng.uniform(0, 400, 1_500), np.full((1_500, 2), [300, 1.0]), np.zeros(1_500)]
    ),
    "on the grid of the cells": lambda rng: np.column_stack(
        [rng.integers(-9, 9, (1_500, 2)) * 16.0, np.full((1_500, 2), 16.0), rng.integers(0, 8, 1_500) * math.pi / 4]
    ),
    "diamonds tip to tip, as wide as a cell": lambda rng: np.column_stack(
        [
            rng.integers(-9, 9, (1_500, 2)) * 15.9 + rng.uniform(-0.1, 0.1, (1_500, 2)),
            np.full((1_500, 2), 15.9999 / math.sqrt(2)),
            np.full(1_500, math.pi / 4),
        ]
    ),
    "the ends of float32": lambda rng: np.column_stack(
        [rng.choice([-3e38, 0, 1e-45, 3e38], (300, 2)), rng.choice([1e-45, 1, 3e38], (300, 2)), rng.uniform(-4, 4, 300)]
    ),
}


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_sets_that_mislead_an_index(kind: str, threshold: float) -> None:
    rng = np.random.default_rng(list(ADVERSARIAL).index(kind))
    boxes = ADVERSARIAL[kind](rng).astype(np.float32).astype(np.float64)
    assert_plain(boxes, *drawn(rng, len(boxes), 2), threshold)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-50, 50, width=32),
            st.floats(-50, 50, width=32),
            st.floats(0, 40, width=32),
            st.floats(0, 40, width=32),
            st.floats(-4, 4, width=32),
            st.integers(0, 3),
            st.integers(0, 1),
        ),
        max_size=40,
    ),
    threshold=st.floats(0, 1),
)
def test_any_small_set(rows: list[tuple[float, ...]], threshold: float) -> None:
    table = np.array(rows, np.float64).reshape(-1, 7)
    assert_plain(table[:, :5], table[:, 5] / 3, table[:, 6].astype(np.int64), threshold)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_hundred_thousand_boxes(threads: int) -> None:
    rng = np.random.default_rng(5)
    objects = scattered(rng, 25_000, 20_000, 10, 60)
    boxes = np.concatenate([objects, objects, np.add(objects, [0.5, 0, 0, 0, 0]), objects])
    scores = np.repeat([0.9, 0.5, 0.4, 0.3], 25_000)
    kept = rotated_nms(boxes, scores, np.arange(100_000) % 25_000, 0.2, threads=threads)
    assert kept.tolist() == list(range(25_000))  # a label for every object: its first copy is kept


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads is {threads}; 1 or more expected"):
        rotated_nms([[0, 0, 2, 1, 0]], [0.5], [0], 0.5, threads=threads)
