from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from babelrs.boxes import rotated_iou, to_corners
from train.models.head import (
    MIN_SIDE_PX,
    NUM_BINS,
    DenseHead,
    decode_geometry,
    offset_bins,
    size_bins,
    to_oriented,
    unit_directions,
)

HALF_PI_32 = float(np.float32(np.pi / 2))
sides = st.floats(1.0, 600.0)


def corners_of(cx: float, cy: float, w: float, h: float, theta: float) -> npt.NDArray[np.float64]:
    """Corners written out by hand: w along ``(cos, sin)``, h along ``(-sin, cos)``."""
    u, v = np.array([math.cos(theta), math.sin(theta)]) * w / 2, np.array([-math.sin(theta), math.cos(theta)]) * h / 2
    centre = np.array([cx, cy])
    return np.stack([centre - u - v, centre + u - v, centre + u + v, centre - u + v])


def farthest_corner(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(min(np.linalg.norm(a - np.roll(b, shift, axis=0), axis=1).max() for shift in range(4)))


def test_bins_span_the_ranges_that_the_assigner_relies_on() -> None:
    assert offset_bins()[0] == -4 and offset_bins()[-1] == 4 and size_bins()[0] == 0 and size_bins()[-1] == 16
    assert (offset_bins().diff() > 0).all() and (size_bins().diff() > 0).all()


def test_geometry_is_the_expectation_over_the_bins_in_strides() -> None:
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 3, (2, 5, 4 * NUM_BINS))
    points, strides = rng.uniform(0, 300, (5, 2)), np.array([8.0, 8.0, 16.0, 32.0, 64.0])
    found = decode_geometry(*(torch.from_numpy(value).float() for value in (logits, points, strides))).numpy()
    offsets = [-4 + 0.5 * step for step in range(17)]
    sizes = [16 * (step / 16) ** 2 for step in range(17)]
    for image in range(2):
        for anchor in range(5):
            parts = logits[image, anchor].reshape(4, NUM_BINS)
            mean = [
                sum(math.exp(value) * bin_ for value, bin_ in zip(part, bins, strict=True)) / np.exp(part).sum()
                for part, bins in zip(parts, (offsets, offsets, sizes, sizes), strict=True)
            ]
            x, y = points[anchor] + np.array(mean[:2]) * strides[anchor]
            wanted = [x, y, *(max(MIN_SIDE_PX, value * strides[anchor]) for value in mean[2:])]
            np.testing.assert_allclose(found[image, anchor], wanted, rtol=1e-5, atol=1e-3)


def test_no_size_falls_below_the_least_side() -> None:
    logits = torch.zeros(1, 1, 4, NUM_BINS)
    logits[..., 0] = 100.0
    geometry = decode_geometry(logits.flatten(-2), torch.zeros(1, 2), torch.tensor([8.0]))
    assert geometry[0, 0].tolist() == [-32.0, -32.0, MIN_SIDE_PX, MIN_SIDE_PX]


@given(w=sides, h=sides, phi=st.floats(-math.pi, math.pi), length=st.floats(0.05, 50))
@example(w=40.0, h=40.0, phi=0.3, length=1.0)
@example(w=40.0, h=40.0, phi=math.pi, length=1.0)
@example(w=40.0, h=10.0, phi=math.pi, length=1.0)
@example(w=40.0, h=10.0, phi=-math.pi, length=1.0)
@example(w=10.0, h=40.0, phi=0.0, length=1.0)
@example(w=10.0, h=40.0, phi=-0.0, length=1.0)
@example(w=600.0, h=3.0, phi=math.pi - 1e-7, length=1.0)
@example(w=600.0, h=3.0, phi=-math.pi + 1e-7, length=1.0)
@example(w=3.0, h=600.0, phi=1e-9, length=1.0)
def test_oriented_boxes_are_le90_and_keep_the_shape(w: float, h: float, phi: float, length: float) -> None:
    geometry = torch.tensor([[100.0, -50.0, w, h]], dtype=torch.float32)
    raw = torch.tensor([[length * math.cos(phi), length * math.sin(phi)]], dtype=torch.float32)
    box = to_oriented(geometry, unit_directions(raw, geometry)).numpy()
    assert box.dtype == np.float32 and box[0, 2] >= box[0, 3] > 0
    assert -HALF_PI_32 <= box[0, 4] < HALF_PI_32
    wanted = corners_of(100, -50, float(geometry[0, 2]), float(geometry[0, 3]), phi / 2)
    assert farthest_corner(wanted, to_corners(box)[0]) < 2e-3
    same = np.array([[100.0, -50.0, w, h, phi / 2]], np.float32)
    assert rotated_iou(same, box)[0, 0] > 1 - 5e-3


@given(w=sides, h=sides)
@example(w=30.0, h=30.0)
def test_horizontal_boxes_have_angle_zero_or_minus_a_right_angle(w: float, h: float) -> None:
    geometry = torch.tensor([[7.0, 9.0, w, h]])
    box = to_oriented(geometry, unit_directions(None, geometry))[0]
    assert box[4].item() == (0.0 if geometry[0, 2] >= geometry[0, 3] else -HALF_PI_32)
    assert box[2] == geometry[0, 2:].max() and box[3] == geometry[0, 2:].min()


def test_a_zero_direction_gives_a_finite_angle() -> None:
    geometry = torch.tensor([[7.0, 9.0, 20.0, 10.0]])
    raw = torch.zeros(1, 2, requires_grad=True)
    box = to_oriented(geometry, unit_directions(raw, geometry))
    assert torch.isfinite(box).all()


def test_a_head_joins_its_levels_row_by_row_and_level_by_level() -> None:
    torch.manual_seed(0)
    head = DenseHead(8, 8, num_classes=3, oriented=True).eval()
    torch.nn.init.normal_(head.regress.weight)
    levels = [torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)]
    joined, coarse = head(levels), head(levels[1:])
    assert joined.logits.shape == (2, 30, 3) and joined.distributions.shape == (2, 30, 4 * NUM_BINS)
    assert joined.directions is not None and coarse.directions is not None and joined.directions.shape == (2, 30, 2)
    for name in ("logits", "distributions", "directions"):
        torch.testing.assert_close(getattr(joined, name)[:, 24:], getattr(coarse, name))
    fine = head.classify(head.class_tower(head.shared(levels[0])))  # (B, classes, 4, 6)
    torch.testing.assert_close(joined.logits[1, 2 * 6 + 5], fine[1, :, 2, 5])


def test_a_horizontal_head_gives_no_directions() -> None:
    raw = DenseHead(8, 8, num_classes=1, oriented=False).eval()([torch.zeros(1, 8, 2, 2)])
    assert raw.directions is None and raw.distributions.shape == (1, 4, 4 * NUM_BINS)
