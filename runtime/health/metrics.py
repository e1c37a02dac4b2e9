"""What a run counts about itself, in bounded memory and a few microseconds an image."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from runtime.stopwatch import STAGES
from runtime.summary import TOTAL

REMEMBERED = 512
"""Images whose latencies make the percentiles."""
RATE_S = 30.0
"""Seconds that the frame rate is of."""
PERCENTILES = (50, 90, 99)
LAG_S, FORGOTTEN_S = 10.0, 60.0
"""Results so old tell of the present lag; older than the second they never do."""
FEW = 4
"""Fewer results tell nothing."""


class Metrics:
    """Counts of a run; may be asked and told from any thread.

    Args:
        clock: Seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begin_s = clock()
        self._latencies_ms = {stage: deque[float](maxlen=REMEMBERED) for stage in (*STAGES, TOTAL)}
        self._results: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)  # when, and how long it took in all
        self._under_way: dict[int, float] = {}
        self._keys = itertools.count()
        self._num_images = self._num_detections = 0
        self._skipped: Counter[str] = Counter()

    def begun(self, then: Callable[[], None]) -> Callable[[], None]:
        """An image is under way; what is returned is to be called when it is done, and calls ``then``."""
        key = next(self._keys)
        with self._lock:
            self._under_way[key] = self._clock()

        def done() -> None:
            with self._lock:
                self._under_way.pop(key, None)
            then()

        return done

    def add(self, latency_ms: Mapping[str, float], total_ms: float, num_detections: int) -> None:
        """Count a result: milliseconds by stage, those since the source gave it, and what was found."""
        with self._lock:
            self._num_images += 1
            self._num_detections += num_detections
            self._results.append((self._clock(), total_ms))
            for stage, values in self._latencies_ms.items():
                values.append(total_ms if stage == TOTAL else latency_ms[stage])

    def skip(self, cause: str) -> None:
        """Count an image that could not be used."""
        with self._lock:
            self._skipped[cause] += 1

    def lag_ms(self) -> float:
        """What three of four of the last images took at most, or the age of the oldest under way where that is more.

        The last images are those of the last :data:`LAG_S`, and of slow sources the last few. 0 where there are hardly
        any: nobody waits for anything, and one slow image is no lag.
        """
        with self._lock:
            now = self._clock()
            known = [(at, took) for at, took in self._results if now - at <= FORGOTTEN_S]
            oldest = min(self._under_way.values(), default=now)
        recent = sorted(took for place, (at, took) in enumerate(known[::-1]) if now - at <= LAG_S or place < FEW)
        return max(percentile(recent, 75) if len(recent) >= FEW else 0.0, 1e3 * (now - oldest))

    def counts(self) -> dict[str, object]:
        """For a report: images, their rate, percentiles by stage, what was found and skipped, what is under way."""
        with self._lock:
            now = self._clock()
            latencies = {stage: list(values) for stage, values in self._latencies_ms.items()}
            times = [at for at, _ in self._results]
            counts: dict[str, object] = {
                "images": self._num_images,
                "detections": self._num_detections,
                "skipped": dict(sorted(self._skipped.items())),
                "under_way": len(self._under_way),
            }
        rate = _rate(times, now, now - self._begin_s)
        return {
            "fps": round(rate, 3),
            **counts,
            "latency_ms": {name: _percentiles(ms) for name, ms in latencies.items()},
        }


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The least value that so many percent do not exceed (nearest rank); 0 of nothing."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def _percentiles(values: list[float]) -> dict[str, float]:
    values.sort()
    return {f"p{percent}": round(percentile(values, percent), 3) for percent in PERCENTILES} if values else {}


def _rate(times: Sequence[float], now: float, since_begin_s: float) -> float:
    """Results a second over the last :data:`RATE_S`, or over as many as are remembered where those are more."""
    recent = [at for at in times if now - at <= RATE_S]
    if not recent:
        return 0.0
    is_whole = len(recent) < REMEMBERED
    window = min(RATE_S, since_begin_s) if is_whole else now - recent[0]
    return len(recent) / max(window, 1e-3)
