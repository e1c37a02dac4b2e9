"""A scene as the model takes it: tiles of uint8 pixels, read and converted one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.images import Frame
from babelrs.manifest import SensorEntry
from babelrs.radiometry import Window, fit_window, needs_window, to_uint8, to_uint8_with_mask
from babelrs.tiling import Tile, count_tiles, cut_tile, iter_tiles
from runtime.raster import Raster
from runtime.stopwatch import Stopwatch

EXACT_PX = 1 << 24
"""An image of no more pixels (4096 x 4096) is read and converted at once, its window fitted to all of them."""
OVERVIEW_PX = 1 << 22
"""The window of a larger one is fitted to about as many of its pixels."""

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """An image that is being taken tile by tile.

    Attributes:
        raster: Its raw counts.
        entry: Of the sensor, in the manifest.
        window: Of its radiometry; ``None`` where counts pass unchanged, or the image is held.
        image: ``(H, W, C)``, what the model sees of all of it; ``None`` where it is too large to be held.
        valid: ``(H, W)``, which of its pixels are measurements; ``None`` with ``image``.
    """

    raster: Raster
    entry: SensorEntry
    window: Window | None
    image: Image | None
    valid: npt.NDArray[np.bool_] | None

    @property
    def num_tiles(self) -> int:
        """How many tiles cover it."""
        return count_tiles(*self._plan())

    def tiles(self) -> Iterator[Tile]:
        """The tiles, row by row."""
        return iter_tiles(*self._plan())

    def read(self, tile: Tile) -> Frame | None:
        """A tile's raw counts; ``None`` where the image is held.

        Raises:
            ImageError: It cannot be read.
        """
        return None if self.image is not None else self.raster.read(tile.x, tile.y, tile.width, tile.height)

    def prepare(self, tile: Tile, frame: Frame | None) -> Image | None:
        """What the model sees of a tile, ``(h, w, C)`` of its input size; ``None`` if no pixel is a measurement.

        Args:
            tile: One of :meth:`tiles`.
            frame: From :meth:`read`.

        Raises:
            ImageError: The counts do not fit the sensor.
        """
        if self.image is not None and self.valid is not None:
            rows, columns = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
            part, valid = self.image[rows, columns], self.valid[rows, columns]
        else:
            assert frame is not None  # read() gave it
            part, valid = to_uint8_with_mask(frame, self.entry.profile, self.window)
        if not valid.any():
            return None
        whole = Tile(0, 0, tile.width, tile.height, (0, 0, tile.width, tile.height))
        return cut_tile(part, whole, self.entry.input_width, self.entry.input_height)

    def picture(self) -> Image:
        """All of it for people, thinned to :data:`OVERVIEW_PX` pixels where it is not held.

        Raises:
            ImageError: It cannot be read.
        """
        if self.image is not None:
            return self.image
        return to_uint8(self.raster.overview(OVERVIEW_PX), self.entry.profile, self.window)

    def _plan(self) -> tuple[int, int, int, int, float]:
        entry = self.entry
        return self.raster.width, self.raster.height, entry.input_width, entry.input_height, entry.tile_overlap


def open_scene(raster: Raster, entry: SensorEntry, watch: Stopwatch) -> Scene:
    """Fit the radiometry; of a small image, read and convert all of it.

    Args:
        raster: The image; it stays open as long as tiles are read.
        entry: Of the sensor, in the manifest.
        watch: Gets the time of reading and converting.

    Raises:
        ImageError: The image cannot be read or does not fit the sensor.
    """
    if raster.width * raster.height <= EXACT_PX:
        with watch.stage("read"):
            frame = raster.read(0, 0, raster.width, raster.height)
        with watch.stage("preprocess"):
            return Scene(raster, entry, None, *to_uint8_with_mask(frame, entry.profile))
    with watch.stage("read"):
        frame_dtype = raster.dtype
        overview = raster.overview(OVERVIEW_PX) if needs_window(frame_dtype, entry.profile) else None
    with watch.stage("preprocess"):
        return Scene(raster, entry, None if overview is None else fit_window(overview, entry.profile), None, None)
