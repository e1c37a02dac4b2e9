"""Oriented boxes: the one convention used inside, converters to every other, exact overlap and suppression.

The convention is ``le90``: float32 ``(N, 5)`` ``cx, cy, w, h, theta`` in pixels with y down; ``theta`` in radians,
clockwise on screen, from the x axis to the side of length ``w``; ``w >= h`` and ``theta`` in ``[-pi/2, pi/2)``.
A square has no long edge: it keeps whichever of its two angles it came with.

The bounds of an angle are those of float32: ``-pi/2`` is stored as ``np.float32(-np.pi / 2)``, 4e-8 rad below the real
number, and every function here reads that value as exactly ``-pi/2``.

Every function raises :class:`ValueError` that names the argument and the row where a value is NaN, infinite, beyond
float32, or where a side is negative. Zero sides are allowed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from babelrs import _native
except ImportError as error:
    raise ImportError(
        f"babelrs._native, the compiled extension, cannot be loaded beside {__file__}: {error}. In a checkout, install "
        "it with `pip install --editable .`, because Python finds this source folder before an installed package."
    ) from error

Boxes = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

_HALF_PI = math.pi / 2
_LARGEST = float(np.finfo(np.float32).max)
_PAIRS = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3))


def to_le90(boxes: npt.ArrayLike) -> Boxes:
    """The same rectangles in ``le90``, from any sides and angle.

    Args:
        boxes: ``(N, 5)`` ``cx, cy, w, h, theta``; ``w`` lies along ``theta``, which may be any number of turns.

    Returns:
        ``(N, 5)`` float32. ``w < h`` swaps the sides and turns by a quarter; ``theta = pi/2`` becomes ``-pi/2``.
    """
    return _long_edge(_checked("boxes", boxes), -_HALF_PI)


def from_le135(boxes: npt.ArrayLike) -> Boxes:
    """``le90`` boxes from long-edge boxes with ``theta`` in ``[-pi/4, 3 pi/4)``, as ``(N, 5)``."""
    return to_le90(boxes)


def to_le135(boxes: npt.ArrayLike) -> Boxes:
    """Long-edge boxes with ``theta`` in ``[-pi/4, 3 pi/4)``, ``(N, 5)`` float32, from boxes in any convention here.

    An angle of exactly ``3 pi/4`` becomes ``-pi/4``.
    """
    return _long_edge(_checked("boxes", boxes), -math.pi / 4)


def from_opencv(boxes: npt.ArrayLike) -> Boxes:
    """``le90`` boxes from OpenCV's rotated rectangles.

    Args:
        boxes: ``(N, 5)`` ``cx, cy, width, height, angle`` with the angle in degrees, clockwise on screen, from the
            x axis to the side of length ``width``. ``cv2.minAreaRect`` gives ``(0, 90]`` from OpenCV 4.5.1 on, but
            ``[-90, 0)`` before that and again in 4.14 and 5.0: the meaning is the same, so any angle is taken.
    """
    turned = _checked("boxes", boxes)
    turned[:, 4] = np.deg2rad(np.fmod(turned[:, 4], 360.0))
    return _long_edge(turned, -_HALF_PI)


def to_opencv(boxes: npt.ArrayLike) -> Boxes:
    """OpenCV's rotated rectangles ``cx, cy, width, height, angle_degrees``, as ``(N, 5)`` float32.

    The angle lies in ``(0, 90]``, the convention of 4.5.1; an axis-aligned box has 90, so its ``width`` is the vertical
    side. ``cv2.boxPoints`` of every version draws the same rectangle.
    """
    result = _checked("boxes", to_le90(boxes))
    degrees = np.rad2deg(result[:, 4])  # in [-90, 90)
    straight = degrees == -90.0
    swap = (degrees <= 0) & ~straight
    result[swap] = result[swap][:, [0, 1, 3, 2, 4]]
    result[:, 4] = np.where(straight, 90.0, np.where(swap, degrees + 90.0, degrees))
    return result.astype(np.float32)


def from_coco(boxes: npt.ArrayLike) -> Boxes:
    """``le90`` boxes from COCO's horizontal ``x, y, w, h`` (top left corner and sides in pixels), ``(N, 4)``.

    Wide and square boxes get angle 0, tall ones ``-pi/2``.
    """
    xywh = _checked("boxes", boxes, columns=4)
    return _long_edge(np.column_stack([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:], np.zeros(len(xywh))]), -_HALF_PI)


def to_coco(boxes: npt.ArrayLike) -> Floats:
    """The smallest horizontal boxes around ``boxes``, as ``(N, 4)`` float64 ``x, y, w, h`` in pixels.

    The angle is lost: only horizontal boxes come back from :func:`from_coco` as they were.
    """
    corners = to_corners(boxes)
    lowest = corners.min(axis=1)
    return np.hstack([lowest, corners.max(axis=1) - lowest])


def to_corners(boxes: npt.ArrayLike) -> Floats:
    """The corners of ``boxes``, ``(N, 4, 2)`` float64 in pixels, clockwise on screen.

    At ``theta = 0`` they are top left, top right, bottom right, bottom left.
    """
    checked = _checked("boxes", boxes)
    cosine, sine = np.cos(checked[:, 4:]), np.sin(checked[:, 4:])  # (N, 1)
    along = np.hstack([cosine, sine]) * checked[:, 2:3] / 2  # half the side w, as a vector
    across = np.hstack([-sine, cosine]) * checked[:, 3:4] / 2
    offsets = np.stack([-along - across, along - across, along + across, across - along], axis=1)  # (N, 4, 2)
    return np.asarray(checked[:, None, :2] + offsets, np.float64)


def from_corners(corners: npt.ArrayLike) -> Boxes:
    """``le90`` boxes of smallest area around four points each.

    A true rectangle comes back exactly, whichever corner is first and whichever way round it goes. Other
    quadrilaterals (DOTA has some), points in crossed order, on a line or all equal are enclosed.

    Args:
        corners: ``(N, 4, 2)`` or ``(N, 8)`` in pixels.
    """
    points = _checked_corners(corners)
    middle = points.mean(axis=1, keepdims=True)
    local = points - middle  # near the origin, so far-away boxes lose no precision
    # One side of the smallest rectangle lies along an edge of the hull, and that joins two of the four points.
    steps = np.stack([local[:, j] - local[:, i] for i, j in _PAIRS], axis=1)  # (N, 6, 2)
    angles = np.arctan2(steps[..., 1], steps[..., 0])  # (N, 6); 0 where two points coincide
    frames = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], axis=-1)
    frames = frames.reshape(-1, 6, 2, 2)  # rows: along the edge, across it
    turned = np.einsum("nkij,npj->nkpi", frames, local)  # (N, 6, 4, 2)
    lowest, highest = turned.min(axis=2), turned.max(axis=2)
    sides = highest - lowest
    rows, best = np.arange(len(points)), _first_smallest(sides.prod(axis=-1))
    centres = np.einsum("nji,nj->ni", frames[rows, best], (lowest + highest)[rows, best] / 2) + middle[:, 0]
    return _long_edge(np.column_stack([centres, sides[rows, best], angles[rows, best]]), -_HALF_PI)


def from_yolo_obb(corners: npt.ArrayLike, image_width: int, image_height: int) -> Boxes:
    """``le90`` boxes from YOLO-OBB corners ``x1 y1 .. x4 y4`` given as fractions of the image's sides.

    Args:
        corners: ``(N, 8)`` or ``(N, 4, 2)``; values outside ``[0, 1]`` are corners outside the image.
        image_width: Width of the image in pixels.
        image_height: Height of the image in pixels.
    """
    return from_corners(_checked_corners(corners) * _image_size(image_width, image_height))


def to_yolo_obb(boxes: npt.ArrayLike, image_width: int, image_height: int) -> Floats:
    """YOLO-OBB corners, ``(N, 8)`` float64 fractions of the image's sides, clockwise on screen."""
    return (to_corners(boxes) / _image_size(image_width, image_height)).reshape(-1, 8)


