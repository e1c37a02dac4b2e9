"""A clock that tests turn by hand, and ways to take captures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from runtime.sources import Capture, Source, Unusable
from runtime.sources.clock import Clock


class HandClock:
    """Stands still but for waits, which take no time. Each wait may have something happen, and may stop it all."""

    def __init__(self, happenings: Iterator[Callable[[], object]] | None = None) -> None:
        self.time = 1000.0
        self.waits: list[float] = []
        self._happenings = happenings

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, lambda: 1.6e9 + self.time, self._wait)

    def _wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.time += seconds
        if self._happenings is not None:
            happening = next(self._happenings, stop.set)
            happening()
        return stop.is_set()


def take(source: Source, count: int) -> list[Capture | Unusable]:
    """The first ``count`` captures, after which the source is stopped and closed."""
    stop = threading.Event()
    taken = []
    for item in source.captures(stop):
        taken.append(item)
        if len(taken) == count:
            stop.set()
    source.close()
    return taken


def usable(items: list[Capture | Unusable]) -> list[Capture]:
    return [item for item in items if isinstance(item, Capture)]


def faults(items: list[Capture | Unusable]) -> list[tuple[str, int]]:
    """Cause and sequence of what could not be used."""
    return [(item.error.cause, item.sequence) for item in items if isinstance(item, Unusable)]
