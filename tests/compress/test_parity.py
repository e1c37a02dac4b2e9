from __future__ import annotations

import numpy as np

from babelrs.detections import Detections
from babelrs.sensors import Sensor
from compress.parity import Parity, compare


def found(*rows: tuple[float, float, int]) -> Detections:
    """Detections at ``x``, of ``score`` and ``label``."""
    boxes = np.array([[x, 50.0, 30.0, 10.0, 0.3] for x, _, _ in rows], np.float32).reshape(-1, 5)
    scores, labels = [score for _, score, _ in rows], [label for _, _, label in rows]
    return Detections(boxes, np.array(scores, np.float32), np.array(labels, np.int32), ("a", "b"), Sensor.IR)


def test_small_changes_are_the_same() -> None:
    expected = found((10, 0.9, 0), (100, 0.5, 1), (200, 0.1, 0))
    assert compare([(expected, found((10.1, 0.88, 0), (100, 0.52, 1)))]) == Parity(2, 2)


def test_a_moved_a_rescored_and_a_renamed_detection_are_others() -> None:
    expected = found((10, 0.9, 0), (100, 0.5, 1), (300, 0.7, 0))
    assert compare([(expected, found((14, 0.9, 0), (100, 0.45, 1), (300, 0.7, 1)))]) == Parity(0, 3)


def test_low_scores_are_not_compared() -> None:
    assert compare([(found((10, 0.29, 0)), found())]) == Parity(0, 0)


def test_images_add_up() -> None:
    same = found((10, 0.9, 0))
    assert compare([(same, same), (same, found()), (found(), same)]) == Parity(1, 2)


def test_99_of_100_are_enough_and_98_are_not() -> None:
    assert Parity(99, 100).kept and not Parity(98, 100).kept
    assert Parity(198, 200).kept and not Parity(197, 200).kept
    assert Parity(4, 5).kept and not Parity(3, 5).kept  # of few, one may differ
    assert Parity(0, 0).kept and Parity(0, 0).share == 1.0