def rotated_intersection(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Area in px^2 that each box of ``a`` ``(N, 5)`` shares with each of ``b`` ``(M, 5)``, as ``(N, M)`` float64."""
    return _native.pairwise_intersection(_checked("a", a), _checked("b", b))


def rotated_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Intersection over union of each box of ``a`` with each of ``b``, exact in float64.

    Args:
        a: ``(N, 5)``; any sides and angle, not only ``le90``.
        b: ``(M, 5)``.

    Returns:
        ``(N, M)`` float64 in ``[0, 1]``, never NaN. A box without area has 0 with everything, itself included.
    """
    return _native.pairwise_iou(_checked("a", a), _checked("b", b))


def paired_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Intersection over union row by row: ``(N, 5)`` and ``(N, 5)`` give ``(N,)`` float64, as :func:`rotated_iou`.

    Raises:
        ValueError: The two lengths differ.
    """
    return _native.paired_iou(_checked("a", a), _checked("b", b))


def rotated_nms(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, labels: npt.ArrayLike, iou_threshold: float, threads: int = 1
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression within each class.

    The time follows the number of boxes that are near each other, not the square of ``N``.

    Args:
        boxes: ``(N, 5)``.
        scores: ``(N,)``; higher is kept first, equal scores in the order of their indices.
        labels: ``(N,)`` integers; boxes of different labels never suppress each other.
        iou_threshold: In ``[0, 1]``. A box falls when a kept one overlaps it by *more* than this.
        threads: Number of threads at most, 1 or more. The result is the same for every number.

    Returns:
        ``(K,)`` int64 indices of the kept boxes, by descending score.

    Raises:
        ValueError: Lengths differ, a score is NaN or infinite, a label is not a whole number, ``iou_threshold`` lies
            outside ``[0, 1]``, or ``threads`` is below 1.
    """
    return _native.rotated_nms(*_checked_candidates(boxes, scores, labels, iou_threshold, threads))


class Merged(NamedTuple):
    """What :func:`rotated_merge` makes of ``N`` boxes."""

    boxes: Boxes  #: ``(K, 5)`` float32 ``le90``, by descending score
    scores: npt.NDArray[np.float32]  #: ``(K,)`` the highest score of each cluster
    labels: npt.NDArray[np.int32]  #: ``(K,)``
    clusters: npt.NDArray[np.int64]  #: ``(N,)`` the row of ``boxes`` that each box went into


def rotated_merge(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, labels: npt.ArrayLike, iou_threshold: float, threads: int = 1
) -> Merged:
    """Replace overlapping boxes of a class by their mean, weighted by score: for objects seen in two tiles.

    The heads of the clusters are the boxes that :func:`rotated_nms` keeps. Every other box joins the best-scored head
    of its label that overlaps it by more than ``iou_threshold``; of equal scores, the one with the lowest index.

    A rectangle has two descriptions, ``(w, h, theta)`` and ``(h, w, theta + pi/2)``. Of each member, the one counts
    whose half-side vectors are nearer to the head's: the second where
    ``(h w' + w h') |sin d| > (w w' + h h') |cos d|``, with ``w', h'`` the head's sides, ``d`` the angle from it.
    Centre and sides are then means weighted by score. The angle is the head's plus half the direction of the weighted
    mean of ``(cos 2d, sin 2d)``, so neither the ends of the range of ``theta`` nor a square's choice of side makes a
    jump; where that mean vanishes, it is the head's. If the scores of a cluster are all 0, its members weigh the same.
    A box that is alone comes back as :func:`to_le90` gives it.

    Args:
        boxes: ``(N, 5)``.
        scores: ``(N,)``, 0 or more.
        labels: ``(N,)`` integers within int32; boxes of different labels are never merged.
        iou_threshold: In ``[0, 1]``.
        threads: Number of threads at most, 1 or more. The result is the same for every number.

    Raises:
        ValueError: As :func:`rotated_nms`, and for a score below 0 or beyond float32 or a label beyond int32.
    """
    checked, values, classes, threshold, most = _checked_candidates(boxes, scores, labels, iou_threshold, threads)
    _refuse_rows("scores", values, (values < 0) | (values > _LARGEST), "is negative or beyond float32")
    _refuse_rows("labels", classes, classes != classes.astype(np.int32), "is beyond int32")
    merged, heads, clusters = _native.rotated_merge(checked, values, classes, threshold, most)
    return Merged(to_le90(merged), values[heads].astype(np.float32), classes[heads].astype(np.int32), clusters)


def _checked_candidates(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, labels: npt.ArrayLike, iou_threshold: float, threads: int
) -> tuple[Floats, Floats, npt.NDArray[np.int64], float, int]:
    """Contiguous arrays for the extension, or a :class:`ValueError` that names the argument at fault."""
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; it must lie in [0, 1]")
    if threads < 1:
        raise ValueError(f"threads is {threads}; 1 or more expected")
    checked = _checked("boxes", boxes)
    values = np.ascontiguousarray(scores, np.float64)
    given = np.asarray(labels)
    classes = np.ascontiguousarray(given, np.int64)
    if values.shape != (len(checked),) or classes.shape != (len(checked),):
        raise ValueError(f"scores {values.shape} and labels {classes.shape}: ({len(checked)},) expected, one per box")
    _refuse_rows("scores", values, ~np.isfinite(values), "is not finite")
    _refuse_rows("labels", given, classes != given, "is not a whole number")
    return checked, values, classes, float(iou_threshold), min(int(threads), 1024)


def _long_edge(boxes: Floats, lowest: float) -> Boxes:
    """``boxes`` ``(N, 5)`` float64 with ``w >= h`` and ``theta`` in ``[lowest, lowest + pi)``, as float32."""
    result = boxes.astype(np.float32)
    theta = boxes[:, 4].copy()
    swap = result[:, 2] < result[:, 3]
    result[swap, 2:4] = result[swap, 3:1:-1]
    theta[swap] += _HALF_PI
    lower, upper = np.float32(lowest), np.float32(lowest + math.pi)
    rounded = theta.astype(np.float32)
    outside = (rounded < lower) | (rounded >= upper)
    rounded[outside] = (np.mod(theta[outside] - lowest, math.pi) + lowest).astype(np.float32)
    result[:, 4] = np.where((rounded < lower) | (rounded >= upper), lower, rounded)
    return result


def _first_smallest(areas: Floats) -> npt.NDArray[np.int64]:
    """The first index along the last axis whose value is smallest up to rounding, so that ties do not flicker."""
    smallest: npt.NDArray[np.int64] = np.argmax(areas <= areas.min(axis=1, keepdims=True) * (1 + 1e-9), axis=1)
    return smallest


def _checked(name: str, boxes: npt.ArrayLike, columns: int = 5) -> Floats:
    """A contiguous float64 copy of ``boxes``, or a :class:`ValueError` that names ``name`` and the row at fault."""
    array = np.array(boxes, np.float64, order="C")
    array = array.reshape(0, columns) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"{name} has shape {array.shape}; (N, {columns}) expected")
    _refuse_rows(name, array, ~(np.abs(array) <= _LARGEST).all(axis=1), "is not finite in float32")
    _refuse_rows(name, array, (array[:, 2:4] < 0).any(axis=1), "has a negative side")
    if columns == 5:
        quarter = np.abs(array[:, 4]) == float(np.float32(_HALF_PI))
        array[quarter, 4] = np.copysign(_HALF_PI, array[quarter, 4])
    return array


def _checked_corners(corners: npt.ArrayLike) -> Floats:
    """``(N, 4, 2)`` float64 from ``(N, 4, 2)`` or ``(N, 8)``."""
    array = np.asarray(corners, np.float64)
    if array.size and array.shape[1:] not in ((4, 2), (8,)):
        raise ValueError(f"corners has shape {array.shape}; (N, 4, 2) or (N, 8) expected")
    array = array.reshape(-1, 4, 2)
    _refuse_rows("corners", array, ~(np.abs(array) <= _LARGEST).all(axis=(1, 2)), "is not finite in float32")
    return array


def _refuse_rows(name: str, array: npt.NDArray[Any], wrong: npt.ArrayLike, why: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise ValueError(f"{name} row {rows[0]} {why}: {array[rows[0]].tolist()} ({rows.size} such rows)")


def _image_size(width: int, height: int) -> Floats:
    if width <= 0 or height <= 0:
        raise ValueError(f"the image is {width} x {height} px; both sides must be positive")
    return np.array([width, height], np.float64)
