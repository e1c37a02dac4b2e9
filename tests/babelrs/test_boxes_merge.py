from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs.boxes import Merged, paired_iou, rotated_iou, rotated_merge, rotated_nms, to_le90

Floats = npt.NDArray[np.float64]


def turned(angle: float) -> npt.NDArray[np.float64]:
    """Unit vector at ``angle`` rad."""
    return np.array([math.cos(angle), math.sin(angle)])


def nearer_description(head: Floats, box: Floats) -> Floats:
    """The one of both descriptions of ``box`` whose half-side vectors, up to sign, lie nearer to those of ``head``."""

    def distance(candidate: Floats) -> float:
        total = 0.0
        for side, quarter in ((2, 0.0), (3, math.pi / 2)):
            own, other = (b[side] / 2 * turned(b[4] + quarter) for b in (candidate, head))
            total += min(float(((own - other) ** 2).sum()), float(((own + other) ** 2).sum()))
        return total

    swapped = box[[0, 1, 3, 2, 4]] + [0, 0, 0, 0, math.pi / 2]
    return swapped if distance(swapped) < distance(box) - 1e-9 else box


def plain_merge(
    boxes: Floats, scores: Floats, labels: npt.NDArray[np.int64], threshold: float
) -> tuple[Floats, list[int]]:
    """The definition of the documentation, box by box."""
    heads = rotated_nms(boxes, scores, labels, threshold).tolist()
    overlap = rotated_iou(boxes[heads], boxes)
    clusters = []
    for index in range(len(boxes)):
        joins = [r for r, h in enumerate(heads) if labels[h] == labels[index] and overlap[r, index] > threshold]
        clusters.append(heads.index(index) if index in heads else joins[0])
    merged = []
    for row, head in enumerate(heads):
        members = [i for i, cluster in enumerate(clusters) if cluster == row]
        weights = scores[members] if scores[head] > 0 else np.ones(len(members))
        near = np.array([nearer_description(boxes[head], boxes[i]) for i in members])
        mean = np.average(near, axis=0, weights=weights)
        vector = np.average([turned(2 * angle) for angle in near[:, 4]], axis=0, weights=weights)
        mean[4] = math.atan2(vector[1], vector[0]) / 2
        merged.append(mean)
    return np.array(merged).reshape(-1, 5), clusters


