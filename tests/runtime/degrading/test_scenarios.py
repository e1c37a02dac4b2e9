"""Flights through heat, slow engines, faults and stalls: every level has its cause, and normal comes back."""

from __future__ import annotations

from itertools import pairwise

import pytest

from runtime.degrading.levels import LEVELS, LONGEST_RECOVERY_S, RECOVERY_S
from tests.runtime.degrading.simulator import CRITICAL_C, Flight, World, fly

HOUR = 3600
PLACES = {level.name: place for place, level in enumerate(LEVELS)}


def between(first: int, last: int, inside: float, outside: float):  # type: ignore[no-untyped-def]
    return lambda second: inside if first <= second < last else outside


def comes_down_one_by_one(flight: Flight) -> bool:
    places = [PLACES[name] for name in flight.levels]
    return all(after >= before - 1 for before, after in pairwise(places))


def test_a_calm_flight_changes_nothing() -> None:
    assert fly(World(), HOUR).changes == []


def test_an_engine_that_becomes_slow_costs_overlap_first_then_frames_and_no_more() -> None:
    flight = fly(World(slowdown=between(60, 1200, 3.0, 1.0)), HOUR)
    assert flight.steps[:2] == ["saving", "skipping"] and "cpu" not in flight.levels and "stop" not in flight.levels
    assert flight.changes[0].at_s < flight.changes[1].at_s and "the deadline is 100 ms" in flight.changes[0].reason
    assert flight.levels[-1] == "normal" and comes_down_one_by_one(flight)


def test_a_slow_engine_without_a_deadline_is_nobodys_fault() -> None:
    assert fly(World(slowdown=lambda second: 30.0), HOUR, deadline_ms=None).changes == []


def test_a_single_slow_moment_is_no_reason() -> None:
    assert fly(World(slowdown=lambda second: 9.0 if second % 30 < 4 else 1.0), HOUR).changes == []


def test_a_heat_wave_is_met_step_by_step_and_normal_comes_back() -> None:
    flight = fly(World(ambient_c=between(120, 1800, 55.0, 25.0)), 2 * HOUR)
    assert flight.steps[0] == "saving" and "tj-thermal is at" in flight.changes[0].reason
    assert "stop" not in flight.levels and max(flight.celsius) < CRITICAL_C
    assert flight.levels[-1] == "normal" and comes_down_one_by_one(flight)
    hot = fly(World(ambient_c=lambda second: 74.0), HOUR)
    assert {"saving", "skipping", "cpu"} <= set(hot.levels) and "stop" not in hot.levels


def test_where_nothing_cools_the_run_ends_before_the_kernel_ends_it() -> None:
    flight = fly(World(ambient_c=lambda second: 95.0), 2 * HOUR)
    assert flight.levels[-1] == "stop" and flight.celsius[-1] < CRITICAL_C
    assert "critical is 105.0 C" in flight.changes[-1].reason
    assert [PLACES[name] for name in flight.steps] == sorted(PLACES[name] for name in flight.steps)


def test_an_engine_fault_goes_to_the_cpu_at_once_and_the_engine_is_tried_again_after_a_while() -> None:
    flight = fly(World(fails=lambda second: second == 100, slowdown=lambda second: 0.5), HOUR)
    assert flight.steps == ["cpu", "skipping", "saving", "normal"]
    assert flight.changes[0].at_s == 100 and "the engine failed" in flight.changes[0].reason
    assert flight.changes[1].at_s >= 100 + RECOVERY_S and comes_down_one_by_one(flight)


def test_an_engine_that_always_fails_is_tried_ever_less_often() -> None:
    flight = fly(World(fails=lambda second: True, slowdown=lambda second: 0.5), 4 * HOUR)
    tries = [change.at_s for change in flight.changes if change.level == "cpu"]
    gaps = [after - before for before, after in pairwise(tries)]
    assert set(flight.steps) == {"cpu", "skipping"} and gaps == sorted(gaps) and gaps[-1] > 2 * gaps[0]


@pytest.mark.parametrize("period_s", [10, 30, 60, 120, 300])
def test_a_load_that_comes_and_goes_does_not_make_it_flap(period_s: int) -> None:
    world = World(slowdown=lambda second: 4.0 if second % period_s < period_s / 2 else 1.0)
    flight = fly(world, 4 * HOUR)
    downs = [b.at_s for a, b in pairwise(flight.changes) if PLACES[b.level] < PLACES[a.level]]
    assert len(flight.changes) <= 30 and all(after - before >= RECOVERY_S for before, after in pairwise(downs))


def test_where_doing_less_is_what_helps_it_comes_back_ever_later() -> None:
    """Skipping makes the deadline, saving misses it again: the time until it is tried grows to its limit."""
    flight = fly(World(slowdown=lambda second: 1.9), 4 * HOUR)
    gaps = [b.at_s - a.at_s for a, b in pairwise(flight.changes) if (a.level, b.level) == ("skipping", "saving")]
    assert gaps[0] >= RECOVERY_S and gaps == sorted(gaps) and gaps[-1] >= LONGEST_RECOVERY_S
    assert len(flight.changes) < 40


def test_a_sensor_that_stalls_is_no_reason_and_degrades_nothing() -> None:
    assert fly(World(camera_fps=between(300, 1500, 0.0, 10.0)), HOUR).changes == []
    slow = fly(World(camera_fps=between(200, 2000, 0.0, 10.0), slowdown=between(60, 200, 3.0, 1.0)), HOUR)
    assert slow.steps[-1] == "normal" and slow.changes[-1].at_s < 2000


def test_before_memory_runs_out_the_run_ends_with_a_reason() -> None:
    flight = fly(World(available=lambda second: max(0.01, 0.5 - second / 1000)), HOUR)
    assert flight.steps == ["stop"] and "MiB of memory are left" in flight.changes[0].reason
