from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from babelrs.boxes import from_coco, rotated_iou
from train.assigner import Targets
from train.config import AssignerConfig, LossConfig
from train.losses import HeadLoss, distribution_focal, head_loss, quality_focal, target_geometry
from train.models.head import (
    NUM_BINS,
    RawOutputs,
    decode_geometry,
    offset_bins,
    size_bins,
    to_oriented,
    unit_directions,
)
from train.models.pyramid import anchor_points

LOSS = LossConfig.model_validate(
    {"class_weight": 1, "overlap_weight": 2, "distribution_weight": 0.5, "direction_weight": 0.5, "focal_beta": 2}
)
ASSIGNER = AssignerConfig.model_validate(
    {"points_per_object": 4, "score_exponent": 0.5, "overlap_exponent": 4, "centre_radius_strides": 1.0}
)
POINTS, STRIDES = anchor_points(64, 64, (8, 16), torch.device("cpu"))


def targets_of(boxes: list[list[float]], labels: list[int], ignore: list[list[float]] | None = None) -> Targets:
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5),
        torch.tensor(labels, dtype=torch.long),
        torch.tensor(ignore or [], dtype=torch.float32).reshape(-1, 5),
    )


def leaves(seed: int, images: int = 1, num_classes: int = 2, oriented: bool = True) -> RawOutputs:
    generator = torch.Generator().manual_seed(seed)
    sizes = [num_classes, 4 * NUM_BINS] + [2] * oriented
    parts = [0.1 * torch.randn(images, len(POINTS), size, generator=generator) for size in sizes]
    parts[0] -= 3.0
    tensors = [part.requires_grad_() for part in parts]
    return RawOutputs(tensors[0], tensors[1], tensors[2] if oriented else None)


def two_bin_logits(value: float, bins: torch.Tensor) -> torch.Tensor:
    """Logits whose distribution lies on the two bins around ``value`` with ``value`` as its expectation."""
    values = bins.tolist()
    right = next(index for index in range(1, len(values)) if values[index] >= value or index == len(values) - 1)
    share = (value - values[right - 1]) / (values[right] - values[right - 1])
    probabilities = torch.full((len(values),), 1e-9)
    probabilities[right - 1] += 1 - share
    probabilities[right] += share
    return probabilities.log()


@given(
    rows=st.lists(
        st.tuples(st.floats(-15, 15), st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))), min_size=1, max_size=8
    ),
    beta=st.sampled_from([0.0, 1.0, 2.0, 2.5]),
)
def test_quality_focal_loss_is_its_formula(rows: list[tuple[float, float]], beta: float) -> None:
    logits, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    found = quality_focal(logits, targets, beta).tolist()
    for value, (logit, target) in zip(found, rows, strict=True):
        p = 1 / (1 + math.exp(-logit))
        entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
        assert value == pytest.approx(abs(target - p) ** beta * entropy, abs=1e-9, rel=1e-6)


def all_bins() -> torch.Tensor:
    return torch.stack([offset_bins(), offset_bins(), size_bins(), size_bins()]).double()


def reference_focal(logits: npt.NDArray[np.float64], value: float, bins: list[float]) -> float:
    """Cross-entropy with the linear split of ``value`` over its two bins; values outside are taken to the edge."""
    log_total = math.log(np.exp(logits - logits.max()).sum()) + logits.max()
    value = min(max(value, bins[0]), bins[-1])
    total = 0.0
    for index, bin_ in enumerate(bins):
        if bin_ == value:
            return float(log_total - logits[index])
        for other in (index - 1, index + 1):
            if 0 <= other < len(bins) and min(bin_, bins[other]) < value < max(bin_, bins[other]):
                total += (1 - abs(value - bin_) / abs(bins[other] - bin_)) * (log_total - logits[index])
    return float(total)


@given(
    values=st.lists(
        st.one_of(
            st.floats(-6, 20),
            st.sampled_from([*offset_bins().tolist(), *size_bins().tolist()]),  # exactly on a bin or an edge
        ),
        min_size=4,
        max_size=4,
    ),
    seed=st.integers(0, 1000),
)
@example(values=[-4.0, 4.0, 0.0, 16.0], seed=0)
@example(values=[-9.0, 9.0, -1.0, 99.0], seed=1)
def test_distribution_focal_loss_splits_the_target_over_its_two_bins(values: list[float], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (1, 4, NUM_BINS))
    found = distribution_focal(torch.from_numpy(logits), torch.tensor([values], dtype=torch.float64), all_bins())
    for side in range(4):
        wanted = reference_focal(logits[0, side], values[side], all_bins()[side].tolist())
        assert float(found[0, side]) == pytest.approx(wanted, abs=1e-6)


