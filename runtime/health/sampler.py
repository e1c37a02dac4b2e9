"""Reads the device now and then in a thread of its own, and gives up on files that hang."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.health.device import DeviceState, Read, read_device, read_text

INTERVAL_S = 5.0
PATIENCE_S = 2.0
"""A file that takes longer is left out while it does: sensors behind a stuck bus hang forever."""
STALE_S = 60.0
"""Older readings are no readings."""
_LOGGER = logging.getLogger(__name__)


class Sampler:
    """The latest readings of the device.

    Args:
        root: Where ``sys`` and ``proc`` are.
        interval_s: Pause between readings.
        patience_s: How long a file may take.
        read: Reads a file.
        clock: Seconds that never jump.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        interval_s: float = INTERVAL_S,
        patience_s: float = PATIENCE_S,
        read: Read = read_text,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._interval_s, self._patience_s, self._read, self._clock = (
            root, interval_s, patience_s, read, clock,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._latest: tuple[float, DeviceState] | None = None
        self._hung: set[Path] = set()
        self._round: _Round | None = None
        self._begun_s = -1e9

    def latest(self) -> DeviceState | None:
        """What was read last, if that is not long ago; begins a new reading when it is time. Never waits for a file."""
        now = self._clock()
        with self._lock:
            if self._round is not None and self._round.is_stuck(now, self._patience_s):
                self._hung.add(self._round.path)
                _LOGGER.warning("%s: does not answer; going on without it", self._round.path)
                self._round = None
                self._begun_s = -1e9
            if self._round is None and now - self._begun_s >= self._interval_s:
                self._begun_s = now
                self._round = _Round(self._begun_s)
                try:
                    threading.Thread(target=self._sample, args=(self._round,), name="device", daemon=True).start()
                except (RuntimeError, MemoryError) as error:  # the system refuses a thread; the next time, maybe not
                    _LOGGER.warning("the device's state is not read for now: %s", error)
                    self._round = None
            if self._latest is None or now - self._latest[0] > max(STALE_S, 3 * self._interval_s):
                return None
            return self._latest[1]

    @property
    def hung(self) -> frozenset[Path]:
        """Files that were given up."""
        with self._lock:
            return frozenset(self._hung)

    def _sample(self, own: _Round) -> None:
        def read(path: Path) -> str | None:
            if path in self._hung or self._round is not own:
                return None
            own.since_s = self._clock()  # first: a new path with an old time would be blamed
            own.path = path
            text = self._read(path)
            if self._round is not own:  # given up, and it came back after all
                with self._lock:
                    self._hung.discard(path)
            return text

        state = read_device(self._root, read)
        with self._lock:
            if self._round is own:  # else another took its place
                self._latest = (self._clock(), state)
                self._round = None


@dataclass
class _Round:
    """One reading of everything, under way."""

    since_s: float
    path: Path = field(default_factory=Path)

    def is_stuck(self, now: float, patience_s: float) -> bool:
        return now - self.since_s > patience_s
