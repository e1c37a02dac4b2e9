"""Images that are read in parts: what sources give and detectors take, of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from babelrs.images import Frame
from runtime.geo import PixelMap


class Raster(Protocol):
    """An image of one sensor that can be read window by window; never held whole unless it is small."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def dtype(self) -> str:
        """Number type of the counts that are read: ``uint8``, ``uint16`` or ``float32``."""

    @property
    def geo(self) -> PixelMap | None:
        """Where its pixels lie on Earth, where that is known."""

    def read(self, x: int, y: int, width: int, height: int) -> Frame:
        """The raw counts of a window that lies inside the image.

        Args:
            x: Left column.
            y: Top row.
            width: Columns.
            height: Rows.

        Raises:
            ImageError: The window cannot be read.
        """

    def overview(self, most_px: int) -> Frame:
        """The whole image, thinned to at most ``most_px`` pixels: what a radiometric window is fitted to.

        Raises:
            ImageError: It cannot be read.
        """

    def close(self) -> None:
        """Let go of the file; called once."""


_CLOSED = Frame(np.empty((0, 0), np.uint8))


@dataclass
class FrameRaster:
    """A frame that is in memory already.

    Attributes:
        frame: Raw counts; without pixels once it is closed.
        geo: Where its pixels lie.
    """

    frame: Frame
    geo: PixelMap | None = None

    @property
    def width(self) -> int:
        """Columns."""
        return self.frame.width

    @property
    def height(self) -> int:
        """Rows."""
        return self.frame.height

    @property
    def dtype(self) -> str:
        """Number type of the counts."""
        return str(self.frame.pixels.dtype.name)

    def read(self, x: int, y: int, width: int, height: int) -> Frame:
        """See :meth:`Raster.read`."""
        return self._of(np.s_[y : y + height, x : x + width])

    def overview(self, most_px: int) -> Frame:
        """See :meth:`Raster.overview`."""
        step = 1
        while -(-self.width // step) * -(-self.height // step) > most_px:
            step += 1
        return self._of(np.s_[::step, ::step])

    def close(self) -> None:
        """Let go of the pixels: whoever still holds the raster holds no memory with it."""
        self.frame = _CLOSED

    def _of(self, part: tuple[slice, slice]) -> Frame:
        frame = self.frame
        return Frame(frame.pixels[part], frame.nodata, frame.source, frame.has_alpha)
