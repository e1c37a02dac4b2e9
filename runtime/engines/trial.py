"""A new engine on trial: does it compute what it must, how fast is it, and does a CUDA graph pay?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from babelrs.bundle import SelfTest
from runtime.engines import Engine
from runtime.engines.cache import EngineRecord
from runtime.selftest import SelfTestResult, judged, run_selftest

WARM_UP, RUNS = 5, 30
GRAPH_GAIN = 0.98
"""A graph must take at most this share of the time without, to be worth its memory."""


class Trialled(Engine, Protocol):
    """An engine whose use of CUDA graphs can be set."""

    graph_batches: frozenset[int]


@dataclass(frozen=True)
class Trial:
    """What a trial showed; the fields are those of :class:`runtime.engines.cache.EngineRecord`."""

    passed: bool
    selftest: Mapping[str, Any]
    times_ms: Mapping[int, Mapping[str, float]]
    graph_batches: tuple[int, ...]

    def added_to(self, record: EngineRecord) -> EngineRecord:
        """The record with the trial's figures."""
        return replace(record, **vars(self))


def try_engine(engine: Trialled, selftest: SelfTest, batches: Sequence[int]) -> Trial:
    """Run the self-test alone and in every batch size, with and without CUDA graphs; then time each.

    The engine is left using graphs where they pay.

    Args:
        engine: The engine.
        selftest: The bundle's.
        batches: Batch sizes to time.

    Raises:
        DeviceError: The engine failed.
    """
    times: dict[int, dict[str, float]] = {}
    paying = []
    results = [run_selftest(engine, selftest)]
    for batch in batches:
        pixels = np.repeat(selftest.pixels, batch, axis=0)
        engine.graph_batches = frozenset()
        results += _each_of(engine, pixels, selftest)
        plain = _times_ms(engine, pixels)
        times[batch] = {"median": float(np.median(plain)), "p95": float(np.percentile(plain, 95))}
        engine.graph_batches = frozenset({batch})
        results += _each_of(engine, pixels, selftest)
        if batch in engine.graph_batches:  # else it could not be captured
            times[batch]["graph_median"] = float(np.median(_times_ms(engine, pixels)))
            if times[batch]["graph_median"] <= GRAPH_GAIN * times[batch]["median"]:
                paying.append(batch)
    engine.graph_batches = frozenset(paying)
    worst = min(results, key=lambda each: (each.passed, -each.num_missed, -each.score_difference))
    return Trial(worst.passed, asdict(worst), times, tuple(paying))


def image_ms(record: EngineRecord) -> float:
    """Milliseconds an image in the largest batch that was timed, the faster way; infinite where none was."""
    if not record.times_ms:
        return float("inf")
    batch = max(record.times_ms)
    times = record.times_ms[batch]
    return min(times["median"], times.get("graph_median", float("inf"))) / batch


def _each_of(engine: Engine, pixels: npt.NDArray[np.uint8], selftest: SelfTest) -> list[SelfTestResult]:
    """The self-test of every row of a batch that repeats its input."""
    boxes, scores, labels = engine.infer(pixels)
    rows = range(len(pixels))
    return [judged((boxes[i : i + 1], scores[i : i + 1], labels[i : i + 1]), selftest) for i in rows]


def _times_ms(engine: Engine, pixels: npt.NDArray[np.uint8]) -> list[float]:
    found = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        engine.infer(pixels)
        found.append(1e3 * (time.perf_counter() - started))
    return found[WARM_UP:]
