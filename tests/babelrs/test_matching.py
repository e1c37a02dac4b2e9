"""Matching of many images at once against a plain loop over one image, object by object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from babelrs import matching
from babelrs.boxes import rotated_iou
from babelrs.matching import assign, find_candidates


def scene(rng: np.random.Generator, images: int) -> tuple[npt.NDArray, ...]:
    """Objects of very different size, some over each other, and two detections near each of them, by group."""
    count = 12 * images
    objects = np.column_stack([
        rng.uniform(0, 120, (count, 2)), np.exp(rng.uniform(0, 5, (count, 2))), rng.uniform(-1.5, 1.5, count)
    ]).astype(np.float32)  # fmt: skip
    found = np.repeat(objects, 2, axis=0) + rng.normal(0, 0.06, (2 * count, 5)) * [9, 9, 3, 3, 1]
    found[:, 2:4] = np.maximum(found[:, 2:4], 0)
    groups = rng.integers(0, images, count) * 7 - 3
    order = rng.permutation(2 * count)
    return found[order].astype(np.float32), np.repeat(groups, 2)[order], objects, groups


@pytest.mark.parametrize("pairs_at_once", [1, 50, 10**6])
@pytest.mark.parametrize("lowest", [0.05, 0.5, 1.0])
def test_candidates_are_all_pairs_of_a_group_that_overlap_enough(
    lowest: float, pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", pairs_at_once)
    found, found_groups, objects, groups = scene(np.random.default_rng(4), 10)
    found[:5], found_groups[:5] = objects[:5], groups[:5]  # exact overlaps, for the threshold of 1
    result = find_candidates(found, found_groups, objects, groups, lowest)
    table = rotated_iou(found, objects) * (found_groups[:, None] == groups)
    rows, columns = np.nonzero(table >= min(lowest, 1 - 1e-10))
    assert len(rows) >= 5
    got = sorted(zip(result.detections, result.objects, result.iou, strict=True))
    assert got == sorted(zip(rows, columns, table[rows, columns], strict=True))
    assert (np.diff(result.detections) >= 0).all()


def test_groups_that_only_one_side_has_give_nothing() -> None:
    box = np.array([[5, 5, 4, 2, 0]], np.float32)
    for mine, true in ((1, 2), (3, 2), (-1, 2)):
        assert len(find_candidates(box, np.array([mine]), box, np.array([true]), 0.5).iou) == 0
    nothing = np.zeros((0, 5), np.float32)
    assert len(find_candidates(box, np.zeros(1), nothing, np.zeros(0), 0.5).iou) == 0
    assert len(find_candidates(nothing, np.zeros(0), box, np.zeros(1), 0.5).iou) == 0


def test_a_threshold_that_everything_passes_is_refused() -> None:
    with pytest.raises(ValueError, match="lowest_iou is 0"):
        find_candidates(np.zeros((0, 5), np.float32), np.zeros(0), np.zeros((0, 5), np.float32), np.zeros(0), 0)


def test_boxes_of_any_place_and_size_do_not_upset_the_search() -> None:
    far = np.array([[1e30, -1e30, 8, 4, 0.2], [0, 0, 1e15, 3, 1], [3, 3, 0, 0, 0], [3, 3, 5, 0, 0]], np.float32)
    result = find_candidates(far, np.zeros(4), far, np.zeros(4), 0.5)
    table = rotated_iou(far, far)
    expected = np.nonzero(table >= 0.5)
    assert (1, 1) in set(zip(*expected, strict=True))
    assert set(zip(result.detections, result.objects, strict=True)) == set(zip(*expected, strict=True))


def one_by_one(
    table: npt.NDArray[np.float64], ignore: npt.NDArray[np.bool_], threshold: float
) -> list[int]:  # the rule, written out
    given: set[int] = set()
    chosen = []
    for row in table:
        ranked = sorted((ignore[o], -row[o], -o) for o in range(len(row)) if row[o] >= threshold and o not in given)
        chosen.append(-ranked[0][2] if ranked else -1)
        if ranked and not ranked[0][0]:
            given.add(chosen[-1])
    return chosen


@pytest.mark.parametrize("pairs_a_round", [0.1, 3, 500])  # one by one at once, after some rounds, never
@pytest.mark.parametrize("seed", range(8))
def test_assignment_equals_serving_the_detections_one_by_one(
    seed: int, pairs_a_round: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_WORTH_A_ROUND", pairs_a_round)
    rng = np.random.default_rng(seed)
    # Overlaps of one decimal: many are equal, and nearly every detection competes for several objects.
    table = np.round(rng.random((60, 15)), 1) * (rng.random((60, 15)) < 0.3)
    ignore = rng.random(15) < 0.3
    rows, columns = np.nonzero(table >= 0.5)
    candidates = matching.Candidates(rows, columns, table[rows, columns])
    chosen = assign(candidates, ignore, 60, (0.5, 0.7, 0.9))
    for index, threshold in enumerate((0.5, 0.7, 0.9)):
        assert chosen[index].tolist() == one_by_one(table, ignore, threshold)
    assert (chosen >= 0).any() and (chosen == -1).any()
