"""Anti-aliased coverage of solids: the drawing that all three sensors share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from train.simulation.world import FloatArray, FloatImage, Part, Solid

_SHIFT = 6


@dataclass(frozen=True)
class Stamp:
    """Coverage of one part: ``coverage`` (h, w) in 0 to 1, its top left pixel at ``x, y``."""

    part: Part
    x: int
    y: int
    coverage: FloatImage

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the stamp covers."""
        height, width = self.coverage.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def polygon_coverage(
    polygon_px: FloatArray, shape: tuple[int, int], oversampling: int = 4
) -> tuple[int, int, FloatImage] | None:
    """Area coverage of a polygon.

    Args:
        polygon_px: ``(K, 2)`` corners; pixel ``i`` covers ``[i, i + 1]``.
        shape: Height and width of the image, to which the result is clipped.
        oversampling: Samples per pixel and axis.

    Returns:
        Left column, top row and ``(h, w)`` float32 coverage, or ``None`` if nothing lies in the image.
    """
    low = np.maximum(np.floor(polygon_px.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(polygon_px.max(axis=0)).astype(int), (shape[1], shape[0]))
    if np.any(high <= low):
        return None
    width, height = high - low
    fine = np.zeros((height * oversampling, width * oversampling), np.uint8)
    points = np.round(((polygon_px - low) * oversampling - 0.5) * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=_SHIFT)
    coverage = cv2.resize(fine, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return int(low[0]), int(low[1]), coverage.astype(np.float32) / np.float32(255)


def stamps_of(solid: Solid, gsd_m: float, shape: tuple[int, int]) -> list[Stamp]:
    """The stamps of a solid's parts that lie in the image, from bottom to top."""
    oversampling = 2 if solid.length_m / gsd_m > 120 else 4
    stamps = []
    for part in solid.parts:
        drawn = polygon_coverage(solid.to_pixels(part.polygon, gsd_m), shape, oversampling)
        if drawn is not None:
            stamps.append(Stamp(part, *drawn))
    return stamps


def instance_mask(solids: Sequence[Solid], gsd_m: float, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """``(H, W)`` int32: 1 + index of the solid that covers most of a pixel, 0 where there is none."""
    mask = np.zeros(shape, np.int32)
    for index, solid in enumerate(solids):
        drawn = polygon_coverage(solid.to_pixels(solid.parts[0].polygon, gsd_m), shape)
        if drawn is not None:
            x, y, coverage = drawn
            mask[y : y + coverage.shape[0], x : x + coverage.shape[1]][coverage > 0.5] = index + 1
    return mask


def fill_strip(image: npt.NDArray[np.uint8] | FloatImage, polygon_px: FloatArray, value: float) -> None:
    """Fill a polygon of ``image`` (uint8 or float32) in place, without anti-aliasing."""
    points = np.round((polygon_px - 0.5) * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(image, [points], value, shift=_SHIFT)
