"""The budget holds in every minute, and what is urgent always finds some of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.links.budget import LEAST_BUDGET, PINGS_BYTES, SHARES, Budget, Window, packet_bytes


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


STEP = st.tuples(st.integers(0, 4), st.integers(50, 3000), st.floats(0, 40), st.floats(0, 40))


@given(st.lists(STEP, max_size=60), st.integers(LEAST_BUDGET, 20_000))
def test_in_no_minute_more_goes_out_than_the_budget_whenever_each_message_left(
    steps: list[tuple[int, int, float, float]], per_minute: int
) -> None:
    clock = Hand()
    budget = Budget(per_minute, clock)
    left: list[tuple[float, float, int]] = []  # from when to when, bytes
    for priority, size, pause, delay in steps:
        clock.now += pause
        if budget.allows(priority, size):
            budget.begin(size)
            begin = clock.now
            clock.now += delay
            budget.end(size)
            left.append((begin, clock.now, size))
    for begin, _, _ in left:  # the fullest minutes end as a message begins to leave
        inside = [size for began, ended, size in left if began <= begin and ended > begin - 60]
        assert sum(inside) <= per_minute - PINGS_BYTES


def test_lower_priorities_leave_room_for_what_is_urgent() -> None:
    budget = Budget(10_016, Hand())
    for priority in reversed(range(len(SHARES))):
        while budget.allows(priority, 100):
            budget.begin(100)
            budget.end(100)
        assert budget.last_minute == int(SHARES[priority] * 10_000) // 100 * 100
    assert not budget.allows(0, 100)


def test_bytes_are_free_again_a_minute_after_they_went() -> None:
    clock = Hand()
    budget = Budget(LEAST_BUDGET, clock)
    budget.begin(4000)
    clock.now += 100
    assert not budget.allows(0, 100), "it has not been answered yet"
    budget.end(4000)
    clock.now += 59.9
    assert not budget.allows(0, 100)
    clock.now += 0.2
    assert budget.allows(0, 4000) and budget.last_minute == 0


def test_without_a_budget_everything_goes() -> None:
    budget = Budget(0, Hand())
    budget.begin(10**9)
    assert budget.allows(4, 10**9) and budget.most(4) is None


@pytest.mark.parametrize(("size", "length_bytes"), [(10, 1), (124, 2), (16_400, 3)])
def test_packets_are_as_long_as_the_protocol_makes_them(size: int, length_bytes: int) -> None:
    """MQTT 3.1.1, 2.2.3 and 3.3: type, length of the rest, topic's length, topic, number, payload; PUBACK is 4."""
    assert packet_bytes("a/b", bytes(size)) == 1 + length_bytes + 2 + 3 + 2 + size + 4


def test_the_window_shrinks_on_a_slow_link_and_opens_on_a_fast_one() -> None:
    window = Window()
    for _ in range(10):
        window.answered(4.0, 500)
    assert window.num_bytes == Window.LEAST
    for _ in range(10_000):
        window.answered(0.1, 500)
    assert window.num_bytes == Window.MOST
    window.answered(1.0, 500)
    assert window.num_bytes == Window.MOST
