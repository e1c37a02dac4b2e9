"""Keeps the state of a run's degrading, and shapes the work by it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from runtime.degrading.levels import FAULT_WINDOW_S, FAULTS, LEVELS, Level
from runtime.degrading.machine import Signal, State, halted, step
from runtime.pipeline import Detector

FAULTS_KEPT = 1000
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class LevelReport:
    """The level of a run, as health reports have it.

    Attributes:
        level: Name of the level.
        reason: Why it was taken.
        for_s: Seconds since then.
        faults: Engine faults that still count.
        changes: Changes since the start.
    """

    level: str
    reason: str
    for_s: float
    faults: int
    changes: int


class Degrader:
    """A run's level; may be asked and told from any thread. Every change is logged with its reason.

    Args:
        clock: Seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.stop: Callable[[], None] = lambda: None
        """Called once, when the last level is reached."""
        self._lock = threading.RLock()
        self._state = State(changed_s=clock())
        self._changes = 0
        self._faults: deque[tuple[float, str]] = deque(maxlen=FAULTS_KEPT)

    @property
    def level(self) -> Level:
        """The present level."""
        return LEVELS[self._state.level]

    @property
    def report(self) -> LevelReport:
        """The present level, why it was taken, and what still counts."""
        with self._lock:
            state, now = self._state, self._clock()
            return LevelReport(
                LEVELS[state.level].name, state.reason, now - state.changed_s, self._count(now), self._changes
            )

    def observe(self, signals: Mapping[str, Signal]) -> None:
        """Take what was measured now; to be called every second or so."""
        with self._lock:
            now = self._clock()
            self._become(step(self._state, {**signals, FAULTS: self._fault_signal(now)}, now))

    def fault(self, cause: str) -> None:
        """An engine failed; the level follows before this returns."""
        with self._lock:
            self._faults.append((self._clock(), cause))
            self.observe({})

    def halt(self, reason: str) -> None:
        """Nothing that is left to do less of would help."""
        with self._lock:
            self._become(halted(self._state, reason, self._clock()))

    def shaped(self, detector: Detector) -> Detector:
        """The detector for the next image, with the level's batch and overlap."""
        level = self.level
        if level.batch_factor == 1 and level.overlap_factor == 1:
            return detector
        overlap = detector.entry.tile_overlap * level.overlap_factor
        entry = replace(detector.entry, tile_overlap=overlap)
        return replace(detector, entry=entry, batch=detector.batch * level.batch_factor)

    def _count(self, now: float) -> int:
        return sum(now - at < FAULT_WINDOW_S for at, _ in self._faults)

    def _fault_signal(self, now: float) -> Signal:
        count = self._count(now)
        return Signal(count, f"{count} engine faults, the last: {self._faults[-1][1]}" if count else "no engine fault")

    def _become(self, state: State) -> None:
        before, self._state = self._state, state
        if state.level == before.level:
            return
        self._changes += 1
        log = _LOGGER.warning if state.level > before.level else _LOGGER.info
        log("level %s -> %s: %s", LEVELS[before.level].name, LEVELS[state.level].name, state.reason)
        if LEVELS[state.level].stops:
            self.stop()
