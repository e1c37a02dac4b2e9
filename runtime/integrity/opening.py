"""Opens the engines of a run, each after it has shown that it computes what it must."""

from __future__ import annotations

import logging
from functools import partial

from babelrs.bundle import Bundle, read_selftest, verify_files
from babelrs.errors import LimitMissedError
from babelrs.sensors import Sensor
from runtime.engines import open_engine
from runtime.integrity.guarded import CHECK_INTERVAL_S, Guard, GuardedEngine

SLOW_OWNED = ("int8",)
"""Precisions of graphs whose weights are not held by default where they can be checked. ONNX Runtime packs the weights
of INT8 convolutions when it loads them; unpacked they cost a fifth of the throughput (benchmarks.defences)."""
_LOGGER = logging.getLogger(__name__)


def open_guarded(
    bundle: Bundle,
    sensor: Sensor,
    name: str = "auto",
    threads: int = 0,
    check_interval_s: float | None = None,
    on_cpu: bool = False,
) -> GuardedEngine:
    """Open a sensor's engine, test it, and watch it from then on.

    Args:
        bundle: An opened, verified bundle.
        sensor: Which graph.
        name: As in :func:`runtime.engines.open_engine`.
        threads: CPU threads; 0 lets the engine choose.
        check_interval_s: Seconds of a CRC pass over the weights; 0: none; ``None``: what the graph's precision allows.
        on_cpu: As there.

    Raises:
        BabelRSError: The sensor is not in the bundle, or its graph or self-test is wrong.
        DeviceError: The engine cannot load the graph, or failed.
        LimitMissedError: The self-test missed its tolerance.
    """
    entry = bundle.manifest.entry(sensor)
    if check_interval_s is None:
        check_interval_s = 0.0 if entry.precision in SLOW_OWNED else CHECK_INTERVAL_S
    opening = partial(open_engine, bundle, sensor, name, threads, owned=check_interval_s > 0, on_cpu=on_cpu)
    engine, selftest = opening(), read_selftest(bundle, sensor)
    guard = Guard(sensor, entry, selftest, opening, partial(verify_files, bundle), check_interval_s)
    guarded = GuardedEngine(guard, engine)
    _require_selftest(guarded, guard)
    if not guarded.watched_bytes:
        what = "%s: the weights that %s holds have no CRC; the self-test watches them, every %g s"
        _LOGGER.info(what, sensor, guarded.name, guard.unwatched_interval_s)
    return guarded


def _require_selftest(guarded: GuardedEngine, guard: Guard) -> None:
    """Let no engine take a frame whose self-test missed.

    Raises:
        LimitMissedError: It missed its tolerance.
    """
    result = guarded.opening
    if result.passed:
        return
    what = (
        f"{guard.sensor}: a self-test missed its tolerance ({guarded.name}, {guarded.precision}): "
        f"{result.num_missed} of {result.num_expected} candidates missed, scores differ by "
        f"{result.score_difference:.2g} (limit {guard.selftest.score_tolerance:.2g})."
    )
    raise LimitMissedError(what, "Do not fly this bundle with this engine.")
