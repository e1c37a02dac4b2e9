"""Images without a transform: ground control points become a polynomial, rational polynomial coefficients are inverted.

Control points are refused where no polynomial of third order passes near all of them, for then they say that the image
was not flattened, and a place between them could be off by any amount. Rational polynomials map a point of known height
to a pixel; without a terrain model the height of all is the scene's mean (HEIGHT_OFF), and a detection is displaced by
its height above that times the tangent of the off-nadir angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.geo import Floats

MOST_RESIDUAL_PX = 2.0
"""Largest distance of a control point from where the polynomial puts it, in pixels of the image."""
_ORDERS = (1, 2, 3)
_LEAST_COVERAGE = 0.8  # of the image's sides, for polynomials that bend: they run away outside their points


class NoReference(ValueError):
    """What a file says about its place cannot be used; the message says why."""


@dataclass(frozen=True)
class PolynomialReference:
    """A polynomial map from pixels to a coordinate reference system.

    Attributes:
        crs: The system as WKT.
        coefficients: Two rows, one number a term, for easting and northing.
        offset: Subtracted from pixels before the polynomial.
        scale: Divides them after that.
        order: Of the polynomial.
        residual_px: Largest distance of a control point from where it should lie.
    """

    crs: str
    coefficients: tuple[tuple[float, ...], tuple[float, ...]]
    offset: tuple[float, float]
    scale: float
    order: int
    residual_px: float

    def ground(self, pixels: Floats) -> Floats:
        """See :meth:`runtime.geo.PixelMap.ground`."""
        terms = _terms((pixels - np.array(self.offset)) / self.scale, self.order)
        return np.asarray(terms @ np.array(self.coefficients).T, np.float64)


@dataclass(frozen=True)
class RpcReference:
    """Rational polynomial coefficients, inverted at one height.

    Attributes:
        crs: WGS 84 as WKT.
        coefficients: rasterio's record of them.
        height_m: Above the ellipsoid.
    """

    crs: str
    coefficients: Any
    height_m: float

    def ground(self, pixels: Floats) -> Floats:
        """See :meth:`runtime.geo.PixelMap.ground`."""
        from runtime.gdal import environment, load_rasterio

        with (
            environment(),
            load_rasterio().transform.RPCTransformer(self.coefficients, RPC_HEIGHT=self.height_m) as transformer,
        ):
            longitudes, latitudes = transformer.xy(pixels[:, 1], pixels[:, 0], offset="ul")
        return np.stack([np.atleast_1d(longitudes), np.atleast_1d(latitudes)], axis=1).astype(np.float64)


def fit_control_points(crs: str, pixels: Floats, ground: Floats, width: int, height: int) -> PolynomialReference:
    """The polynomial of lowest order that passes near all control points.

    Args:
        crs: WKT of the points' system.
        pixels: ``(N, 2)`` ``x, y``.
        ground: ``(N, 2)`` easting or longitude first.
        width: Of the image, pixels.
        height: Of the image, pixels.

    Raises:
        NoReference: Too few points, points on a line, or none passes within :data:`MOST_RESIDUAL_PX`.
    """
    if len(pixels) < 3:
        raise NoReference(f"{len(pixels)} control points; 3 or more are needed")
    offset, scale = pixels.mean(axis=0), max(1.0, float(np.ptp(pixels, axis=0).max()) / 2)
    local = (pixels - offset) / scale
    covered = bool((np.ptp(pixels, axis=0) >= _LEAST_COVERAGE * np.array([width, height])).all())
    best = np.inf
    for order in _ORDERS:
        terms = _terms(local, order)
        if order > 1 and (len(pixels) < 1.5 * terms.shape[1] or not covered):
            break
        solved, _, rank, _ = np.linalg.lstsq(terms, ground - ground.mean(axis=0), rcond=1e-10)
        if rank < terms.shape[1]:
            break
        residual = _residual_px(terms @ solved + ground.mean(axis=0) - ground, solved, scale)
        best = min(best, residual)
        if residual <= MOST_RESIDUAL_PX:
            solved[0] += ground.mean(axis=0)
            easting, northing = (tuple(float(value) for value in row) for row in solved.T)
            at = (float(offset[0]), float(offset[1]))
            return PolynomialReference(crs, (easting, northing), at, scale, order, residual)
    if not np.isfinite(best):
        raise NoReference(f"its {len(pixels)} control points lie on a line")
    raise NoReference(
        f"no polynomial passes within {MOST_RESIDUAL_PX} px of its {len(pixels)} control points ({best:.1f})"
    )


def _terms(local: Floats, order: int) -> Floats:
    """Products of powers of ``local`` ``(N, 2)`` up to ``order``, the constant first, ``(N, T)``."""
    x, y = local[:, 0], local[:, 1]
    return np.stack(
        [x ** (total - power) * y**power for total in range(order + 1) for power in range(total + 1)], axis=1
    )


def _residual_px(errors: Floats, solved: Floats, scale: float) -> float:
    """Largest length of ``errors`` ``(N, 2)`` in pixels, by the linear terms of the polynomial."""
    linear = solved[1:3].T / scale  # (2, 2): ground per pixel
    if abs(np.linalg.det(linear)) < 1e-300:
        return float("inf")
    return float(np.linalg.norm(np.linalg.solve(linear, errors.T), axis=0).max())
