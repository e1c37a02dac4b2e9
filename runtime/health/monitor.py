"""All that is known of a run: the pipeline tells it, reports ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from runtime.degrading.degrader import Degrader
from runtime.degrading.pacing import Pacing
from runtime.health.metrics import Metrics
from runtime.health.process import read_process
from runtime.health.pulses import Pulses
from runtime.health.sampler import Sampler
from runtime.health.watchdog import ALLOWANCE_S
from runtime.pipeline import Detector
from runtime.sources import Source
from runtime.sources.clock import utc_text

SCHEMA = "babelrs.health/1"
_LONGEST_NAME = 80


class Queue(Protocol):
    """Lanes, as far as a report is concerned."""

    @property
    def depths(self) -> list[int]:
        """Items that wait, by lane."""


class Monitor:
    """What a run shares with who watches it. May be asked from any thread, at any moment of the run.

    Args:
        degrader: Shapes the work; ``None``: all is always done.
        sampler: Reads the device; ``None``: nobody asks.
        allowance_s: How long a stage may be inside one call.
        clock: Seconds that never jump.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        degrader: Degrader | None = None,
        sampler: Sampler | None = None,
        allowance_s: float = ALLOWANCE_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.degrader, self.sampler, self.allowance_s = degrader, sampler, allowance_s
        self.pulses = Pulses(clock)
        self.metrics = Metrics(clock)
        self._clock, self._now, self._begin_s = clock, now, clock()
        self._sources: Sequence[Source] = ()
        self._queues: Mapping[str, Sequence[Queue]] = {}
        self._pacings: list[Pacing] = []
        self._more: dict[str, Callable[[], Any]] = {}
        self._lock = threading.Lock()
        self._state = "starting"

    @property
    def has_begun(self) -> bool:
        """Whether the run's stages are there."""
        return self._state != "starting"

    def begin(self, sources: Sequence[Source], queues: Mapping[str, Sequence[Queue]]) -> None:
        """The stages are there, with what waits between them."""
        self._sources, self._queues, self._state = sources, queues, "running"

    def also(self, name: str, ask: Callable[[], Any]) -> None:
        """Report one thing more.

        Args:
            name: Its key in the report.
            ask: Gives JSON values, from any thread.
        """
        self._more[name] = ask

    def end(self) -> None:
        """The run is over."""
        self._state = "ended"

    def shaped(self, detector: Detector) -> Detector:
        """The detector for the next image."""
        return detector if self.degrader is None else self.degrader.shaped(detector)

    def pacing(self) -> Pacing:
        """For a live source."""
        degrader = self.degrader
        pacing = Pacing((lambda: 1) if degrader is None else (lambda: degrader.level.stride))
        with self._lock:
            self._pacings.append(pacing)
        return pacing

    def late(self) -> dict[str, float]:
        """Stages that do not answer, with the seconds since they last did."""
        return self.pulses.late(self.allowance_s)

    def snapshot(self) -> dict[str, Any]:
        """The health report, ready for JSON; its schema is :data:`SCHEMA`, and new fields may be added to it."""
        late = self.late()
        with self._lock:
            left_out = sum(pacing.left_out for pacing in self._pacings)
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "time": utc_text(self._now()),
            "uptime_s": round(self._clock() - self._begin_s, 3),
            "state": self._state,
            "healthy": not late,
            "stages": {
                name[:_LONGEST_NAME]: {"answered_s": round(age, 3), "answers": name not in late}
                for name, age in self.pulses.ages_s().items()
            },
            **self.metrics.counts(),
            "dropped": sum(source.dropped for source in self._sources),
            "left_out": left_out,
            "queues": {name: [sum(each.depths) for each in lanes] for name, lanes in self._queues.items()},
            "sources": [_source_report(source) for source in self._sources],
            "process": read_process(),
            **{name: ask() for name, ask in self._more.items()},
        }
        if self.degrader is not None:
            level = self.degrader.report
            report["degrading"] = {**asdict(level), "for_s": round(level.for_s, 3)}
        device = None if self.sampler is None else self.sampler.latest()
        if device is not None:
            report["device"] = {name: value for name, value in asdict(device).items() if value not in (None, {}, ())}
        return report


def _source_report(source: Source) -> dict[str, Any]:
    """A source's name and drops; of one that connects again by itself, how that fares."""
    report: dict[str, Any] = {
        "name": source.name[:_LONGEST_NAME],
        "sensor": source.sensor.value,
        "live": source.live,
        "dropped": source.dropped,
    }
    fares = getattr(source, "health", None)
    if fares is not None:
        report.update(
            connected=fares.connected,
            connections=fares.connections,
            received=fares.received,
            frame_age_s=None if fares.frame_age_s is None else round(fares.frame_age_s, 3),
            last_fault=fares.last_fault,
        )
    return report
