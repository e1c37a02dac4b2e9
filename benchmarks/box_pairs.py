"""Pairs of oriented boxes that overlap in every way that has broken an implementation, and shapely's answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import shapely

from babelrs.boxes import to_corners

Floats = npt.NDArray[np.float64]


def random_boxes(rng: np.random.Generator, count: int, thinness: float = 1.0) -> Floats:
    """``(count, 5)`` boxes of any angle, 2 to 400 px long; ``thinness`` over 1 fixes the ratio of the sides."""
    sides = np.exp(rng.uniform(np.log(2), np.log(400), (count, 2)))
    sides[:, 1] = sides[:, 0] / thinness if thinness > 1 else sides[:, 1]
    return np.column_stack([rng.uniform(0, 800, (count, 2)), sides, rng.uniform(-2 * math.pi, 2 * math.pi, count)])


def unrelated(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Two random boxes each."""
    return random_boxes(rng, count), random_boxes(rng, count)


def jittered(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """A box and a slightly moved, scaled and turned copy."""
    a = random_boxes(rng, count)
    b = a.copy()
    b[:, :2] += rng.normal(0, 0.2, (count, 2)) * a[:, 2:4]
    b[:, 2:4] *= np.exp(rng.normal(0, 0.2, (count, 2)))
    b[:, 4] += rng.normal(0, 0.3, count)
    return a, b


def identical(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """A box and the same rectangle, written with another angle."""
    a = random_boxes(rng, count)
    b = a.copy()
    b[:, 4] += math.pi * rng.integers(-2, 3, count)  # the same rectangle, written with another angle
    return a, b


def nested(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """One box inside the other, about the same centre."""
    a = random_boxes(rng, count)
    b = a.copy()
    b[:, 2:4] *= rng.uniform(0.05, 1, (count, 1))
    b[:, 4] += np.where(rng.random(count) < 0.5, 0, rng.uniform(-0.01, 0.01, count))
    return a, b


def touching(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Side by side along an edge, with the same angle: they share a line and no area."""
    a = random_boxes(rng, count)
    b = a.copy()
    b[:, 0] += a[:, 2] * np.cos(a[:, 4])
    b[:, 1] += a[:, 2] * np.sin(a[:, 4])
    return a, b


def thin(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Sides of 1:200, crossing or almost parallel, as wakes and jetties are."""
    a, b = random_boxes(rng, count, thinness=200), random_boxes(rng, count, thinness=200)
    b[:, :2] = a[:, :2] + rng.normal(0, 3, (count, 2))
    b[::2, 4] = a[::2, 4] + rng.normal(0, 0.005, len(a[::2]))  # almost parallel, as wakes and jetties are
    return a, b


def degenerate(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Half of them lines or points."""
    a, b = jittered(rng, count)
    a[rng.random(count) < 0.5, 2] = 0
    b[rng.random(count) < 0.5, 3] = 0
    a[rng.random(count) < 0.2, 2:4] = 0
    b[::3, :2] = a[::3, :2]
    return a, b


def far_away(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """Up to 100,000 px from the image's origin."""
    a, b = jittered(rng, count)
    shift = rng.uniform(-1e5, 1e5, (count, 2))
    return a + np.pad(shift, ((0, 0), (0, 3))), b + np.pad(shift, ((0, 0), (0, 3)))


KINDS: dict[str, Callable[[np.random.Generator, int], tuple[Floats, Floats]]] = {
    "unrelated": unrelated,
    "jittered": jittered,
    "identical": identical,
    "nested": nested,
    "touching": touching,
    "thin": thin,
    "degenerate": degenerate,
    "far_away": far_away,
}


def shapely_iou(a: Floats, b: Floats) -> Floats:
    """IoU of paired boxes by shapely, in a frame near the origin; 0 where the union has no area."""
    local = np.pad(a[:, :2], ((0, 0), (0, 3)))
    left, right = shapely.polygons(to_corners(a - local)), shapely.polygons(to_corners(b - local))
    # On a grid: without one, GEOS 3.14 finds only points in common for some rectangles that are equal up to rounding.
    shared = shapely.area(shapely.intersection(left, right, grid_size=1e-9))
    united = shapely.area(left) + shapely.area(right) - shared
    return np.divide(shared, united, out=np.zeros_like(shared), where=united > 0)
