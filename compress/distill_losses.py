"""The gaps between a student and its teacher: at the tapped token maps and at the heads' outputs.

Every gap is 0 where the student gives what the teacher gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compress.distill_config import DistillConfig
from train.losses import quality_focal
from train.models.aggregate import EPSILON
from train.models.backbone import Features
from train.models.head import NUM_BINS, RawOutputs, decode_geometry, unit_directions
from train.processes import num_processes, summed


@dataclass(frozen=True)
class HeadGaps:
    """Gaps at one sensor's head, each a scalar; over all processes they add up to the batch's."""

    classes: Tensor
    boxes: Tensor
    direction: Tensor


def matched_taps(
    student: Sequence[int], student_depth: int, teacher: Sequence[int], teacher_depth: int
) -> tuple[int, ...]:
    """For every student tap the index of the teacher tap nearest in relative depth; of two, the deeper one.

    Args:
        student: Tapped blocks, counted from 1.
        student_depth: Blocks of the student.
        teacher: Tapped blocks of the teacher.
        teacher_depth: Its blocks.
    """

    def distance(tap: int, index: int) -> int:  # in whole numbers: equal distances stay equal
        return abs(tap * teacher_depth - teacher[index] * student_depth)

    return tuple(min(range(len(teacher)), key=lambda index: (distance(tap, index), -index)) for tap in student)


def token_maps(features: Features, prefix_tokens: int) -> list[Tensor]:
    """The tapped maps ``(B, H, W, C)``, normalised token by token as the aggregation reads them, prefix dropped."""
    return [_normalised(tap[:, prefix_tokens:]).unflatten(1, features.grid) for tap in features.taps]


def feature_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of normalised tokens, 0 to 4; the finer map is averaged to the coarser grid first.

    Args:
        student: ``(B, h, w, C)``, projected to the teacher's width.
        teacher: ``(B, H, W, C)``.
    """
    grid = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    own, wanted = (_normalised(averaged(tokens.float(), grid)) for tokens in (student, teacher))
    return (own - wanted).square().mean() / num_processes()


def averaged(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """``(B, H, W, C) -> (B, h, w, C)``: every cell of the coarser grid is the mean over the area that it covers."""
    if tuple(tokens.shape[1:3]) == grid:
        return tokens
    rows, columns = (_cover(size, cells).to(tokens) for size, cells in zip(tokens.shape[1:3], grid, strict=True))
    return torch.einsum("yh,bhwc,xw->byxc", rows, tokens, columns)


def head_gaps(
    student: RawOutputs, teacher: RawOutputs, points: Tensor, strides: Tensor, config: DistillConfig
) -> HeadGaps:
    """Gaps at one sensor's head over its images.

    Classes: quality focal loss towards the teacher's scores (as CrossKD, Wang et al. 2023), whose weight
    ``|teacher - student| ** beta`` leaves out where both see nothing. Boxes: divergence of the distributions
    (Localization Distillation, Zheng et al. 2022, eq. 4). Directions: squared distance, times the elongation of the
    teacher's box. Boxes and directions are weighted by the teacher's best class score, and all are divided by its sum.

    Args:
        student: Raw outputs over ``(B, A)``.
        teacher: The same of the teacher, without gradients.
        points: ``(A, 2)`` pixels.
        strides: ``(A,)`` pixels.
        config: Temperatures and thresholds.
    """
    weight = seen(teacher.logits, config.least_score)  # (B, A)
    normaliser = summed(weight.sum()).clamp(min=1.0)
    own, wanted = (logits.float() / config.class_temperature for logits in (student.logits, teacher.logits))
    classes = quality_focal(own, wanted.sigmoid(), config.focal_beta).sum() * config.class_temperature**2
    boxes = (distribution_gap(student.distributions, teacher.distributions, config.box_temperature) * weight).sum()
    geometry = decode_geometry(teacher.distributions, points, strides)
    elongation = 1.0 - geometry[..., 2:].amin(-1) / geometry[..., 2:].amax(-1)
    apart = unit_directions(student.directions, geometry) - unit_directions(teacher.directions, geometry)
    direction = (apart.square().sum(-1) * elongation * weight).sum()
    return HeadGaps(classes / normaliser, boxes / normaliser, direction / normaliser)


def seen(logits: Tensor, least_score: float) -> Tensor:
    """The best class score ``(B, A)`` of ``(B, A, num_classes)`` logits, 0 where it is below ``least_score``."""
    best = logits.float().amax(-1).sigmoid()
    return torch.where(best >= least_score, best, torch.zeros_like(best))


def distribution_gap(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the teacher's distributions from the student's, mean over the four, times ``temperature ** 2``.

    Args:
        student: ``(..., 4 * NUM_BINS)`` logits.
        teacher: The same.
        temperature: Both are divided by it; its square keeps the gradient's size (Hinton et al. 2015, sec. 2).

    Returns:
        ``(...)``.
    """
    own, wanted = (
        (logits.float().unflatten(-1, (4, NUM_BINS)) / temperature).log_softmax(-1) for logits in (student, teacher)
    )
    return functional.kl_div(own, wanted, reduction="none", log_target=True).sum(-1).mean(-1) * temperature**2


def _normalised(tokens: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON)


def _cover(size: int, cells: int) -> Tensor:
    """``(cells, size)``: the share of every coarse cell's length that each of ``size`` fine cells takes."""
    fine, coarse = (torch.arange(count, dtype=torch.float64) / count for count in (size, cells))
    end = torch.minimum((fine + 1 / size)[None], (coarse + 1 / cells)[:, None])
    return (end - torch.maximum(fine[None], coarse[:, None])).clamp(min=0) * cells
