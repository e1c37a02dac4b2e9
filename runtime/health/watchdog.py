"""Says that a run is ready, and that it is alive only while every stage answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from runtime.health.notify import Notifier
from runtime.health.pulses import Pulses

ALLOWANCE_S = 30.0
"""How long a stage may be inside one call where no service manager says otherwise."""
_LOGGER = logging.getLogger(__name__)


class Watchdog:
    """A thread that asks all stages and passes their answer on.

    ``READY=1`` is sent once the run has begun and all its stages answer; from then on ``WATCHDOG=1`` in every round in
    which they do; ``STOPPING=1`` once the run is to end. Who does not answer is logged once, until it does again.

    Args:
        pulses: The stages'.
        notifier: The service manager.
        begun: Whether the run's stages are there.
        stop: Set when the run is to end.
        watchdog_s: ``WatchdogSec``; stages have half of it to answer. ``None``: nobody watches, nothing is restarted.
    """

    def __init__(
        self,
        pulses: Pulses,
        notifier: Notifier,
        begun: Callable[[], bool],
        stop: threading.Event,
        watchdog_s: float | None = None,
    ) -> None:
        self._pulses, self._notifier, self._begun, self._stop = pulses, notifier, begun, stop
        self._watched = watchdog_s is not None
        self.allowance_s = ALLOWANCE_S if watchdog_s is None else watchdog_s / 2
        self._round_s = min(1.0, self.allowance_s / 4)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._is_ready = self._is_stopping = False
        self._late: set[str] = set()

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def close(self) -> None:
        """End; says that the run stops where that was not said."""
        self._closing.set()
        self._thread.join()
        self._tell_stopping()
        self._notifier.close()

    def look(self) -> None:
        """One round."""
        late = self._pulses.late(self.allowance_s)
        self._log(late)
        if self._stop.is_set():
            self._tell_stopping()
        if not self._is_ready and not late and self._begun():
            self._is_ready = self._notifier.tell(READY=1, STATUS="all stages answer")
        if self._is_ready and not late and self._watched:
            self._notifier.tell(WATCHDOG=1)

    def _run(self) -> None:
        while not self._closing.wait(self._round_s):
            self.look()

    def _tell_stopping(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._notifier.tell(STOPPING=1)

    def _log(self, late: dict[str, float]) -> None:
        for name in late.keys() - self._late:
            _LOGGER.error("%s has not answered for %.1f s", name, late[name])
            self._notifier.tell(STATUS=f"no answer from {name}")
        for name in self._late - late.keys():
            _LOGGER.warning("%s answers again, or has ended", name)
        self._late = set(late)
