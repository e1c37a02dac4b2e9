"""Runs a graph on its known input and compares with the outputs it must give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners
from babelrs.bundle import SelfTest
from runtime.engines import Engine, Outputs


@dataclass(frozen=True)
class SelfTestResult:
    """How far a graph's outputs are from those it must give.

    Attributes:
        num_expected: Expected candidates that were compared.
        num_missed: How many of them have no candidate of their class within the tolerances.
        score_difference: Largest difference of the sorted scores.
        box_difference_px: Largest corner difference among the matched candidates, pixels.
        passed: Nothing was missed and the sorted scores agree within the tolerance.
    """

    num_expected: int
    num_missed: int
    score_difference: float
    box_difference_px: float
    passed: bool


def run_selftest(engine: Engine, selftest: SelfTest) -> SelfTestResult:
    """Run ``selftest`` through ``engine``, and judge what it gives as :func:`judged` does.

    Raises:
        DeviceError: The engine failed.
    """
    return judged(engine.infer(selftest.pixels), selftest)


def judged(outputs: Outputs, selftest: SelfTest) -> SelfTestResult:
    """How far outputs for the self-test's input are from those that belong.

    Candidates are matched regardless of order among those whose scores differ by less than the tolerance, since
    engines may break ties differently; for the same reason the last candidates, whose scores are within the
    tolerance of the least one or below the test's least score, may be others. Boxes are compared by their corners,
    which have no angle boundary.

    Args:
        outputs: Boxes ``(1, K, 5)``, scores ``(1, K)``, labels ``(1, K)``.
        selftest: The input was its.
    """
    boxes, scores, labels = (output[0] for output in outputs)
    expected_scores, tolerance = selftest.scores[0], selftest.score_tolerance
    fits = scores.shape == expected_scores.shape and boxes.shape == selftest.boxes[0].shape
    if not (fits and np.isfinite(boxes).all() and np.isfinite(scores).all() and (boxes[:, 2:4] >= 0).all()):
        return SelfTestResult(len(expected_scores), len(expected_scores), float("inf"), float("inf"), False)
    high = max(int((expected_scores >= selftest.min_score).sum()), 1)
    score_difference = float(np.abs(np.sort(scores)[-high:] - np.sort(expected_scores)[-high:]).max(initial=0.0))
    least = max(expected_scores.min(initial=1.0) + tolerance, selftest.min_score)
    compared = np.flatnonzero(expected_scores > least)
    if compared.size == 0:
        compared = np.argsort(-expected_scores)[:high]
    missed, worst = 0, 0.0
    for index in compared:
        same = (labels == selftest.labels[0, index]) & (np.abs(scores - expected_scores[index]) <= tolerance)
        distance = corner_distances(selftest.boxes[0, index], boxes[same]).min(initial=np.inf)
        if distance <= selftest.box_tolerance_px:
            worst = max(worst, float(distance))
        else:
            missed += 1
    passed = missed == 0 and score_difference <= tolerance
    return SelfTestResult(len(compared), missed, score_difference, worst, passed)


def corner_distances(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Largest corner distance, pixels, of ``box`` ``(5,)`` from each of ``others`` ``(N, 5)``, as ``(N,)``.

    The corners are paired in the rotation that fits best.
    """
    corners, candidates = to_corners(box[None])[0], to_corners(others)  # (4, 2), (N, 4, 2)
    turned = np.stack([np.roll(corners, shift, axis=0) for shift in range(4)])  # (4, 4, 2)
    distances = np.linalg.norm(candidates[:, None] - turned[None], axis=3).max(axis=2)  # (N, 4)
    nearest: npt.NDArray[np.float64] = distances.min(axis=1)
    return nearest
