from __future__ import annotations

import math
import threading

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.boxes import rotated_iou, rotated_nms


def _reference_nms(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], threshold: float
) -> list[int]:
    """The definition, word for word."""
    overlap = rotated_iou(boxes, boxes)
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(labels[index] != labels[other] or overlap[other, index] <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_keeps_what_the_definition_keeps(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    count = 300
    boxes = np.column_stack(
        [rng.uniform(0, 120, (count, 2)), rng.uniform(5, 40, (count, 2)), rng.uniform(-2, 2, count)]
    )
    scores = np.round(rng.random(count), 1).astype(np.float32)  # one decimal: many ties
    labels = rng.integers(0, 3, count).astype(np.int32)
    kept = rotated_nms(boxes, scores, labels, threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == _reference_nms(boxes.astype(np.float32), scores, labels, threshold)


def test_equal_scores_keep_the_first() -> None:
    boxes = [[0, 0, 4, 2, 0.1]] * 3 + [[50, 0, 4, 2, 0]]
    assert rotated_nms(boxes, [0.5] * 4, [0] * 4, 0.5).tolist() == [0, 3]


def test_other_classes_do_not_suppress() -> None:
    boxes = [[0, 0, 4, 2, 0]] * 3
    assert rotated_nms(boxes, [0.2, 0.9, 0.5], [0, 1, 0], 0.5).tolist() == [1, 2]


def test_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = [[0, 0, 4, 4, 0], [0, 1, 4, 2, 0]]  # IoU exactly 0.5
    assert rotated_nms(boxes, [0.9, 0.8], [0, 0], 0.5).tolist() == [0, 1]
    assert rotated_nms(boxes, [0.9, 0.8], [0, 0], 0.499).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = [[0, 0, 10, 10, 0], [4, 0, 10, 10, 0], [8, 0, 10, 10, 0]]
    assert rotated_nms(chain, [0.9, 0.8, 0.7], [0, 0, 0], 0.4).tolist() == [0, 2]


def test_no_boxes_keep_nothing() -> None:
    assert rotated_nms([], [], [], 0.5).shape == (0,)


def test_threads_may_run_it_at_once() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(0, 200, (800, 2)), rng.uniform(5, 40, (800, 2)), rng.uniform(-2, 2, 800)])
    scores, labels = rng.random(800), np.zeros(800, int)
    alone = rotated_nms(boxes, scores, labels, 0.3).tolist()
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: found.append(rotated_nms(boxes, scores, labels, 0.3).tolist()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 4


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "message"),
    [
        ([0.5, math.nan], [0, 0], 0.5, "scores row 1 is not finite"),
        ([0.5, 0.5], [0, 0.5], 0.5, "labels row 1 is not a whole number"),
        ([0.5], [0, 0], 0.5, r"scores \(1,\) and labels \(2,\)"),
        ([0.5, 0.5], [0], 0.5, r"scores \(2,\) and labels \(1,\)"),
        ([0.5, 0.5], [0, 0], 1.5, "iou_threshold is 1.5"),
        ([0.5, 0.5], [0, 0], math.nan, "iou_threshold is nan"),
    ],
)
def test_bad_arguments_are_refused(scores: list[float], labels: list[float], threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotated_nms([[0, 0, 2, 1, 0]] * 2, scores, labels, threshold)
