from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.distill_config import DistillConfig
from compress.distill_losses import (
    averaged,
    distribution_gap,
    feature_gap,
    head_gaps,
    matched_taps,
    seen,
    token_maps,
)
from train.models.backbone import Features
from train.models.head import NUM_BINS, RawOutputs, offset_bins, size_bins
from train.models.pyramid import anchor_points

POINTS, STRIDES = anchor_points(64, 64, (16, 32), torch.device("cpu"))


def settings(**changes: Any) -> DistillConfig:
    fields = {"class_temperature": 1.0, "box_temperature": 3.0, "focal_beta": 1.0, "least_score": 0.2}
    return DistillConfig.model_validate({**fields, **changes})


def raw_outputs(seed: int, oriented: bool = True, images: int = 2, num_classes: int = 3) -> RawOutputs:
    generator = torch.Generator().manual_seed(seed)
    sizes = [num_classes, 4 * NUM_BINS, 2]
    logits, boxes, directions = (2 * torch.randn(images, len(POINTS), size, generator=generator) for size in sizes)
    return RawOutputs(logits - 2, boxes, directions if oriented else None)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def reference_gaps(student: RawOutputs, teacher: RawOutputs, config: DistillConfig) -> tuple[float, float, float]:
    """The three gaps, number by number."""
    bins = [values.double().tolist() for values in (offset_bins(), offset_bins(), size_bins(), size_bins())]
    scores, classes, boxes, direction = 0.0, 0.0, 0.0, 0.0
    for image in range(len(student.logits)):
        for point in range(len(POINTS)):
            own, wanted = (raw.logits[image, point].double().tolist() for raw in (student, teacher))
            for z, t in zip(own, wanted, strict=True):
                p, q = sigmoid(z / config.class_temperature), sigmoid(t / config.class_temperature)
                entropy = -q * math.log(p) - (1 - q) * math.log(1 - p)
                classes += config.class_temperature**2 * abs(q - p) ** config.focal_beta * entropy
            score = sigmoid(max(wanted))
            if score < config.least_score:
                continue
            scores += score
            sides = []
            for side in range(4):
                part = slice(side * NUM_BINS, (side + 1) * NUM_BINS)
                own, wanted = (raw.distributions[image, point, part].double().tolist() for raw in (student, teacher))
                p, q = (softmax([z / config.box_temperature for z in logits]) for logits in (own, wanted))
                apart = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
                boxes += score * config.box_temperature**2 * apart / 4
                sides.append(sum(b * v for b, v in zip(softmax(wanted), bins[side], strict=True)))
            if student.directions is not None and teacher.directions is not None:
                w, h = (max(1.0, side * float(STRIDES[point])) for side in sides[2:])
                pairs = [raw[image, point].double().tolist() for raw in (student.directions, teacher.directions)]
                units = [[x / math.sqrt(a * a + b * b + 1e-6) for x in (a, b)] for a, b in pairs]
                squared = sum((x - y) ** 2 for x, y in zip(*units, strict=True))
                direction += score * squared * (1 - min(w, h) / max(w, h))
    normaliser = max(1.0, scores)
    return classes / normaliser, boxes / normaliser, direction / normaliser


@pytest.mark.parametrize(
    ("oriented", "changes", "found_by"),
    [
        (True, {}, [True, True, True]),
        (False, {"focal_beta": 2.0}, [True, True, False]),
        (True, {"class_temperature": 2.0, "box_temperature": 1.0, "least_score": 0.0}, [True, True, True]),
        (True, {"least_score": 0.9999}, [True, False, False]),
    ],
)
def test_the_gaps_at_the_heads_are_their_formulas(
    oriented: bool, changes: dict[str, float], found_by: list[bool]
) -> None:
    student, teacher, config = raw_outputs(1, oriented), raw_outputs(2, oriented), settings(**changes)
    found = head_gaps(student, teacher, POINTS, STRIDES, config)
    wanted = reference_gaps(student, teacher, config)
    np.testing.assert_allclose([found.classes, found.boxes, found.direction], wanted, rtol=1e-5, atol=1e-6)
    assert [gap > 0 for gap in wanted] == found_by


def test_a_student_that_is_its_teacher_has_no_gap_and_any_other_has_one() -> None:
    teacher = raw_outputs(3)
    same = head_gaps(teacher, teacher, POINTS, STRIDES, settings())
    assert [float(gap) for gap in (same.classes, same.boxes, same.direction)] == [0.0, 0.0, 0.0]
    other = head_gaps(raw_outputs(4), teacher, POINTS, STRIDES, settings())
    assert min(float(gap) for gap in (other.classes, other.boxes, other.direction)) > 0.01


def test_boxes_are_learned_only_where_the_teacher_sees_something() -> None:
    student, teacher = raw_outputs(5), raw_outputs(6)
    student.distributions.requires_grad_()
    head_gaps(student, teacher, POINTS, STRIDES, settings(least_score=0.4)).boxes.backward()
    assert student.distributions.grad is not None
    learned = student.distributions.grad.abs().sum(-1) > 0
    best = teacher.logits.amax(-1).sigmoid()
    assert torch.equal(learned, best >= 0.4) and 0 < learned.sum() < learned.numel()
    assert torch.equal(seen(teacher.logits, 0.4), best * learned)


