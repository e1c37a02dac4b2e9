"""Where the pixels of a scene lie on Earth, and what that says about detections: corners, size, heading.

A box's ``(0, 0)`` is the outer corner of the first pixel, whose centre is ``(0.5, 0.5)``. That is GDAL's convention for
transforms too, so pixels go into a transform as they are, without half a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners

POLAR_DEG = 89.99
"""A corner nearer to a pole than this (1.1 km) has no longitude worth the name; such a detection gets no place, and a
box around a pole gets none either."""

_SEMI_MAJOR_M, _FLATTENING = 6_378_137.0, 1 / 298.257223563  # WGS 84
_ECCENTRICITY2 = _FLATTENING * (2 - _FLATTENING)

Floats = npt.NDArray[np.float64]


class PixelMap(Protocol):
    """A map from pixels to a coordinate reference system."""

    @property
    def crs(self) -> str:
        """The system as WKT."""

    def ground(self, pixels: Floats) -> Floats:
        """Coordinates ``(N, 2)`` in the system, easting or longitude first, of ``pixels`` ``(N, 2)`` ``x, y``."""


@dataclass(frozen=True)
class GeoReference:
    """An affine map from pixels to a coordinate reference system.

    Attributes:
        crs: The system as WKT.
        transform: ``(a, b, c, d, e, f)``: ``X = a x + b y + c``, ``Y = d x + e y + f``; ``(0, 0)`` is the outer
            corner of the first pixel (GDAL's and rasterio's convention).
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def ground(self, pixels: Floats) -> Floats:
        """See :meth:`PixelMap.ground`."""
        a, b, c, d, e, f = self.transform
        x, y = pixels[:, 0], pixels[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


@dataclass(frozen=True)
class Places:
    """Where detections lie; rows of NaN for those without a place on Earth.

    Attributes:
        lonlat: ``(N, 4, 2)`` degrees in WGS 84, longitude first, of the corners in the order of ``to_corners``;
            longitudes in ``[-180, 180]``, so the corners of a box on the antimeridian differ by nearly 360.
        length_m: ``(N,)`` mean of the two longer edges on the ground, metres.
        width_m: ``(N,)`` of the two shorter ones.
        heading_deg: ``(N,)`` direction of the longer edges, degrees clockwise from true north in ``[0, 180)``: which
            end is the front cannot be told.
    """

    lonlat: Floats
    length_m: Floats
    width_m: Floats
    heading_deg: Floats

    def __len__(self) -> int:
        return len(self.lonlat)

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which detections have a place, ``(N,)``."""
        return np.asarray(np.isfinite(self.lonlat).all(axis=(1, 2)), np.bool_)


def locate(boxes: npt.NDArray[np.float32], pixels_to: PixelMap) -> Places:
    """Where boxes lie.

    Args:
        boxes: ``(N, 5)`` in pixels of the image.
        pixels_to: Of the image.

    Raises:
        BabelRSError: rasterio is not installed, or knows no way from the coordinate system to longitude and latitude.
    """
    corners = to_corners(boxes)  # (N, 4, 2)
    lonlat = to_lonlat(corners.reshape(-1, 2), pixels_to).reshape(-1, 4, 2)
    bad = ~np.isfinite(lonlat).all(axis=(1, 2)) | (np.abs(np.nan_to_num(lonlat[..., 1])) > POLAR_DEG).any(axis=1)
    lonlat[bad | _around_a_pole(lonlat)] = np.nan
    return Places(lonlat, *measure(lonlat))


def _around_a_pole(lonlat: Floats) -> npt.NDArray[np.bool_]:
    """Which rings ``(N, 4, 2)`` go round the Earth's axis: they have no polygon in longitude and latitude."""
    steps = np.roll(lonlat[..., 0], -1, axis=1) - lonlat[..., 0]
    return np.asarray(np.abs((np.mod(steps + 180, 360) - 180).sum(axis=1)) > 180, np.bool_)


def to_lonlat(pixels: Floats, pixels_to: PixelMap) -> Floats:
    """Degrees ``(N, 2)`` in WGS 84, longitude first, of ``pixels`` ``(N, 2)``; NaN where the system does not reach.

    Raises:
        BabelRSError: As for :func:`locate`.
    """
    from runtime.gdal import lonlat_from

    ground = pixels_to.ground(pixels)
    lonlat = lonlat_from(pixels_to.crs, ground) if len(ground) else ground.copy()
    lonlat[~np.isfinite(lonlat).all(axis=1)] = np.nan
    turned = np.mod(lonlat[:, 0] + 180, 360) - 180
    lonlat[:, 0] = np.where(np.abs(lonlat[:, 0]) > 180, turned, lonlat[:, 0])
    return lonlat


def measure(lonlat: Floats) -> tuple[Floats, Floats, Floats]:
    """Length and width in metres and heading in degrees of quadrilaterals ``(N, 4, 2)``; see :class:`Places`.

    An edge is the straight line through the ellipsoid, bent to the arc over it: within 2 cm of the geodesic for edges
    of up to 100 km.
    """
    points = _cartesian(lonlat)  # (N, 4, 3)
    edges = np.roll(points, -1, axis=1) - points
    lengths = _arc(np.linalg.norm(edges, axis=2))  # (N, 4)
    first, second = (lengths[:, 0] + lengths[:, 2]) / 2, (lengths[:, 1] + lengths[:, 3]) / 2
    along = np.where((first >= second)[:, None], edges[:, 0] - edges[:, 2], edges[:, 1] - edges[:, 3])
    middle = points.mean(axis=1)
    lon = np.arctan2(middle[:, 1], middle[:, 0])
    lat = np.arctan2(middle[:, 2], (1 - _ECCENTRICITY2) * np.hypot(middle[:, 0], middle[:, 1]))
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
    heading = np.rad2deg(np.arctan2((along * east).sum(axis=1), (along * north).sum(axis=1)))
    heading = np.mod(heading, 180.0)
    heading[heading >= 180.0] = 0.0  # a tiny negative angle rounds up to 180
    return np.maximum(first, second), np.minimum(first, second), heading


def _cartesian(lonlat: Floats) -> Floats:
    """Earth-centred metres ``(..., 3)`` of points on the ellipsoid."""
    lon, lat = np.deg2rad(lonlat[..., 0]), np.deg2rad(lonlat[..., 1])
    radius = _SEMI_MAJOR_M / np.sqrt(1 - _ECCENTRICITY2 * np.sin(lat) ** 2)
    flat = radius * np.cos(lat)
    return np.stack([flat * np.cos(lon), flat * np.sin(lon), (1 - _ECCENTRICITY2) * radius * np.sin(lat)], axis=-1)


def _arc(chord: Floats) -> Floats:
    """The arc over a chord, metres, on a sphere of the Earth's mean radius."""
    diameter = 2 * 6_371_008.8
    return np.asarray(diameter * np.arcsin(np.minimum(chord / diameter, 1.0)), np.float64)
