"""rasterio, loaded when it is needed and set up for a run on board: no network, no side files, little memory."""

from __future__ import annotations

import functools
import importlib.util
import logging
import warnings
from typing import Any

import numpy as np

from babelrs.errors import BabelRSError, DeviceError
from runtime.geo import Floats

INSTALL = "pip install 'babelrs[geo]'"
CACHE_BYTES = 96 << 20
"""GDAL's cache of decoded blocks. It holds a row of tiles of a 20,000 pixel wide scene in strips, in 3 bands."""

OPTIONS = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # what a file says itself counts, not world files or masks beside it
    "GDAL_PAM_ENABLED": "NO",  # nor .aux.xml files, which would be written too
}


def has_rasterio() -> bool:
    """Whether rasterio is installed."""
    return importlib.util.find_spec("rasterio") is not None


@functools.cache
def load_rasterio() -> Any:
    """The rasterio module; its faults come as exceptions only, not as log lines and warnings as well.

    Raises:
        BabelRSError: It is not installed.
        DeviceError: It is, and cannot be loaded.
    """
    try:
        import rasterio
        import rasterio.errors
        import rasterio.transform
        import rasterio.warp
        import rasterio.windows
    except ImportError as error:
        if has_rasterio():
            remedy = "Check the device's memory, or install it again."
            raise DeviceError(f"rasterio is installed, but cannot be loaded ({error}).", remedy) from error
        raise BabelRSError("rasterio is not installed.", f"{INSTALL}.") from error
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def environment() -> Any:
    """A context in which the calling thread may use rasterio."""
    return load_rasterio().Env(**OPTIONS)


def lonlat_from(crs: str, ground: Floats) -> Floats:
    """WGS 84 longitude and latitude ``(N, 2)`` of coordinates ``(N, 2)``; infinite where the system does not reach.

    Args:
        crs: WKT of their system.
        ground: Easting or longitude first.

    Raises:
        BabelRSError: There is no way from that system to longitude and latitude.
    """
    rasterio = load_rasterio()
    with environment():
        try:
            source, target = rasterio.crs.CRS.from_wkt(crs), rasterio.crs.CRS.from_epsg(4326)
            _transformed(source, target, np.zeros((0, 2)))
        except faults() as error:
            raise BabelRSError(f"no longitude and latitude from {crs[:60]!r} ({first_line(error)})", "") from error
        try:
            return _transformed(source, target, ground)
        except faults():  # one point outside a projection fails all: take them one by one
            return np.concatenate([_one(source, target, point) for point in ground[:, None]])


def _transformed(source: Any, target: Any, ground: Floats) -> Floats:
    longitudes, latitudes = load_rasterio().warp.transform(source, target, ground[:, 0], ground[:, 1])
    return np.stack([np.asarray(longitudes, np.float64), np.asarray(latitudes, np.float64)], axis=1)


def _one(source: Any, target: Any, point: Floats) -> Floats:
    try:
        return _transformed(source, target, point)
    except faults():
        return np.full((1, 2), np.inf)


def faults() -> tuple[type[Exception], ...]:
    """What rasterio raises where a file, or GDAL or PROJ, is at fault."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    known: tuple[type[Exception], ...] = (RasterioError, CPLE_BaseError, ValueError)
    return known


def first_line(error: Exception) -> str:
    """The first line of a message, for one of our own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