@given(offset=st.floats(-4, 4), size=st.floats(0, 16), seed=st.integers(0, 100))
def test_distribution_focal_loss_is_least_at_the_distribution_with_the_right_expectation(
    offset: float, size: float, seed: int
) -> None:
    values = torch.tensor([[offset, offset, size, size]], dtype=torch.float64)
    ideal = torch.stack([two_bin_logits(v, b) for v, b in zip(values[0].tolist(), all_bins(), strict=True)]).double()
    expectation = (ideal.softmax(-1) * all_bins()).sum(-1)
    torch.testing.assert_close(expectation, values[0], atol=1e-5, rtol=0)
    logits = ideal[None].clone().requires_grad_()
    least = distribution_focal(logits, values, all_bins())
    (gradient,) = torch.autograd.grad(least.sum(), logits)
    assert float(gradient.abs().max()) < 1e-6
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert (distribution_focal(ideal[None] + noise, values, all_bins()) >= least - 1e-6).all()


def test_horizontal_targets_have_their_sides_along_the_axes() -> None:
    coco = np.array([[10, 20, 30, 8], [10, 20, 8, 30], [0, 0, 12, 12]], np.float32)
    geometry, directions = target_geometry(torch.from_numpy(from_coco(coco)), oriented=False)
    wanted = [[25, 24, 30, 8], [14, 35, 8, 30], [6, 6, 12, 12]]
    assert geometry.tolist() == wanted
    assert directions.tolist() == [[1, 0]] * 3


@given(w=st.floats(4, 100), h=st.floats(4, 100), theta=st.floats(-math.pi / 2, 1.57))
def test_oriented_targets_decode_to_the_same_box(w: float, h: float, theta: float) -> None:
    box = torch.tensor([[5.0, 6.0, max(w, h), min(w, h), theta]])
    decoded = to_oriented(*target_geometry(box, oriented=True))
    assert rotated_iou(box.numpy(), decoded.numpy())[0, 0] > 1 - 1e-3


def train_toy(raw: RawOutputs, targets: list[Targets], steps: int) -> list[HeadLoss]:
    tensors = [tensor for tensor in (raw.logits, raw.distributions, raw.directions) if tensor is not None]
    optimizer = torch.optim.Adam(tensors, lr=0.15)
    history = []
    for _ in range(steps):
        loss = head_loss(raw, targets, POINTS, STRIDES, LOSS, ASSIGNER)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        history.append(loss)
    return history


@pytest.mark.parametrize("oriented", [True, False])
def test_gradient_steps_lead_the_outputs_to_the_objects(oriented: bool) -> None:
    boxes = [[20.0, 22.0, 28.0, 9.0, 0.6], [46.0, 44.0, 22.0, 8.0, -1.3]]
    if not oriented:
        boxes = [[20.0, 22.0, 28.0, 9.0, 0.0], [46.0, 44.0, 22.0, 8.0, -math.pi / 2]]
    raw = leaves(0, oriented=oriented)
    history = train_toy(raw, [targets_of(boxes, [1, 0])], 150)
    assert float(history[-1].total.detach()) < 0.3 * float(history[0].total.detach())
    geometry = decode_geometry(raw.distributions, POINTS, STRIDES)
    found = to_oriented(geometry, unit_directions(raw.directions, geometry))[0].detach()
    scores, labels = raw.logits[0].detach().sigmoid().max(-1)
    for box, label in zip(boxes, [1, 0], strict=True):
        own = torch.where(labels == label, scores, torch.zeros_like(scores)).argmax()
        assert scores[own] > 0.5
        assert rotated_iou(np.array([box]), found[own][None].numpy())[0, 0] > 0.75


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    loss = head_loss(leaves(1), [targets_of([[30, 30, 20, 8, 0.3]], [0])], POINTS, STRIDES, LOSS, ASSIGNER)
    wanted = loss.classes + 2 * loss.overlap + 0.5 * loss.distributions + 0.5 * loss.direction
    torch.testing.assert_close(loss.total, wanted)


