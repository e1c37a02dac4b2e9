"""Time as sources see it; passed in, so that tests need not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from runtime.health.pulses import ROUND_S, beat


def utc_text(epoch_s: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(epoch_s, timezone.utc).isoformat(timespec="milliseconds")


def _wait(stop: threading.Event, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > ROUND_S:
        beat()  # pauses are no fault, however long
        if stop.wait(ROUND_S):
            return True
    beat()
    return stop.wait(max(0.0, left))


@dataclass(frozen=True)
class Clock:
    """What time it is, and how to wait.

    Attributes:
        monotonic: Seconds that never jump, for durations.
        now: Seconds since 1970, for time stamps.
        wait: Waits so many seconds or until the event is set; whether it is set.
    """

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    wait: Callable[[threading.Event, float], bool] = _wait

    def ms_since(self, start: float) -> float:
        """Milliseconds since ``start``, a value of :attr:`monotonic`."""
        return (self.monotonic() - start) * 1e3
