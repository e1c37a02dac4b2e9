"""Bytes from a pipe that can be looked ahead in, with a limit on waiting."""

from __future__ import annotations

import os
import re
import select
import threading
import time

from runtime.health.pulses import beat

_GLANCE_MS = 100  # how often somebody who waits looks whether to stop
_CHUNK = 1 << 20


class Stopped(Exception):
    """Reading was asked to stop."""


class Stalled(Exception):
    """Nothing came in the time there was."""


class Ended(Exception):
    """The pipe holds fewer bytes than were asked for, and no more will come."""


class LookAhead:
    """The bytes of a pipe, looked at before they are taken.

    Args:
        descriptor: Its file descriptor; stays open.
        stop: Set, it ends waiting.
        stall_s: Longest wait for bytes; ``None``: any.
    """

    def __init__(self, descriptor: int, stop: threading.Event, stall_s: float | None = None) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._stop = stop
        self.stall_s = stall_s
        self._bytes = bytearray()
        self._ended = False
        self.waited_s = 0.0
        """Seconds spent waiting for bytes so far."""

    def peek(self, count: int, at: int = 0) -> bytes:
        """``count`` bytes from ``at`` on, which stay.

        Raises:
            Ended: There are not so many.
            Stopped: ``stop`` was set.
            Stalled: None came for ``stall_s``.
        """
        self._need(at + count)
        return bytes(self._bytes[at : at + count])

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises as :meth:`peek`."""
        self._need(count)
        taken = bytes(memoryview(self._bytes)[:count])
        del self._bytes[:count]
        return taken

    def find(self, pattern: re.Pattern[bytes], at: int, most: int) -> re.Match[bytes] | None:
        """The next match from ``at`` on within ``most`` bytes, or ``None``. Raises as :meth:`peek`.

        A match is shorter than 64 bytes, and ends where it ends whatever follows.
        """
        while True:
            found = pattern.search(self._bytes, at, most)
            if found is not None or len(self._bytes) >= most:
                return found
            at = max(at, len(self._bytes) - 64)
            self._need(len(self._bytes) + 1)

    @property
    def num_bytes(self) -> int:
        """How many can be had without waiting."""
        return len(self._bytes)

    def _need(self, count: int) -> None:
        while len(self._bytes) < count:
            if self._ended:
                raise Ended
            chunk = self._read()
            self._ended = not chunk
            self._bytes += chunk

    def _read(self) -> bytes:
        start = time.monotonic()
        try:
            while not self._stop.is_set() and not self._poll.poll(_GLANCE_MS):
                beat()
                if self.stall_s is not None and time.monotonic() - start > self.stall_s:
                    raise Stalled
            if self._stop.is_set():
                raise Stopped
            return os.read(self._descriptor, _CHUNK)
        finally:
            self.waited_s += time.monotonic() - start
