"""What a file that rasterio has opened says about its place on Earth."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from babelrs.errors import BabelRSError
from runtime.control_points import NoReference, RpcReference, fit_control_points
from runtime.gdal import faults, first_line, load_rasterio
from runtime.geo import GeoReference, PixelMap, to_lonlat

_LOGGER = logging.getLogger(__name__)


def georeference(file: Any, source: str) -> PixelMap | None:
    """The map from pixels to Earth: by the transform, else by control points, else by rational polynomials.

    Where a file has one that cannot be used, a warning says why.

    Args:
        file: An open rasterio dataset.
        source: What messages call it.
    """
    try:
        found = _stated(file)
        if found is not None:
            _check(found, int(file.width), int(file.height))
        return found
    except BabelRSError as error:
        why = error.what
    except faults() as error:  # NoReference is a ValueError, and so among them
        why = first_line(error)
    _LOGGER.warning("%s: its detections get no place on Earth: %s", source, why)
    return None


def _stated(file: Any) -> PixelMap | None:
    points, points_crs = file.gcps
    if file.crs is not None and not file.transform.is_identity:
        a, b, c, d, e, f = tuple(float(value) for value in file.transform)[:6]
        if a * e == b * d:
            raise NoReference("its transform puts all pixels on a line")
        return GeoReference(file.crs.to_wkt(), (a, b, c, d, e, f))
    if points and points_crs is not None:
        pixels = np.array([[point.col, point.row] for point in points], np.float64)
        ground = np.array([[point.x, point.y] for point in points], np.float64)
        return fit_control_points(points_crs.to_wkt(), pixels, ground, int(file.width), int(file.height))
    if file.rpcs is not None:
        crs = load_rasterio().crs.CRS.from_epsg(4326).to_wkt()
        return RpcReference(crs, file.rpcs, float(file.rpcs.height_off))
    return None


def _check(found: PixelMap, width: int, height: int) -> None:
    """Refuse a map that cannot turn any pixel of the image into longitude and latitude."""
    sample = np.array([[0.5, 0.5], [0.25, 0.25], [0.75, 0.75], [0.25, 0.75], [0.75, 0.25]]) * [width, height]
    if not np.isfinite(to_lonlat(sample, found)).all(axis=1).any():
        raise NoReference("its coordinates are none on Earth")
