"""A CRC of the weights that an engine computes with, a slice at a time, so that no frame waits for it.

A pass takes its interval: before every batch as many slices are read as the time since the last ones asks for. Nothing
is read while no batch comes; the batch after a pause of an interval or longer waits for a whole pass. A CRC-32 finds
every flip of a single bit, and every burst of up to 32 bits within a slice.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SLICE_BYTES = 1 << 18
"""Bytes that are read at once: a fraction of a millisecond."""


@dataclass(frozen=True)
class Region:
    """Memory of one tensor, as the engine reads it.

    Attributes:
        name: The tensor's, in the engine's own graph.
        content: ``(bytes,)`` uint8, a view of that memory: not a copy.
        dtype: What the bytes stand for, as numpy spells it.
        reader: The first node that reads it; empty where none does.
    """

    name: str
    content: npt.NDArray[np.uint8]
    dtype: str
    reader: str = ""


@dataclass(frozen=True)
class Slice:
    """A part of a region, with the CRC-32 it had when the engine was opened."""

    name: str
    content: npt.NDArray[np.uint8]
    crc: int

    def is_intact(self) -> bool:
        """Whether the memory still has this CRC."""
        return zlib.crc32(self.content.data) == self.crc


def slices_of(regions: Sequence[Region], most_bytes: int = SLICE_BYTES) -> list[Slice]:
    """All bytes of all regions, each in one slice, with the CRCs of now."""
    return [
        Slice(region.name, part, zlib.crc32(part.data))
        for region in regions
        for start in range(0, len(region.content), most_bytes)
        for part in [region.content[start : start + most_bytes]]
    ]


class WeightCheck:
    """Passes over all weights, one an interval.

    Args:
        regions: What to watch; the CRCs of now are the right ones.
        interval_s: Seconds that a pass takes.
        clock: Seconds that only grow.
    """

    def __init__(
        self, regions: Sequence[Region], interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slices = slices_of(regions)
        self._num_bytes = sum(len(each.content) for each in self._slices)
        self._interval_s, self._clock = interval_s, clock
        self._last, self._owed, self._next = clock(), 0.0, 0
        self.passes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that a pass reads."""
        return self._num_bytes

    def step(self) -> Slice | None:
        """Read what is due by now; the first slice that is not as it was."""
        now = self._clock()
        self._owed += self._num_bytes * (now - self._last) / self._interval_s
        self._owed, self._last = min(self._owed, float(self._num_bytes)), now
        while self._slices and self._owed > 0:
            each = self._slices[self._next]
            self._owed -= len(each.content)
            self._next = (self._next + 1) % len(self._slices)
            self.passes += self._next == 0
            if not each.is_intact():
                return each
        return None
