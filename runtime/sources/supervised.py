"""Keeps a live source alive: connects again with growing pauses, and gives the newest frame only."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from babelrs.sensors import Sensor
from runtime.health.pulses import beat, beside
from runtime.raster import FrameRaster
from runtime.sources import Capture, Unusable
from runtime.sources.clock import Clock, utc_text
from runtime.sources.live import Connect, Received, Stream, StreamFault
from runtime.sources.past import Past

_LOGGER = logging.getLogger(__name__)
_GLANCE_S = 0.1  # how often somebody who waits looks whether to stop
_LEAVE_S = 0.5  # how long closing waits for the thread; one that is stuck in a driver is left behind


@dataclass(frozen=True)
class Supervision:
    """When a live source connects again.

    Attributes:
        first_wait_s: Pause before the second attempt.
        factor: What each further pause is multiplied by.
        longest_wait_s: Longest pause, jitter left out.
        jitter: Each pause is longer or shorter by up to this share, so that many sources do not knock at once.
        steady_s: After so long a time with frames, an outage is over: pauses begin small again.
    """

    first_wait_s: float = 0.25
    factor: float = 2.0
    longest_wait_s: float = 5.0
    jitter: float = 0.2
    steady_s: float = 2.0

    def wait_s(self, attempt: int, chance: float) -> float:
        """The pause after the ``attempt``-th failure in a row, from 1; ``chance`` is uniform in 0..1."""
        growth = self.factor ** min(attempt - 1, 64)  # more would overflow, days later
        wait = min(self.longest_wait_s, self.first_wait_s * growth)
        return wait * (1 + self.jitter * (2 * chance - 1))


@dataclass(frozen=True)
class Health:
    """How a live source fares.

    Attributes:
        connected: Whether frames come.
        attempts: Connections tried since it last ran steadily; 0 while it does.
        connections: Connections that gave a frame since the start.
        last_fault: The latest fault, or ``None``.
        received: Frames that came since the start.
        dropped: Of these, how many were replaced before anybody took them.
        frame_age_s: Seconds since the last frame came, or ``None`` before the first.
    """

    connected: bool
    attempts: int
    connections: int
    last_fault: str | None
    received: int
    dropped: int
    frame_age_s: float | None


class SupervisedSource:
    """A live source whose connection is made again whenever it breaks.

    One thread connects and receives; it does nothing but that, so nothing piles up while a detector is busy. Faults are
    logged once for each cause in an outage.

    Args:
        name: As the command line called it, without credentials.
        sensor: What takes its images.
        prefix: What names of files about its frames begin with.
        connect: Opens a connection.
        supervision: When to connect again.
        clock: Tells the time and waits.
        chance: Gives numbers in 0..1 for the jitter.
    """

    live = True

    def __init__(
        self,
        name: str,
        sensor: Sensor,
        prefix: str,
        connect: Connect,
        supervision: Supervision | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.sensor = sensor
        self._prefix = prefix
        self._connect = connect
        self._supervision = supervision or Supervision()
        self._clock = clock or Clock()
        self._chance = chance
        self._closing = threading.Event()
        self._changed = threading.Condition()  # guards all below
        self._slot: Capture | None = None
        self._health = Health(False, 0, 0, None, 0, 0, None)
        self._last_frame: float | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        # Of the thread alone:
        self._first = 0
        self._logged: set[str] = set()
        self._outage_since: float | None = None
        self._begin = 0.0

    @property
    def dropped(self) -> int:
        """See :class:`runtime.sources.Source`."""
        return self.health.dropped

    @property
    def health(self) -> Health:
        """How it fares now; may be asked from any thread."""
        with self._changed:
            age = None if self._last_frame is None else self._clock.monotonic() - self._last_frame
            return replace(self._health, frame_age_s=age)

    def resumed(self, past: Past) -> SupervisedSource:
        """See :meth:`Source.resumed`; a live source gives nothing again, so that only the numbers go on."""
        self._first = past.next_sequence
        return self

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        """See :meth:`Source.captures`."""
        work = beside("receiving", self._run)
        self._thread = threading.Thread(target=work, name=f"source {self.name}", daemon=True)
        self._thread.start()
        try:
            while not stop.is_set():
                beat()
                capture = self._take(_GLANCE_S)
                if capture is not None:
                    yield capture
                elif self._closing.is_set():
                    return
        finally:
            self._closing.set()

    def close(self) -> None:
        """See :meth:`Source.close`."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)

    def _take(self, seconds: float) -> Capture | None:
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._failure is not None, seconds)
            if self._slot is None and self._failure is not None:
                raise self._failure
            capture, self._slot = self._slot, None
            return capture

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._serve()
                wait_s = self._supervision.wait_s(max(1, self._health.attempts), self._chance())
                if self._clock.wait(self._closing, wait_s):
                    return
        except BaseException as failure:  # a user's error or a defect: either belongs to who takes the captures
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _serve(self) -> None:
        """One connection, from opening it to its fault."""
        self._set(replace(self._health, attempts=self._health.attempts + 1))
        stream: Stream | None = None
        try:
            stream = self._connect(self._closing)
            self._receive(stream)
        except StreamFault as fault:
            if self._closing.is_set():
                return
            self._set(replace(self._health, connected=False, last_fault=str(fault)))
            self._report(str(fault))
        finally:
            if stream is not None:
                stream.close()

    def _receive(self, stream: Stream) -> None:
        first: float | None = None
        while not self._closing.is_set():
            received = stream.receive()
            beat()
            now = self._clock.monotonic()
            if first is None:
                first = now
                self._set(replace(self._health, connected=True, connections=self._health.connections + 1))
            if self._health.attempts and now - first >= self._supervision.steady_s:
                self._end_outage(first)
            self._put(received, now)

    def _put(self, received: Received, now: float) -> None:
        received_before = self._health.received
        sequence = self._first + received_before
        self._begin = now if received_before == 0 else self._begin
        capture = Capture(
            FrameRaster(received.frame),
            self.name,
            f"{self._prefix}{sequence:06d}",
            self.sensor,
            sequence,
            utc_text(self._clock.now()),
            received.read_ms,
            offset_s=now - self._begin,
        )
        with self._changed:
            replaced = self._slot is not None
            self._slot, self._last_frame = capture, now
            self._health = replace(self._health, received=received_before + 1, dropped=self._health.dropped + replaced)
            self._changed.notify_all()

    def _report(self, cause: str) -> None:
        self._outage_since = self._outage_since or self._clock.monotonic()
        if cause not in self._logged:
            self._logged.add(cause)
            _LOGGER.warning("%s: %s; connecting again until it is back", self.name, cause)

    def _end_outage(self, back: float) -> None:
        if self._outage_since is not None:
            seconds, attempts = back - self._outage_since, self._health.attempts
            _LOGGER.warning("%s: back after %.1f s, attempt %d", self.name, seconds, attempts)
        self._logged, self._outage_since = set(), None
        self._set(replace(self._health, attempts=0))

    def _set(self, health: Health) -> None:
        """The thread alone writes it; others read it."""
        with self._changed:
            self._health = health
