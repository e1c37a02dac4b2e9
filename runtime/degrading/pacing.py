"""Which frames of a live source are taken where not all can be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pacing:
    """Leaves out frames of one live source, by the level's stride.

    At a stride of k > 1 a frame is taken if no other is under way, if k - 1 frames or more lie between it and the last,
    and if k times as long has passed since that one was taken as it then took: the device rests in between, however
    fast frames come, and what is taken waits for nothing.

    Args:
        stride: Tells the stride.
        clock: Seconds that never jump.
    """

    def __init__(self, stride: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._stride, self._clock = stride, clock
        self._lock = threading.Lock()
        self._under_way = 0
        self._sequence: int | None = None
        self._taken_s = self._took_s = 0.0
        self.left_out = 0
        """Frames that were not taken."""

    def wants(self, sequence: int) -> bool:
        """Whether the frame of this number is taken; counted where it is not."""
        stride = self._stride()
        with self._lock:
            if stride == 1 or self._sequence is None:
                return True
            rested = self._clock() - self._taken_s >= stride * self._took_s
            wanted = not self._under_way and sequence - self._sequence >= stride and rested
            self.left_out += not wanted
            return wanted

    def taken(self, sequence: int, then: Callable[[], None]) -> Callable[[], None]:
        """A frame is under way; what is returned is to be called when it is done, and calls ``then``."""
        with self._lock:
            begin = self._taken_s = self._clock()
            self._under_way += 1
            self._sequence = sequence

        def done() -> None:
            with self._lock:
                self._under_way -= 1
                self._took_s = self._clock() - begin
            then()

        return done
