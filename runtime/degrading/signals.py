"""What the state machine reads, from what was measured."""

from __future__ import annotations

from runtime.degrading.levels import CRITICAL, HEAT, LAG, MEMORY
from runtime.degrading.machine import Signal
from runtime.health.device import DeviceState, Zone

BELOW_CRITICAL_C = 15.0
"""The limit of a zone that only says where it is critical, and the critical point of one that only has a limit."""


def signals_of(
    latency_ms: float, deadline_ms: float | None, device: DeviceState | None, most_c: float | None
) -> dict[str, Signal]:
    """All signals that can be had.

    Args:
        latency_ms: Of the last images, as :meth:`runtime.health.metrics.Metrics.lag_ms` has it.
        deadline_ms: What it is to be; ``None``: there is none.
        device: The latest readings, where there are any.
        most_c: Limit of every zone; ``None``: each zone's own.
    """
    signals = {}
    if deadline_ms is not None:
        text = f"images take {latency_ms:.0f} ms, the deadline is {deadline_ms:g} ms"
        signals[LAG] = Signal(latency_ms / deadline_ms, text)
    if device is None:
        return signals
    limits = [(zone, limit) for zone in device.zones if (limit := limit_of(zone, most_c)) is not None]
    points = [(zone, point) for zone in device.zones if (point := critical_of(zone, most_c)) is not None]
    signals.update({name: _hottest(pairs, what) for name, pairs, what in (
        (HEAT, limits, "the limit is"), (CRITICAL, points, "critical is"),
    ) if pairs})  # fmt: skip
    if device.memory_available_bytes is not None and device.memory_total_bytes:
        left = device.memory_available_bytes / device.memory_total_bytes
        signals[MEMORY] = Signal(1 - left, f"{device.memory_available_bytes >> 20} MiB of memory are left")
    return signals


def limit_of(zone: Zone, most_c: float | None) -> float | None:
    """Degrees a zone should not exceed: as asked for, else where the kernel slows down, else well below critical."""
    if most_c is not None:
        return most_c
    if zone.passive_c is not None:
        return zone.passive_c
    return None if zone.critical_c is None else zone.critical_c - BELOW_CRITICAL_C


def critical_of(zone: Zone, most_c: float | None) -> float | None:
    """Degrees at which the run ends: the zone's own, else well above what was asked for."""
    if zone.critical_c is not None:
        return zone.critical_c
    return None if most_c is None else most_c + BELOW_CRITICAL_C


def _hottest(pairs: list[tuple[Zone, float]], what: str) -> Signal:
    zone, limit = max(pairs, key=lambda pair: pair[0].celsius - pair[1])
    return Signal(zone.celsius - limit, f"{zone.name} is at {zone.celsius:.1f} C, {what} {limit:.1f} C")
