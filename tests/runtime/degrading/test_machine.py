"""Properties of the state machine under random signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.degrading.levels import (
    CRITICAL,
    FAULTS,
    HEAT,
    LAG,
    LEVELS,
    LONGEST_RECOVERY_S,
    MEMORY,
    NORMAL,
    RECOVERY_S,
    RULES,
    SAVING,
    STOP,
    Rule,
)
from runtime.degrading.machine import Signal, State, halted, step

few = settings(max_examples=30)  # of hours of flight each

CALM = {LAG: 0.1, HEAT: -40.0, CRITICAL: -60.0, FAULTS: 0.0, MEMORY: 0.3}
RANGES = {LAG: (0.0, 3.0), HEAT: (-20.0, 10.0), CRITICAL: (-30.0, 0.0), FAULTS: (0.0, 3.0), MEMORY: (0.5, 1.0)}
MILD = {LAG: (0.0, 3.0), HEAT: (-20.0, 10.0), CRITICAL: (-30.0, -10.0), FAULTS: (0.0, 3.0), MEMORY: (0.5, 0.9)}


def told(values: Mapping[str, float]) -> dict[str, Signal]:
    return {name: Signal(value, f"{name} is {value:.2f}") for name, value in values.items()}


def measured(ranges: Mapping[str, tuple[float, float]]) -> st.SearchStrategy[dict[str, float]]:
    """Some of the signals; those that are missing could not be had."""
    return st.fixed_dictionaries({}, optional={name: st.floats(*limits) for name, limits in ranges.items()})


def ticks(ranges: Mapping[str, tuple[float, float]]) -> st.SearchStrategy[list[tuple[int, dict[str, float]]]]:
    """Signals that hold for so many seconds."""
    return st.lists(st.tuples(st.integers(1, 90), measured(ranges)), min_size=1, max_size=25)


def played(story: list[tuple[int, dict[str, float]]], state: State | None = None) -> list[tuple[float, State]]:
    state, now, states = state or State(), 0.0, []
    for seconds, values in story:
        for _ in range(seconds):
            now += 1
            state = step(state, told(values), now)
            states.append((now, state))
    return states


@few
@given(ticks(RANGES))
def test_it_goes_down_one_level_at_a_time_and_only_after_a_recovery(story: list[tuple[int, dict[str, float]]]) -> None:
    before, changed = State(), 0.0
    for now, state in played(story):
        if state.level < before.level:
            assert before.level - state.level == 1 and now - changed >= RECOVERY_S
        if state.level != before.level:
            assert state.reason and state.changed_s == now
            changed = now
        assert RECOVERY_S <= state.recovery_s <= LONGEST_RECOVERY_S
        before = state


@few
@given(ticks(RANGES))
def test_it_goes_up_only_where_a_signal_was_beyond_its_limit_for_its_time(
    story: list[tuple[int, dict[str, float]]],
) -> None:
    seconds = [values for count, values in story for _ in range(count)]
    before = NORMAL
    for now, state in played(story):
        if state.level > before:
            assert any(held(rule, seconds[: int(now)]) for rule in RULES if rule.level == state.level)
        before = state.level


def held(rule: Rule, seconds: list[dict[str, float]]) -> bool:
    """Whether the signal, where it could be had, was at its limit or beyond in the last seconds, the last included."""
    if rule.signal not in seconds[-1]:
        return False
    span = 0
    for values in reversed(seconds):
        if values.get(rule.signal, rule.enter) < rule.enter:
            break
        span += 1
    return span - 1 >= rule.hold_s


@few
@given(ticks(MILD))
def test_after_trouble_and_a_long_calm_it_is_normal(story: list[tuple[int, dict[str, float]]]) -> None:
    states = played(story)
    now, state = states[-1]
    for _ in range(int(len(LEVELS) * LONGEST_RECOVERY_S / 10) + 1):
        now += 10
        state = step(state, told(CALM), now)
    assert state.level == NORMAL and not any(rule.is_asking for rule in state.rules)


@few
@given(
    ticks(RANGES), measured(RANGES), st.dictionaries(st.sampled_from(list(RANGES)), st.floats(0, 5)), st.integers(1, 60)
)
def test_from_one_state_worse_signals_never_give_a_lesser_level(
    story: list[tuple[int, dict[str, float]]], values: dict[str, float], more: dict[str, float], seconds: int
) -> None:
    now, state = played(story)[-1]
    worse = {name: value + more.get(name, 0.0) for name, value in values.items()}
    mild, severe = state, state
    for second in range(seconds):
        mild, severe = step(mild, told(values), now + second), step(severe, told(worse), now + second)
        assert severe.level >= mild.level or mild.level < state.level


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=300))
def test_while_everything_gets_worse_the_level_never_falls(increments: list[float]) -> None:
    value, now, state = 0.0, 0.0, State()
    for increment in increments:
        value, now = value + increment, now + 1
        worse = step(state, told({LAG: value, HEAT: 10 * value - 20}), now)
        assert worse.level >= state.level
        state = worse


@few
@given(ticks(RANGES), ticks(RANGES))
def test_the_last_level_is_final(
    before: list[tuple[int, dict[str, float]]], after: list[tuple[int, dict[str, float]]]
) -> None:
    state = halted(played(before)[-1][1], "the CPU engine failed too", 1e5)
    assert state.level == STOP
    assert {each.level for _, each in played(after, state)} == {STOP}


@few
@given(ticks(RANGES), st.integers(1, 600))
def test_what_cannot_be_measured_changes_no_mind(story: list[tuple[int, dict[str, float]]], seconds: int) -> None:
    now, state = played(story)[-1]
    for second in range(seconds):
        after = step(state, {}, now + second)
        assert after.rules == state.rules and after.level <= state.level
        state = after


def test_the_most_severe_wins_at_once() -> None:
    state = step(State(), told({**CALM, FAULTS: 1.0}), 1.0)
    assert LEVELS[state.level].name == "cpu" and state.reason == "faults is 1.00"


def test_between_its_limits_a_rule_keeps_its_mind() -> None:
    hot = played([(10, {**CALM, HEAT: 0.0})])[-1][1]
    assert hot.level == SAVING
    kept = played([(3000, {**CALM, HEAT: -2.9})], hot)[-1][1]
    assert kept.level == SAVING and played([(3000, {**CALM, HEAT: -2.9})])[-1][1].level == NORMAL
    assert played([(70, {**CALM, HEAT: -3.0})], replace(hot, calm_s=None))[-1][1].level == NORMAL


@settings(max_examples=15)
@given(st.integers(1, 400), st.integers(1, 400))
def test_no_rhythm_makes_more_than_a_change_a_recovery(on_s: int, off_s: int) -> None:
    story = [(on_s, {**CALM, LAG: 2.0}), (off_s, CALM)] * (3600 // (on_s + off_s) + 1)
    levels = [NORMAL, *(state.level for _, state in played(story)[:3600])]
    downs = sum(after < before for before, after in pairwise(levels))
    ups = sum(after > before for before, after in pairwise(levels))
    assert downs <= 3600 / RECOVERY_S and ups <= downs + len(LEVELS)
