"""Heartbeats: which threads of a run still go round their loops.

A thread beats when it takes or hands on an item, and again and again while it waits for either; so a lane that is empty
or full is no fault. Between two beats it is inside one call: of an engine, a decoder, a sink. If that lasts, the thread
does not answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ROUND_S = 0.5
"""Who waits looks up so often, and beats."""
_OWN = threading.local()


class Pulses:
    """The heartbeats of a run's threads.

    Args:
        clock: Seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pulses: list[_Pulse] = []

    @contextmanager
    def own(self, name: str) -> Iterator[None]:
        """While inside, the calling thread answers under this name."""
        pulse, outer = _Pulse(self, name, self._clock), _own()
        with self._lock:
            self._pulses.append(pulse)
        _OWN.pulse = pulse
        try:
            yield
        finally:
            _OWN.pulse = outer
            with self._lock:
                self._pulses.remove(pulse)

    def ages_s(self) -> dict[str, float]:
        """Seconds since the last beat, by name; of threads of the same name, the longest."""
        with self._lock:
            pulses = list(self._pulses)
        now, ages = self._clock(), dict[str, float]()
        for pulse in pulses:
            ages[pulse.name] = max(ages.get(pulse.name, 0.0), now - pulse.last_s)
        return ages

    def late(self, allowance_s: float) -> dict[str, float]:
        """Those of :meth:`ages_s` that are longer than allowed: who does not answer."""
        return {name: age for name, age in self.ages_s().items() if age > allowance_s}


class _Pulse:
    """One thread's; compared by identity, as names may repeat."""

    def __init__(self, board: Pulses, name: str, clock: Callable[[], float]) -> None:
        self.board, self.name, self.clock, self.last_s = board, name, clock, clock()


def beat() -> None:
    """The calling thread goes round; nothing where it has no pulse."""
    pulse = _own()
    if pulse is not None:
        pulse.last_s = pulse.clock()


def beside(name: str, work: Callable[[], None]) -> Callable[[], None]:
    """The work for a further thread, with a pulse on the board of the calling one, where that has one.

    Args:
        name: What the thread does; the calling thread's name goes before it.
        work: Beats by itself.
    """
    pulse = _own()
    if pulse is None:
        return work
    board, full = pulse.board, f"{pulse.name}, {name}"

    def owned() -> None:
        with board.own(full):
            work()

    return owned


def _own() -> _Pulse | None:
    return getattr(_OWN, "pulse", None)
