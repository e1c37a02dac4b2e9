from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.lanes import Abandoned, Lanes


def filled(counts: list[int]) -> Lanes[tuple[int, int]]:
    lanes: Lanes[tuple[int, int]] = Lanes(len(counts), max([1, *counts]))
    for lane, count in enumerate(counts):
        for number in range(count):
            lanes.put((lane, number), lane)
        lanes.close(lane)
    return lanes


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_every_item_comes_once_and_a_lanes_order_is_kept(counts: list[int]) -> None:
    taken = list(filled(counts))
    assert sorted(taken) == [(lane, number) for lane, count in enumerate(counts) for number in range(count)]
    for lane in range(len(counts)):
        assert [number for each, number in taken if each == lane] == list(range(counts[lane]))


@given(st.lists(st.integers(0, 6), min_size=2, max_size=4))
def test_no_lane_waits_for_more_than_one_item_of_each_other(counts: list[int]) -> None:
    taken = [lane for lane, _ in filled(counts)]
    for lane, count in enumerate(counts):
        places = [-1, *(place for place, each in enumerate(taken) if each == lane)]
        gaps = [after - before - 1 for before, after in itertools.pairwise(places)]
        assert len(places) == count + 1 and all(gap <= len(counts) - 1 for gap in gaps)


def test_a_full_lane_holds_its_producer_and_no_other() -> None:
    lanes: Lanes[int] = Lanes(2, 2)
    put = []

    def produce() -> None:
        for number in range(5):
            lanes.put(number, 0)
            put.append(number)
        lanes.close(0)

    thread = threading.Thread(target=produce)
    thread.start()
    lanes.put(100, 1)
    lanes.close(1)
    thread.join(0.2)
    assert thread.is_alive() and lanes.depths == [2, 1] and put == [0, 1]
    assert sorted(lanes) == [0, 1, 2, 3, 4, 100]
    thread.join(5)
    assert not thread.is_alive()


def test_a_producers_error_is_raised_behind_its_items() -> None:
    lanes: Lanes[int] = Lanes(1, 3)
    lanes.put(1)
    lanes.close(0, ValueError("broken"))
    taken = []
    with pytest.raises(ValueError, match="broken"):
        taken += [item for item in lanes if taken.append(item) is None]  # type: ignore[func-returns-value]
    assert taken == [1]


def test_who_waits_at_a_full_lane_is_told_when_nobody_takes_any_more() -> None:
    lanes: Lanes[int] = Lanes(1, 1)
    lanes.put(1)
    ends: list[str] = []

    def produce() -> None:
        try:
            lanes.put(2)
        except Abandoned:
            ends.append("abandoned")

    thread = threading.Thread(target=produce)
    thread.start()
    lanes.abandon()
    thread.join(5)
    assert ends == ["abandoned"] and list(lanes) == []
    with pytest.raises(Abandoned):
        lanes.put(3)


def test_many_threads_lose_and_repeat_nothing() -> None:
    lanes: Lanes[tuple[int, int]] = Lanes(4, 3)

    def produce(lane: int) -> None:
        for number in range(500):
            lanes.put((lane, number), lane)
        lanes.close(lane)

    threads = [threading.Thread(target=produce, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    taken = list(lanes)
    assert len(taken) == 2000 and len(set(taken)) == 2000
    assert all([n for lane, n in taken if lane == each] == list(range(500)) for each in range(4))
