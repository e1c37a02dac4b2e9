"""All that watches over a run, by what its command line and its service manager ask for."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DEVICE, say
from runtime.arguments import Attention
from runtime.degrading.degrader import Degrader
from runtime.health.monitor import Monitor
from runtime.health.notify import notifier_of, watchdog_s
from runtime.health.report import Reporter
from runtime.health.sampler import Sampler
from runtime.health.watchdog import ALLOWANCE_S, Watchdog
from runtime.sources import Source

if TYPE_CHECKING:
    from runtime.health.prometheus import HealthServer

INTERVAL_S = 60.0
"""Between reports of live sources and services."""
_LOGGER = logging.getLogger(__name__)


class Attendance:
    """Watches over one run. A run of files of which nothing is asked is not watched, and never does less.

    Args:
        attention: What the command line asks for.
        sources: Of the run.
        folder: Of its results.
        is_quiet: Whether nothing is said unasked.
        environment: Names the service manager.
        root: Where the device's ``sys`` and ``proc`` are.

    Raises:
        BabelRSError: Metrics cannot be served there.
    """

    def __init__(
        self,
        attention: Attention,
        sources: Sequence[Source],
        folder: Path,
        is_quiet: bool = False,
        environment: Mapping[str, str] = os.environ,
        root: Path = Path("/"),
    ) -> None:
        self._attention, self._folder = attention, folder
        self._has_live = any(source.live for source in sources)
        self._notifier, self._watchdog_s = notifier_of(environment), watchdog_s(environment)
        self._is_unattended = self._has_live or self._notifier.is_heard
        self._interval_s = attention.interval_s or None
        if attention.interval_s is None and self._is_unattended and not is_quiet:
            self._interval_s = INTERVAL_S
        asked = attention.deadline_ms is not None or attention.most_c is not None
        self.degrader = Degrader() if self._has_live or asked else None
        allowance_s = ALLOWANCE_S if self._watchdog_s is None else self._watchdog_s / 2
        self.monitor = Monitor(self.degrader, Sampler(root), allowance_s)
        self._server: HealthServer | None = None
        if attention.prometheus is not None:
            from runtime.health.prometheus import HealthServer  # an HTTP server is loaded where one is asked for

            self._server = HealthServer(*attention.prometheus, self.monitor.snapshot)

    @contextmanager
    def during(self, stop: threading.Event) -> Iterator[Monitor]:
        """Watch while inside; the run is to end where ``stop`` is set, and what watches sets it too."""
        if self.degrader is not None:
            self.degrader.stop = stop.set
        with ExitStack() as stack:
            if self._is_unattended:
                monitor = self.monitor
                watchdog = Watchdog(monitor.pulses, self._notifier, lambda: monitor.has_begun, stop, self._watchdog_s)
                watchdog.start()
                stack.callback(watchdog.close)
            if self._server is not None:
                self._server.start()
                _LOGGER.info("metrics at port %d", self._server.port)
                stack.callback(self._server.close)
            if self._interval_s is not None or self.degrader is not None:
                attention = self._attention
                reporter = Reporter(
                    self.monitor, self._interval_s, self._folder, None,
                    attention.deadline_ms, attention.most_c, self._notifier,
                )  # fmt: skip
                reporter.start()
                stack.callback(reporter.close)
            stack.callback(self.monitor.end)
            yield self.monitor

    @property
    def has_given_up(self) -> bool:
        """Whether the run ended because nothing less was left to do."""
        return self.degrader is not None and self.degrader.level.stops

    def explain(self) -> int:
        """Say why it gave up; the exit code."""
        assert self.degrader is not None  # it has given up
        say(f"error: Stopped with everything written: {self.degrader.report.reason}.\n", sys.stderr)
        return EXIT_DEVICE
