"""The periodic line and file, and the steps of degrading: one thread that looks at the run every second."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from babelrs.errors import BabelRSError, say
from runtime.degrading.signals import signals_of
from runtime.health.monitor import Monitor
from runtime.health.notify import Notifier
from runtime.health.pulses import beat
from runtime.sinks import write_whole

FILE_NAME = "health.json"
TICK_S = 1.0
"""How often the signals of degrading are looked at."""
_LOGGER = logging.getLogger(__name__)


class Reporter:
    """Reports every so many seconds and at the end, and tells the degrader what is measured.

    The file is replaced as a whole. Where it cannot be written, that is logged once, and the run goes on.

    Args:
        monitor: The run.
        interval_s: Between reports; ``None``: none are made.
        folder: Where the file goes.
        say_line: Takes a line of JSON.
        deadline_ms: What an image may take in all.
        most_c: Limit of every thermal zone.
        notifier: Gets the line for people.
    """

    def __init__(
        self,
        monitor: Monitor,
        interval_s: float | None,
        folder: Path,
        say_line: Callable[[str], None] | None = None,
        deadline_ms: float | None = None,
        most_c: float | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._monitor, self._interval_s, self._folder = monitor, interval_s, folder
        self._say_line = say_line or (lambda line: say(line, sys.stderr))
        self._deadline_ms, self._most_c = deadline_ms, most_c
        self._notifier = notifier or Notifier(None)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._fault = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, with a last report of a run that has begun."""
        self._closing.set()
        self._thread.join()
        if self._interval_s is not None and self._monitor.has_begun:
            self.report()

    def observe(self) -> None:
        """Measure, and let the degrader take the step that follows."""
        monitor = self._monitor
        if monitor.degrader is not None and monitor.has_begun:
            device = None if monitor.sampler is None else monitor.sampler.latest()
            latency_ms = monitor.metrics.lag_ms()
            monitor.degrader.observe(signals_of(latency_ms, self._deadline_ms, device, self._most_c))

    def report(self) -> None:
        """Write the line and the file."""
        snapshot = self._monitor.snapshot()
        line = json.dumps(snapshot, allow_nan=False) + "\n"
        self._say_line(line)
        level = snapshot.get("degrading", {}).get("level", "normal")
        self._notifier.tell(STATUS=f"{snapshot['images']} images, {snapshot['fps']:.2f} images/s, level {level}")
        try:
            write_whole(self._folder / FILE_NAME, line.encode())
            self._fault = ""
        except BabelRSError as error:
            if self._fault != error.what:
                self._fault = error.what
                _LOGGER.warning("no health report: %s", error)

    def _run(self) -> None:
        with self._monitor.pulses.own("reporting"):
            try:
                self._rounds()
            except Exception:  # a defect: this thread's pulse stays and ages, so that the watchdog notices
                _LOGGER.exception("health reports have ended")
                self._closing.wait()

    def _rounds(self) -> None:
        interval_s = math.inf if self._interval_s is None else self._interval_s
        due_s = -math.inf
        while not self._closing.wait(min(TICK_S, interval_s)):
            beat()
            now = time.monotonic()
            is_due = self._interval_s is not None and self._monitor.has_begun and now >= due_s
            if is_due:
                due_s = max(now, due_s + interval_s) if math.isfinite(due_s) else now + interval_s
            try:
                self.observe()
                if is_due:
                    self.report()
            except MemoryError:  # there may be some again next time; who computes ends the run if not
                _LOGGER.warning("no health report: memory ran out")
