"""Opens an image file of any size: small ones whole, large GeoTIFFs window by window.

One rule reads both: what a file's number type, bands, alpha and nodata mean is decided by its TIFF tags as in
:func:`babelrs.images.read_frame`, and rasterio only decodes the windows.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
from pathlib import Path

from babelrs import tiff
from babelrs.images import MOST_DECODED_BYTES, ImageError, read_frame, tiff_directory
from runtime.gdal import INSTALL, has_rasterio
from runtime.geo import PixelMap
from runtime.raster import FrameRaster, Raster
from runtime.windows import WindowRaster

WHOLE_BYTES = 64 << 20
"""A TIFF that decodes to no more than this is read whole."""
MOST_PIXELS = 1 << 36
"""What claims to be larger (262,144 pixels square) is refused: no sensor takes it, and planning it would not end."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LOGGER = logging.getLogger(__name__)


def open_raster(path: Path) -> Raster:
    """Open a PNG, JPEG or TIFF file, by what it is and not by its name.

    Only what the file says itself counts: world files, masks and statistics beside it are left alone, and nothing is
    fetched from a network.

    Args:
        path: The file.

    Raises:
        ImageError: As for :func:`babelrs.images.read_frame`; or it is too large to be read whole and must be, or it is
            large and rasterio is not installed.
    """
    found = _look_into(path)
    if found is None:
        return FrameRaster(read_frame(path))
    small = found.num_bytes <= WHOLE_BYTES
    if has_rasterio():
        return _open_small(path, found) if small else WindowRaster(path)
    if found.is_georeferenced:
        _warn_about_rasterio()
    if found.num_bytes <= MOST_DECODED_BYTES:
        return FrameRaster(read_frame(path))
    what = f"an image of {_size(found)} px and {found.num_bands} bands must be read in windows, by rasterio."
    raise ImageError("needs rasterio", path, what, f"{INSTALL}, or cut the image into smaller files.")


def _open_small(path: Path, found: tiff.TiffDirectory) -> Raster:
    """Whole; but through windows where the file has a mask, or a compression that only GDAL knows."""
    if not found.is_georeferenced:
        return _read_whole(path, None)
    try:
        raster = WindowRaster(path)
    except ImageError:
        return FrameRaster(read_frame(path))
    if raster.has_mask:
        return raster
    geo = raster.geo
    raster.close()
    return _read_whole(path, geo)


def _read_whole(path: Path, geo: PixelMap | None) -> Raster:
    try:
        return FrameRaster(read_frame(path), geo)
    except ImageError as error:
        if error.cause != "undecodable":
            raise
    return WindowRaster(path)


def _look_into(path: Path) -> tiff.TiffDirectory | None:
    """The tags of a TIFF file; ``None`` for anything else, faults included, for which reading it has the words."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode) and not stat.S_ISDIR(mode):
            raise ImageError("not a file", path, "a device or pipe, not an image.", "Name an image file.")
        file = tiff.FileBytes(descriptor)
        if file[:4] in _TIFF_MAGIC:
            found = tiff_directory(file, path)
            _refuse_beyond(path, found)
            return found
        if len(file) > MOST_DECODED_BYTES:
            what = f"{len(file) >> 20} MiB that are no TIFF; at most {MOST_DECODED_BYTES >> 20} MiB are read whole."
            raise ImageError("too large", path, what, "Convert it with `gdal_translate -of COG`.")
        return None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _refuse_beyond(path: Path, found: tiff.TiffDirectory) -> None:
    if found.number(tiff.WIDTH, 0) * found.number(tiff.HEIGHT, 0) > MOST_PIXELS:
        what = f"its header claims {_size(found)} px; at most {MOST_PIXELS:,} pixels are read."
        raise ImageError("too large", path, what, "Check the file, or cut it with `gdal_translate -srcwin`.")


def _size(found: tiff.TiffDirectory) -> str:
    return f"{found.number(tiff.WIDTH, 0)}x{found.number(tiff.HEIGHT, 0)}"


@functools.cache
def _warn_about_rasterio() -> None:
    _LOGGER.warning("GeoTIFFs are read without their place on Earth: rasterio is not installed (%s)", INSTALL)
