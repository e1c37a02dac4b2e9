from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.gaussian import bhattacharyya_similarity, box_gaussian, overlap_loss
from train.models.head import unit_directions

Box = tuple[float, float, float, float, float]
boxes = st.tuples(
    st.floats(-60, 60), st.floats(-60, 60), st.floats(8, 200), st.floats(8, 200), st.floats(-math.pi, math.pi)
)


def reference(a: Box, b: Box) -> float:
    """The same quantity from 2x2 matrices: eigen-decomposed covariances, solved and measured by numpy.linalg."""
    means, covariances = [], []
    for cx, cy, w, h, theta in (a, b):
        turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
        means.append(np.array([cx, cy]))
        covariances.append(turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T)
    pooled = (covariances[0] + covariances[1]) / 2
    delta = means[0] - means[1]
    logs = [np.linalg.slogdet(matrix)[1] for matrix in (pooled, *covariances)]
    distance = delta @ np.linalg.solve(pooled, delta) / 8 + (logs[0] - (logs[1] + logs[2]) / 2) / 2
    return float(1 - math.sqrt(max(0.0, 1 - math.exp(-distance))))


def gaussian(box: Box, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    direction = torch.tensor([math.cos(2 * box[4]), math.sin(2 * box[4])], dtype=dtype)
    return box_gaussian(torch.tensor(box[:4], dtype=dtype), direction)


def similarity(a: Box, b: Box, dtype: torch.dtype = torch.float64) -> float:
    return float(bhattacharyya_similarity(gaussian(a, dtype), gaussian(b, dtype)))


@given(a=boxes, b=boxes)
def test_similarity_is_one_minus_the_hellinger_distance(a: Box, b: Box) -> None:
    assert similarity(a, b) == pytest.approx(reference(a, b), abs=2e-3)
    assert similarity(a, b, torch.float32) == pytest.approx(similarity(a, b), abs=2e-3)


@given(a=boxes, b=boxes)
def test_similarity_is_symmetric_and_within_its_bounds(a: Box, b: Box) -> None:
    assert similarity(a, b) == pytest.approx(similarity(b, a), abs=1e-9)
    assert 0 <= similarity(a, b) <= 1


@given(a=boxes)
def test_equal_boxes_have_similarity_one(a: Box) -> None:
    assert similarity(a, a) == pytest.approx(1, abs=2e-3) and similarity(a, a, torch.float32) > 1 - 5e-3


@given(a=boxes, b=boxes, turns=st.integers(-2, 2))
def test_swapped_sides_with_a_right_angle_turn_are_the_same_box(a: Box, b: Box, turns: int) -> None:
    cx, cy, w, h, theta = a
    swapped = (cx, cy, h, w, theta + math.pi / 2 + turns * math.pi)
    assert similarity(swapped, b) == pytest.approx(similarity(a, b), abs=1e-6)


def test_similarity_falls_as_boxes_part_and_turn() -> None:
    base: Box = (0, 0, 60, 12, 0.2)
    shifts = [similarity(base, (dx, 0, 60, 12, 0.2)) for dx in range(0, 100, 5)]
    turns = [similarity(base, (0, 0, 60, 12, 0.2 + step * math.pi / 40)) for step in range(21)]
    assert all(np.diff(shifts) < 0) and all(np.diff(turns) < 0)


@pytest.mark.parametrize("size", [(200.0, 1.0), (1.0, 200.0), (600.0, 3.0), (1.0, 1.0), (0.2, 0.2), (1000.0, 1000.0)])
@pytest.mark.parametrize("target", [(200.0, 1.0), (1000.0, 5.0), (1.0, 1.0), (64.0, 32.0)])
@pytest.mark.parametrize("distance", [0.0, 3.0, 500.0, 1e5])
@pytest.mark.parametrize("theta", [0.0, math.pi / 4, 1.1])
def test_gradients_are_finite_for_thin_tiny_equal_and_distant_boxes(
    size: tuple[float, float], target: tuple[float, float], distance: float, theta: float
) -> None:
    geometry = torch.tensor([distance, -distance, *size], requires_grad=True)
    raw = torch.tensor([math.cos(2 * theta), math.sin(2 * theta)], requires_grad=True)
    wanted = box_gaussian(torch.tensor([0.0, 0.0, *target]), torch.tensor([math.cos(1.5), math.sin(1.5)]))
    value = bhattacharyya_similarity(box_gaussian(geometry, unit_directions(raw, geometry)), wanted)
    (1 - value).backward()
    assert geometry.grad is not None and raw.grad is not None
    assert torch.isfinite(value) and torch.isfinite(geometry.grad).all() and torch.isfinite(raw.grad).all()


def test_gradient_pulls_a_thin_box_towards_its_target() -> None:
    geometry = torch.tensor([30.0, -4.0, 100.0, 2.0], requires_grad=True)
    direction = torch.tensor([1.0, 0.0])
    wanted = box_gaussian(torch.tensor([0.0, 0.0, 100.0, 2.0]), direction)
    (1 - bhattacharyya_similarity(box_gaussian(geometry, direction), wanted)).backward()
    assert geometry.grad is not None and geometry.grad[0] > 0 > geometry.grad[1]


@given(a=boxes, b=boxes)
def test_the_overlap_loss_is_the_documented_function_of_the_distance(a: Box, b: Box) -> None:
    hellinger = 1 - reference(a, b)
    distance = -math.log(max(1e-300, 1 - hellinger**2))
    if not 1e-3 < distance < 20:
        return
    f = math.log1p(math.sqrt(distance))
    assert float(overlap_loss(gaussian(a), gaussian(b))) == pytest.approx(f / (1 + f), abs=2e-3)


def pull(offset: float, across: float) -> tuple[float, float]:
    """Gradient of the overlap loss and of one minus the similarity as a box of 40 x ``across`` px is moved sideways."""
    gradients = []
    for loss in (overlap_loss, lambda first, second: 1 - bhattacharyya_similarity(first, second)):
        geometry = torch.tensor([0.0, offset, 40.0, across], dtype=torch.float64, requires_grad=True)
        direction = torch.tensor([1.0, 0.0], dtype=torch.float64)
        wanted = box_gaussian(torch.tensor([0.0, 0.0, 40.0, across], dtype=torch.float64), direction)
        loss(box_gaussian(geometry, direction), wanted).backward()
        assert geometry.grad is not None
        gradients.append(float(geometry.grad[1]))
    return gradients[0], gradients[1]


@pytest.mark.parametrize("across", [2.0, 8.0])
def test_a_thin_box_many_widths_off_is_still_pulled_back(across: float) -> None:
    near, _ = pull(0.25 * across, across)
    far, vanished = pull(12 * across, across)
    assert far > 0.003 * near > 0
    assert vanished < 1e-3 * far, "the similarity alone has lost it"


def test_the_pull_does_not_fade_at_the_target() -> None:
    nearer, near = pull(0.05, 8.0)[0], pull(0.5, 8.0)[0]
    assert nearer > 0.8 * near
