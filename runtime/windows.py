"""A TIFF file of any size, read window by window through rasterio."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs import tiff
from babelrs.images import Frame, ImageError, quiet_opencv, tiff_directory, wrong_pixel_type
from runtime.gdal import environment, faults, first_line, load_rasterio
from runtime.geo import PixelMap
from runtime.georeferences import georeference

MOST_BLOCK_BYTES = 128 << 20
"""Largest strip or tile of a file; GDAL must hold one whole to read any part of it."""

_USABLE = ("uint8", "uint16", "int16", "float32", "float64")
_WHITE_IS_ZERO, _GRAY, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_SCAN_PIXELS = 1 << 22
_FETCH_AGAIN = "Fetch the file again, or leave it out."

Counts = npt.NDArray[Any]


class WindowRaster:
    """A TIFF file, open for reading windows. Any thread may use it, one at a time.

    Args:
        path: The file.

    Raises:
        ImageError: It cannot be read, or not window by window.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._stamp = _stamp(path)
        self._directory = _directory(path)
        self._file = self._open()
        try:
            self._check_blocks()
            self._palette = self._read_palette()
            self.has_mask = self._directory.num_bands in (1, 3) and self._is_masked()
            self._dtype: str | None = None
            with environment():
                self.geo: PixelMap | None = georeference(self._file, str(path))
        except BaseException:
            self.close()
            raise

    @property
    def width(self) -> int:
        """Columns."""
        return int(self._file.width)

    @property
    def height(self) -> int:
        """Rows."""
        return int(self._file.height)

    @property
    def dtype(self) -> str:
        """Number type of the counts; of an int16 file the first call looks for a negative count in all of it."""
        if self._dtype is None:
            name = "uint8" if self._palette is not None else self._directory.dtype_name
            if name == "int16":
                name = "float32" if self._has_negative() else "uint16"
            self._dtype = "float32" if name in ("float16", "float64") else name
        return self._dtype

    def read(self, x: int, y: int, width: int, height: int) -> Frame:
        """See :meth:`runtime.raster.Raster.read`."""
        return self._frame(self._decode((x, y, width, height), (height, width)))

    def overview(self, most_px: int) -> Frame:
        """See :meth:`runtime.raster.Raster.overview`; from the file's overviews where it has some."""
        step = max(1.0, (self.width * self.height / most_px) ** 0.5)
        shape = (max(1, int(self.height / step)), max(1, int(self.width / step)))
        return self._frame(self._decode((0, 0, self.width, self.height), shape))

    def close(self) -> None:
        """Close the file."""
        with self._lock, environment():
            self._file.close()

    def _open(self) -> Any:
        with environment():
            try:
                return load_rasterio().open(self._path.absolute(), driver="GTiff")
            except faults() as error:
                raise self._unreadable(error) from None

    def _decode(self, window: tuple[int, int, int, int], shape: tuple[int, int]) -> Counts:
        """Counts ``(H, W, C)`` in file order, the mask, if any, as the last of them."""
        part = load_rasterio().windows.Window(*window)
        with self._reading():
            bands = self._file.read(window=part, out_shape=(self._file.count, *shape))
            if self.has_mask:
                mask = self._file.read_masks(1, window=part, out_shape=shape)
                bands = np.concatenate([bands, (mask > 0)[None].astype(bands.dtype)])
        return _interleaved(bands)

    def _frame(self, counts: Counts) -> Frame:
        directory, data = self._directory, self._directory.num_bands
        if self._palette is not None:
            colours = self._palette[counts[..., 0]]
            return Frame(np.ascontiguousarray(colours), directory.nodata, str(self._path))
        order = [*directory.band_order, *range(data, counts.shape[2])]
        if order != sorted(order):
            counts = counts[..., order]
        if directory.number(tiff.PHOTOMETRIC, _GRAY) == _WHITE_IS_ZERO and counts.dtype == np.uint8:
            counts = np.concatenate([255 - counts[..., :data], counts[..., data:]], axis=2)
        with np.errstate(over="ignore"):  # nodata of float64 files is beyond float32: infinite is no measurement
            typed = np.ascontiguousarray(counts, self.dtype)
        has_alpha = self.has_mask or (data in (2, 4) and directory.has_alpha)
        return Frame(typed[..., 0] if typed.shape[2] == 1 else typed, directory.nodata, str(self._path), has_alpha)

    def _check_blocks(self) -> None:
        directory = self._directory
        photometric = directory.number(tiff.PHOTOMETRIC, _GRAY)
        if directory.dtype_name not in (*_USABLE, "float16"):
            raise wrong_pixel_type(self._path, directory.dtype_name)
        if photometric not in (_WHITE_IS_ZERO, _GRAY, _RGB, _PALETTE, _YCBCR):
            what = f"colours of photometric interpretation {photometric}, which is neither gray nor RGB."
            raise ImageError("colours", self._path, what, "Convert it with `gdal_translate -of COG`.")
        rows, columns = self._file.block_shapes[0]
        bands = 1 if directory.number(tiff.PLANAR, 1) == 2 else directory.num_bands
        size = rows * columns * bands * np.dtype(self._file.dtypes[0]).itemsize
        if size > MOST_BLOCK_BYTES:
            what = (
                f"it is stored in blocks of {columns}x{rows} px ({size >> 20} MiB), of which none can be read in part."
            )
            raise ImageError("too large", self._path, what, "Convert it with `gdal_translate -of COG`.")

    def _read_palette(self) -> npt.NDArray[np.uint8] | None:
        if self._directory.number(tiff.PHOTOMETRIC, _GRAY) != _PALETTE:
            return None
        table = np.zeros((256, 3), np.uint8)
        with self._reading():
            for index, colour in self._file.colormap(1).items():
                table[index] = colour[:3]
        return table

    def _is_masked(self) -> bool:
        flags = load_rasterio().enums.MaskFlags
        with self._reading():
            return flags.per_dataset in self._file.mask_flag_enums[0] and not self._directory.has_alpha

    def _has_negative(self) -> bool:
        rows = max(1, _SCAN_PIXELS // self.width)
        for y in range(0, self.height, rows):
            height = min(rows, self.height - y)
            if self._decode((0, y, self.width, height), (height, self.width)).min() < 0:
                return True
        return False

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One thread at a time, from the file that was opened; GDAL's faults become :class:`ImageError`."""
        with self._lock, environment():
            try:
                yield
            except faults() as error:
                self._check_unchanged()
                raise self._unreadable(error) from None
            self._check_unchanged()

    def _check_unchanged(self) -> None:
        if _stamp(self._path) != self._stamp:
            what = "it was changed while it was read."
            raise ImageError("changed", self._path, what, "Run again when it is complete.")

    def _unreadable(self, error: Exception) -> ImageError:
        what = f"a damaged or unreadable TIFF ({first_line(error)})."
        return ImageError("damaged", self._path, what, _FETCH_AGAIN)


def _interleaved(bands: Counts) -> Counts:
    """``(C, H, W)`` to ``(H, W, C)``; OpenCV does it sixty times faster than copying a transposed array."""
    merged: Counts = bands[0][..., None] if len(bands) == 1 else quiet_opencv().merge(list(bands))
    return merged


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; ``None`` where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _directory(path: Path) -> tiff.TiffDirectory:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        what = f"cannot be read ({error.strerror})."
        raise ImageError("unreadable", path, what, "Check its permissions and the disk.") from None
    try:
        return tiff_directory(tiff.FileBytes(descriptor), path)
    finally:
        os.close(descriptor)