def test_ignored_regions_give_no_classification_gradient() -> None:
    raw = leaves(2)
    ignored = [40.0, 40.0, 30.0, 12.0, 0.5]
    head_loss(raw, [targets_of([[14, 14, 16, 8, 0]], [0], [ignored])], POINTS, STRIDES, LOSS, ASSIGNER).total.backward()
    turn = np.array([[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]])
    local = np.abs((POINTS.numpy() - ignored[:2]) @ turn.T)
    inside = torch.from_numpy((local <= [15.0, 6.0]).all(axis=1))
    assert raw.logits.grad is not None and 3 < int(inside.sum()) < len(POINTS) - 3
    assert (raw.logits.grad[0, inside] == 0).all() and (raw.logits.grad[0, ~inside] != 0).all()


def test_images_without_objects_teach_background_only() -> None:
    raw = leaves(3, images=2)
    loss = head_loss(raw, [targets_of([], []), targets_of([], [])], POINTS, STRIDES, LOSS, ASSIGNER)
    loss.total.backward()
    assert torch.isfinite(loss.total) and loss.total > 0 and loss.overlap == 0 == loss.distributions
    assert raw.logits.grad is not None and (raw.logits.grad > 0).all()  # every score is pushed down
    assert raw.distributions.grad is None or (raw.distributions.grad == 0).all()


def test_an_image_without_objects_beside_one_with_them_changes_only_the_classes() -> None:
    full = targets_of([[30, 30, 20, 8, 0.3]], [0])
    raw = leaves(4, images=2)
    alone = RawOutputs(
        raw.logits[:1], raw.distributions[:1], raw.directions[:1] if raw.directions is not None else None
    )
    one = head_loss(alone, [full], POINTS, STRIDES, LOSS, ASSIGNER)
    both = head_loss(raw, [full, targets_of([], [])], POINTS, STRIDES, LOSS, ASSIGNER)
    torch.testing.assert_close(
        (both.overlap, both.distributions, both.direction), (one.overlap, one.distributions, one.direction)
    )
    assert both.classes > one.classes


def exact_raw(box: list[float], swapped: bool, num_classes: int = 1) -> RawOutputs:
    """Outputs that decode to ``box`` at every point, described with w first or (``swapped``) with h first."""
    cx, cy, w, h, theta = box
    if swapped:
        w, h, theta = h, w, theta + math.pi / 2
    rows = []
    for (x, y), stride in zip(POINTS.tolist(), STRIDES.tolist(), strict=True):
        values = [(cx - x) / stride, (cy - y) / stride, w / stride, h / stride]
        rows.append(torch.cat([two_bin_logits(v, b.float()) for v, b in zip(values, all_bins(), strict=True)]))
    logits = torch.zeros(1, len(POINTS), num_classes)
    directions = torch.tensor([math.cos(2 * theta), math.sin(2 * theta)]).expand(1, len(POINTS), 2)
    return RawOutputs(logits, torch.stack(rows)[None], directions)


def test_a_nearly_square_object_may_be_described_either_way_round() -> None:
    box = [32.0, 32.0, 21.0, 19.5, 0.4]
    losses = [
        head_loss(exact_raw(box, swapped), [targets_of([box], [0])], POINTS, STRIDES, LOSS, ASSIGNER)
        for swapped in (False, True)
    ]
    torch.testing.assert_close(losses[1].total, losses[0].total, atol=2e-3, rtol=0)
    assert float(losses[1].direction) < 1e-3 and float(losses[1].overlap) < 1e-2


def test_a_perfect_prediction_has_almost_no_box_loss() -> None:
    box = [32.0, 32.0, 40.0, 9.0, -1.2]
    loss = head_loss(exact_raw(box, False), [targets_of([box], [0])], POINTS, STRIDES, LOSS, ASSIGNER)
    turned = head_loss(exact_raw([*box[:4], -0.9], False), [targets_of([box], [0])], POINTS, STRIDES, LOSS, ASSIGNER)
    assert float(loss.overlap) < 1e-2 and float(loss.direction) < 1e-6
    assert float(turned.overlap) > 0.1 and float(turned.direction) > 0.1
