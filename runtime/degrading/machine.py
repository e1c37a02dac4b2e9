"""The state machine: from a state, signals and the time to the next state. Nothing else goes in or comes out.

Up: to the most severe level that any rule asks for, at once, as each rule has held for its own time. Down: one level at
a time, each after a recovery in which no rule asked for the present level. A relapse doubles the recovery, so that a
load which comes and goes makes ever fewer changes. The last level is final.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runtime.degrading.levels import LEVELS, LONGEST_RECOVERY_S, NORMAL, RECOVERY_S, RULES, STOP, Rule


@dataclass(frozen=True)
class Signal:
    """What was measured.

    Attributes:
        value: In the unit of the rules that read it.
        cause: The same for people, with names and limits.
    """

    value: float
    cause: str


@dataclass(frozen=True)
class RuleState:
    """What became of a rule.

    Attributes:
        is_asking: Whether it asks for its level.
        since_s: Since when the signal has been at its ``enter`` or beyond; ``None``: it is not.
    """

    is_asking: bool = False
    since_s: float | None = None


@dataclass(frozen=True)
class State:
    """Where the machine is.

    Attributes:
        level: Place in :data:`runtime.degrading.levels.LEVELS`.
        reason: Of the last change.
        changed_s: When that was; seconds of the caller's clock, as all times here.
        calm_s: Since when nothing asks for the present level; ``None``: something does.
        recovery_s: How long that must last.
        recovered_s: When it last went a level down; ``None``: never.
        rules: What became of each rule.
    """

    level: int = NORMAL
    reason: str = "start"
    changed_s: float = 0.0
    calm_s: float | None = None
    recovery_s: float = RECOVERY_S
    recovered_s: float | None = None
    rules: tuple[RuleState, ...] = (RuleState(),) * len(RULES)


def step(state: State, signals: Mapping[str, Signal], now_s: float, rules: Sequence[Rule] = RULES) -> State:
    """The next state.

    Args:
        state: The present one.
        signals: Measured now; what is missing changes nothing about the rules that read it.
        now_s: The time; never less than before.
        rules: The policy, always the same for one machine.
    """
    if state.level == STOP:
        return state
    told = tuple(
        _rule_step(rule, before, signals.get(rule.signal), now_s)
        for rule, before in zip(rules, state.rules, strict=True)
    )
    state = replace(state, rules=told)
    asking = [rule for rule, each in zip(rules, told, strict=True) if each.is_asking]
    wanted = max((rule.level for rule in asking), default=NORMAL)
    if wanted > state.level:
        cause = next(signals[rule.signal].cause for rule in asking if rule.level == wanted and rule.signal in signals)
        return _up(state, wanted, cause, now_s)
    if wanted == state.level:
        return replace(state, calm_s=None)
    calm_s = now_s if state.calm_s is None else state.calm_s
    if now_s - calm_s < state.recovery_s:
        return replace(state, calm_s=calm_s)
    reason = f"nothing asked for {LEVELS[state.level].name} for {now_s - calm_s:.0f} s"
    below = state.level - 1
    return replace(state, level=below, reason=reason, changed_s=now_s, calm_s=now_s, recovered_s=now_s)


def halted(state: State, reason: str, now_s: float) -> State:
    """The last level, whatever the rules say."""
    return state if state.level == STOP else replace(state, level=STOP, reason=reason, changed_s=now_s)


def _rule_step(rule: Rule, before: RuleState, signal: Signal | None, now_s: float) -> RuleState:
    if signal is None:
        return before
    if signal.value < rule.enter:
        return RuleState(before.is_asking and signal.value > rule.leave)
    since = now_s if before.since_s is None else before.since_s
    return RuleState(before.is_asking or now_s - since >= rule.hold_s, since)


def _up(state: State, level: int, reason: str, now_s: float) -> State:
    relapsed = state.recovered_s is not None and now_s - state.recovered_s < 2 * state.recovery_s
    recovery_s = min(LONGEST_RECOVERY_S, 2 * state.recovery_s) if relapsed else RECOVERY_S
    if state.level != NORMAL and not relapsed:
        recovery_s = state.recovery_s  # the same trouble goes on
    return replace(
        state, level=level, reason=reason, changed_s=now_s, calm_s=None, recovery_s=recovery_s, recovered_s=None
    )