def test_gradient_steps_close_the_gaps() -> None:
    teacher, student = raw_outputs(7), raw_outputs(8)
    assert student.directions is not None
    leaves = [part.requires_grad_() for part in (student.logits, student.distributions, student.directions)]
    optimizer = torch.optim.Adam(leaves, lr=0.1)
    course = []
    for _ in range(120):
        gaps = head_gaps(student, teacher, POINTS, STRIDES, settings())
        optimizer.zero_grad()
        (gaps.classes + gaps.boxes + gaps.direction).backward()
        optimizer.step()
        course.append([float(gap.detach()) for gap in (gaps.classes, gaps.boxes, gaps.direction)])
    assert all(last < 0.1 * first for first, last in zip(course[0], course[-1], strict=True))


@given(scale=st.floats(0.5, 2), seed=st.integers(0, 50))
def test_a_high_temperature_gives_half_the_variance_of_the_logits_differences(scale: float, seed: int) -> None:
    """The limit that the square of the temperature is there for (Hinton et al. 2015, eq. 4)."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(3, 4 * NUM_BINS, generator=generator) for _ in range(2))
    half_variance = 0.5 * (student - teacher).unflatten(-1, (4, NUM_BINS)).var(-1, unbiased=False).mean(-1)
    torch.testing.assert_close(distribution_gap(student, teacher, 100.0), half_variance, rtol=0.1, atol=0)


def cover(size: int, cells: int, coarse: int, fine: int) -> Fraction:
    """The share of a coarse cell that a fine one takes, in exact fractions."""
    left = max(Fraction(coarse, cells), Fraction(fine, size))
    right = min(Fraction(coarse + 1, cells), Fraction(fine + 1, size))
    return max(Fraction(0), right - left) * cells


@pytest.mark.parametrize(("size", "grid"), [((4, 6), (2, 3)), ((5, 4), (3, 4)), ((7, 5), (2, 3)), ((3, 3), (3, 3))])
def test_a_coarser_map_holds_the_mean_of_the_area_under_each_cell(size: tuple[int, int], grid: tuple[int, int]) -> None:
    tokens = torch.randn(2, *size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = averaged(tokens, grid)
    for y in range(grid[0]):
        for x in range(grid[1]):
            wanted = sum(
                float(cover(size[0], grid[0], y, i) * cover(size[1], grid[1], x, j)) * tokens[:, i, j]
                for i in range(size[0])
                for j in range(size[1])
            )
            torch.testing.assert_close(found[:, y, x], wanted)


@pytest.mark.parametrize(("own", "given"), [((2, 2), (4, 4)), ((6, 4), (3, 2)), ((5, 2), (3, 4)), ((3, 3), (3, 3))])
def test_the_feature_gap_is_the_distance_of_normalised_tokens_on_the_coarser_grid(
    own: tuple[int, int], given: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, *grid, 5, generator=generator) for grid in (own, given))
    grid = min(own[0], given[0]), min(own[1], given[1])
    rows = []
    for tokens in (student, teacher):
        array = averaged(tokens.double(), grid).numpy().reshape(-1, 5)
        rows.append([[(x - row.mean()) / math.sqrt(row.var() + 1e-6) for x in row] for row in array])
    wanted = np.mean((np.array(rows[0]) - np.array(rows[1])) ** 2)
    assert float(feature_gap(student, teacher)) == pytest.approx(wanted, rel=1e-5)
    assert 0 < wanted < 4
    assert float(feature_gap(teacher, 3 * teacher + 2)) < 1e-9 and float(feature_gap(teacher, -teacher)) > 3.9


def test_token_maps_drop_the_prefix_and_keep_rows_and_columns_apart() -> None:
    tokens = torch.arange(2.0 * 8 * 3).reshape(2, 8, 3).square()
    (found,) = token_maps(Features((tokens,), (2, 3), {}), prefix_tokens=2)
    assert found.shape == (2, 2, 3, 3)
    token = tokens[1, 2 + 1 * 3 + 2].numpy()
    np.testing.assert_allclose(found[1, 1, 2], (token - token.mean()) / token.std(), rtol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "wanted"),
    [
        (((1, 2, 4, 6), 6), ((3, 9, 18, 24), 24), (0, 1, 2, 3)),
        (((1, 3), 3), ((1, 2, 3, 4), 4), (0, 3)),  # 1/3 is nearer to 1/4 than to 2/4
        (((2, 4), 4), ((6,), 12), (0, 0)),
        (((2,), 4), ((1, 3), 4), (1,)),  # as near to both
        (((1, 2, 3, 4), 4), ((2, 4), 4), (0, 0, 1, 1)),  # ties go to the deeper
        (((5, 11), 12), ((5, 11), 12), (0, 1)),
    ],
)
def test_taps_are_matched_by_relative_depth(
    student: tuple[tuple[int, ...], int], teacher: tuple[tuple[int, ...], int], wanted: tuple[int, ...]
) -> None:
    assert matched_taps(*student, *teacher) == wanted
