"""Raw candidates become detections: thresholds, sanity, canonical angles and suppression."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.boxes import rotated_iou
from babelrs.detections import Detections
from babelrs.postprocess import detections_from_outputs
from babelrs.sensors import Sensor

CLASSES = ("ship", "vehicle")


def run(
    boxes: object, scores: object, labels: object, score_threshold: float = 0.3, nms_iou: float = 0.5
) -> Detections:
    return detections_from_outputs(
        np.array(boxes, np.float32).reshape(-1, 5),
        np.array(scores, np.float32),
        np.array(labels, np.int32),
        CLASSES,
        Sensor.RGB,
        score_threshold,
        nms_iou,
    )


def test_candidates_at_the_threshold_stay_and_below_go() -> None:
    found = run([[10, 10, 4, 2, 0], [30, 10, 4, 2, 0], [50, 10, 4, 2, 0]], [0.5, 0.25, 0.2499], [0, 0, 0], 0.25)
    assert found.scores.tolist() == [0.5, 0.25]
    assert (found.classes, found.sensor) == (CLASSES, Sensor.RGB)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(6))
def test_candidates_with_a_number_that_is_none_go(bad: float, place: int) -> None:
    box, score = [10.0, 10.0, 4.0, 2.0, 0.1], 0.9
    if place == 5:
        score = bad
    else:
        box[place] = bad
    found = run([box, [50, 10, 4, 2, 0]], [score, 0.4], [0, 0])
    assert found.scores.tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("size", [(0, 2), (4, 0), (-4, 2), (0, 0)])
def test_candidates_without_area_go(size: tuple[float, float]) -> None:
    assert len(run([[10, 10, *size, 0]], [0.9], [0])) == 0


def test_labels_that_are_no_class_go() -> None:
    boxes = [[10, 10, 4, 2, 0], [30, 10, 4, 2, 0], [50, 10, 4, 2, 0]]
    assert run(boxes, [0.9, 0.8, 0.7], [2, -1, 1]).labels.tolist() == [1]


def test_boxes_become_le90() -> None:
    found = run([[10, 10, 2, 8, 0.3]], [0.9], [0])
    assert found.boxes[0].tolist() == pytest.approx([10, 10, 8, 2, 0.3 - math.pi / 2])


def test_suppression_is_within_a_class() -> None:
    boxes = [[10, 10, 8, 4, 0], [10.5, 10, 8, 4, 0], [10, 10, 8, 4, 0]]
    found = run(boxes, [0.6, 0.9, 0.5], [0, 0, 1])
    assert found.scores.tolist() == pytest.approx([0.9, 0.5]) and found.labels.tolist() == [0, 1]


@given(st.integers(0, 2**31), st.floats(0.05, 0.9))
def test_what_is_left_is_sorted_and_apart(seed: int, nms_iou: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.column_stack([rng.uniform(0, 40, (60, 2)), rng.uniform(4, 20, (60, 2)), rng.uniform(-4, 4, 60)])
    found = run(boxes, rng.random(60), rng.integers(0, 2, 60), 0.2, nms_iou)
    assert np.all(np.diff(found.scores) <= 0) and found.scores.min() >= np.float32(0.2)
    overlap = rotated_iou(found.boxes, found.boxes)
    same = found.labels[:, None] == found.labels[None]
    assert np.all(overlap[same & ~np.eye(len(found), dtype=bool)] <= nms_iou + 1e-6)


def test_no_candidates_give_no_detections() -> None:
    assert len(run([], [], [])) == 0


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        run([[10, 10, 4, 2, 0]], [0.9, 0.8], [0])
