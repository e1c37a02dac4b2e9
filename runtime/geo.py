"""Where the pixels of a scene lie on Earth."""

from __future__ import annotations

from dataclasses import dataclass


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