def scene(seed: int, count: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Detections around a few objects, near squares among them, at angles around the ends of the range."""
    rng = np.random.default_rng(seed)
    objects = np.column_stack(
        [rng.uniform(0, 200, (30, 2)), rng.uniform(10, 40, (30, 2)), rng.choice([-1.57, 0.78, 0, 1], 30)]
    )
    objects[::3, 3] = objects[::3, 2]
    boxes = objects[rng.integers(0, 30, count)] + rng.normal(0, 1, (count, 5)) * [1.5, 1.5, 1, 1, 0.1]
    return boxes, rng.uniform(0.05, 1, count), rng.integers(0, 2, count)


def same_rectangles(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> None:
    np.testing.assert_allclose(paired_iou(a, b), 1, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_merges_as_defined(seed: int, threshold: float) -> None:
    boxes, scores, labels = scene(seed, 150)
    merged = rotated_merge(boxes, scores, labels, threshold)
    expected, clusters = plain_merge(boxes, scores, labels, threshold)
    assert merged.clusters.tolist() == clusters
    same_rectangles(merged.boxes, expected)
    heads = rotated_nms(boxes, scores, labels, threshold)
    np.testing.assert_array_equal(merged.scores, scores[heads].astype(np.float32))
    np.testing.assert_array_equal(merged.labels, labels[heads])


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(threads: int) -> None:
    boxes, scores, labels = scene(0, 5_000)
    alone, shared = (rotated_merge(boxes, scores, labels, 0.1, threads=number) for number in (1, threads))
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_object_cut_by_a_seam_comes_back_whole() -> None:
    left, right = [50, 40, 20, 8, 0.2], [50.6, 40.3, 20, 8, 0.3]
    merged = rotated_merge([left, right], [0.9, 0.3], [4, 4], 0.3)
    np.testing.assert_allclose(merged.boxes[0, :4], [50.15, 40.075, 20, 8], rtol=1e-6)
    assert merged.boxes[0, 4] == pytest.approx(0.225, abs=1e-4)  # vectors, so not quite the mean of the angles
    assert merged.scores.tolist() == [np.float32(0.9)] and merged.labels.tolist() == [4]
    assert merged.clusters.tolist() == [0, 0]


def test_the_ends_of_the_angles_range_meet() -> None:
    merged = rotated_merge([[0, 0, 20, 8, 1.55], [0, 0, 20, 8, -1.55]], [0.5, 0.5], [0, 0], 0.3)
    same_rectangles(merged.boxes, np.array([[0, 0, 20, 8, math.pi / 2]]))


def test_squares_named_by_either_side_agree() -> None:
    square, quarter = [0, 0, 20, 19.9, 0.05], [0, 0, 20, 19.9, 0.05 - math.pi / 2]
    merged = rotated_merge([square, quarter], [0.5, 0.5], [0, 0], 0.3)
    same_rectangles(merged.boxes, np.array([[0, 0, 19.95, 19.95, 0.05]]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-1e4, 1e4), turns=st.integers(-3, 3))
def test_moving_the_scene_moves_the_result(seed: int, shift: float, turns: int) -> None:
    boxes, scores, labels = scene(seed, 60)
    moved = np.add(boxes, [shift, -shift, 0, 0, turns * math.pi])
    here, there = rotated_merge(boxes, scores, labels, 0.2), rotated_merge(moved, scores, labels, 0.2)
    assert here.clusters.tolist() == there.clusters.tolist()
    back = there.boxes.astype(np.float64) - [shift, -shift, 0, 0, 0]
    np.testing.assert_allclose(paired_iou(here.boxes, back), 1, atol=1e-2)  # float32 so far from the origin


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_which_side_names_a_box_does_not_matter(seed: int) -> None:
    boxes, scores, labels = scene(seed, 60)
    other = boxes.copy()
    flipped = np.random.default_rng(seed).random(60) < 0.5
    other[flipped] = boxes[flipped][:, [0, 1, 3, 2, 4]] + [0, 0, 0, 0, math.pi / 2]
    one, two = rotated_merge(boxes, scores, labels, 0.2), rotated_merge(other, scores, labels, 0.2)
    assert one.clusters.tolist() == two.clusters.tolist()
    same_rectangles(one.boxes, two.boxes)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0, 1))
def test_a_mean_lies_between_its_members(seed: int, threshold: float) -> None:
    boxes, scores, labels = scene(seed, 60)
    merged = rotated_merge(boxes, scores, labels, threshold)
    assert sorted(set(merged.clusters.tolist())) == list(range(len(merged.boxes)))
    assert (np.diff(merged.scores) <= 0).all()
    for row, box in enumerate(merged.boxes):
        members = boxes[merged.clusters == row]
        assert (labels[merged.clusters == row] == merged.labels[row]).all()
        assert (box[:2] >= members[:, :2].min(axis=0) - 1e-3).all() and (
            box[:2] <= members[:, :2].max(axis=0) + 1e-3
        ).all()
        assert members[:, 2:4].min() - 1e-3 <= box[3] <= box[2] <= members[:, 2:4].max() + 1e-3


def test_lone_boxes_come_back_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    boxes = to_le90(
        np.column_stack([np.arange(50) * 1e3, np.zeros(50), rng.uniform(1, 90, (50, 2)), rng.uniform(-4, 4, 50)])
    )
    merged = rotated_merge(boxes, np.linspace(1, 0.1, 50), np.zeros(50, int), 0.0)
    np.testing.assert_array_equal(merged.boxes, boxes)


def test_scores_of_zero_weigh_the_same() -> None:
    merged = rotated_merge([[0, 0, 20, 8, 0], [1, 0, 20, 8, 0]], [0.0, 0.0], [0, 0], 0.3)
    assert merged.boxes.tolist() == [[0.5, 0, 20, 8, 0]] and merged.scores.tolist() == [0]


def test_where_the_mean_of_the_angles_vanishes_the_heads_stays() -> None:
    star = [[0, 0, 10, 1, 0.3], [0, 0, 10, 1, 0.3 + math.pi / 3], [0, 0, 10, 1, 0.3 - math.pi / 3]]
    merged = rotated_merge(star, [0.5, 0.5, 0.5], [0, 0, 0], 0.0)
    np.testing.assert_allclose(merged.boxes, [[0, 0, 10, 1, 0.3]], atol=1e-6)


def test_crossed_boxes_are_averaged_side_by_side() -> None:
    merged = rotated_merge([[0, 0, 30, 10, 0], [0, 0, 30, 10, math.pi / 2]], [0.5, 0.5], [0, 0], 0.1)
    np.testing.assert_allclose(merged.boxes, [[0, 0, 20, 20, 0]], atol=1e-6)


def test_the_ends_of_float32_give_finite_boxes() -> None:
    boxes = [[3.4e38, -3.4e38, 3.4e38, 3.4e38, 0.1], [3.4e38, -3.4e38, 3.4e38, 3.3e38, 0.2], [0, 0, 1e-45, 1e-45, 0]]
    merged = rotated_merge(boxes, [1e-38, 1e-38, 1e38], [0, 0, 0], 0.3)
    assert np.isfinite(merged.boxes).all() and merged.clusters.tolist() == [1, 1, 0]


def test_no_boxes_give_none() -> None:
    merged = rotated_merge([], [], [], 0.5)
    assert isinstance(merged, Merged) and merged.boxes.shape == (0, 5) and merged.boxes.dtype == np.float32
    assert merged.scores.shape == merged.labels.shape == merged.clusters.shape == (0,)


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "message"),
    [
        ([0.5, -0.1], [0, 0], 0.5, "scores row 1 is negative"),
        ([0.5, 1e39], [0, 0], 0.5, "scores row 1 is negative or beyond float32"),
        ([0.5, 0.5], [0, 2**40], 0.5, "labels row 1 is beyond int32"),
        ([0.5, math.inf], [0, 0], 0.5, "scores row 1 is not finite"),
        ([0.5], [0, 0], 0.5, r"scores \(1,\) and labels \(2,\)"),
        ([0.5, 0.5], [0, 0], -0.5, "iou_threshold is -0.5"),
    ],
)
def test_bad_arguments_are_refused(scores: list[float], labels: list[int], threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotated_merge([[0, 0, 2, 1, 0]] * 2, scores, labels, threshold)
