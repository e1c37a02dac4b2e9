"""Heartbeats: who waits for others answers, who is inside one call does not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from runtime.health.pulses import Pulses, beat, beside
from runtime.lanes import Lanes
from runtime.sources.clock import Clock
from runtime.sources.pipe import LookAhead

PATIENT_S = 30.0


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_thread_is_late_once_its_last_beat_is_older_than_allowed() -> None:
    time = [100.0]
    pulses = Pulses(lambda: time[0])
    with pulses.own("stage"):
        time[0] += 5
        assert pulses.ages_s() == {"stage": 5} and pulses.late(5) == {} and pulses.late(4.9) == {"stage": 5}
        beat()
        assert pulses.late(0) == {}
    time[0] += 1000
    assert pulses.ages_s() == {}  # who has ended need not answer


def test_of_threads_with_one_name_the_latest_counts() -> None:
    time, inside, leave = [0.0], threading.Event(), threading.Event()
    pulses = Pulses(lambda: time[0])

    def hang() -> None:
        with pulses.own("preparing"):
            inside.set()
            leave.wait(PATIENT_S)

    thread = in_thread(hang)
    assert inside.wait(PATIENT_S)
    time[0] = 7.0
    with pulses.own("preparing"):
        beat()
        assert pulses.ages_s() == {"preparing": 7.0}
    leave.set()
    thread.join(PATIENT_S)


def test_a_beat_of_a_thread_without_pulse_does_nothing_and_the_outer_pulse_comes_back() -> None:
    beat()
    time = [0.0]
    pulses = Pulses(lambda: time[0])
    with pulses.own("outer"):
        with pulses.own("inner"):
            time[0] = 3.0
            beat()
            assert pulses.ages_s() == {"outer": 3.0, "inner": 0.0}
        beat()
        assert pulses.ages_s() == {"outer": 0.0}


def test_a_further_thread_of_a_stage_answers_for_itself() -> None:
    pulses, inside, leave = Pulses(), threading.Event(), threading.Event()

    def receive() -> None:
        inside.set()
        leave.wait(PATIENT_S)

    with pulses.own("reading cam"):
        work = beside("receiving", receive)
    thread = in_thread(work)
    assert inside.wait(PATIENT_S) and list(pulses.ages_s()) == ["reading cam, receiving"]
    leave.set()
    thread.join(PATIENT_S)
    assert pulses.ages_s() == {} and beside("receiving", receive) is receive


def after(end: threading.Event, then: Callable[[], object]) -> None:
    def wait() -> None:
        assert end.wait(PATIENT_S)
        then()

    in_thread(wait)


def waits_without_being_late(wait: Callable[[threading.Event], object]) -> None:
    """``wait`` beats again and again by itself until the event is set."""
    beats, enough, end = [], threading.Event(), threading.Event()

    def clock() -> float:
        beats.append(1)
        if len(beats) >= 5:
            enough.set()
        return 0.0

    pulses = Pulses(clock)

    def work() -> None:
        with pulses.own("stage"):
            wait(end)

    thread = in_thread(work)
    assert enough.wait(PATIENT_S), "it does not beat while it waits"
    end.set()
    thread.join(PATIENT_S)


def test_who_waits_for_items_beats() -> None:
    lanes: Lanes[int] = Lanes(1, 1)

    def wait(end: threading.Event) -> None:
        after(end, lanes.close)
        assert list(lanes) == []

    waits_without_being_late(wait)


def test_who_waits_at_a_full_lane_beats() -> None:
    lanes: Lanes[int] = Lanes(1, 1)
    lanes.put(1)

    def wait(end: threading.Event) -> None:
        after(end, lambda: next(iter(lanes)))
        lanes.put(2)

    waits_without_being_late(wait)


def test_who_waits_for_bytes_of_a_pipe_beats() -> None:
    reading, writing = os.pipe()

    def wait(end: threading.Event) -> None:
        after(end, lambda: os.write(writing, b"x"))
        assert LookAhead(reading, threading.Event()).take(1) == b"x"

    waits_without_being_late(wait)
    os.close(reading)
    os.close(writing)


def test_a_pause_beats_however_long_it_is() -> None:
    waits_without_being_late(lambda end: Clock().wait(end, 3600.0))
