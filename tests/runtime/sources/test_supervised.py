"""A live source comes back by itself, gives the newest frame, and never holds up who takes its frames."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.images import Frame
from babelrs.sensors import Sensor
from runtime.sources import Capture, Unusable
from runtime.sources.live import Connect, Received, Stream, StreamFault
from runtime.sources.supervised import SupervisedSource, Supervision
from tests.runtime.sources.builders import HandClock, usable

PATIENT_S = 20.0  # so long a test waits for another thread before it fails


class Script:
    """Connections that do what a test says: a frame for each number, a fault or an error raised, a call made."""

    def __init__(self, *connections: list[int | Exception | Callable[[], object]] | Exception) -> None:
        self._connections = iter(connections)
        self.opened = self.closed = 0

    def __call__(self, stop: threading.Event) -> Stream:
        items = next(self._connections, None)
        if items is None:  # the script is over: nothing more until the source is closed
            stop.wait(PATIENT_S)
            raise StreamFault("over")
        if isinstance(items, Exception):
            raise items
        self.opened += 1
        return _Scripted(self, iter(items))


class _Scripted:
    def __init__(self, script: Script, items: Iterator[int | Exception | Callable[[], object]]) -> None:
        self._script = script
        self._items = items

    def receive(self) -> Received:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, int):
                return Received(Frame(np.full((2, 2), item, np.uint8)), 1.5)
            item()
        raise StreamFault("the stream ended")

    def close(self) -> None:
        self._script.closed += 1


def source(connect: Connect, hand: HandClock, supervision: Supervision | None = None) -> SupervisedSource:
    return SupervisedSource("cam", Sensor.IR, "cam_", connect, supervision, hand.clock, chance=lambda: 0.5)


class Gate:
    """Lets the connection's thread and the test go by turns."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self) -> None:
        assert self._event.wait(PATIENT_S)

    def open(self) -> None:
        self._event.set()


def value(item: Capture | Unusable) -> int:
    (capture,) = usable([item])
    return int(capture.raster.read(0, 0, 1, 1).pixels[0, 0])


def test_pauses_grow_to_a_limit_and_are_jittered() -> None:
    supervision = Supervision(first_wait_s=0.5, factor=2, longest_wait_s=5, jitter=0.2)
    assert [supervision.wait_s(attempt, 0.5) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]
    assert supervision.wait_s(10_000, 0.5) == 5
    assert supervision.wait_s(3, 0.0) == pytest.approx(1.6) and supervision.wait_s(3, 1.0) == pytest.approx(2.4)


def test_a_wall_clock_that_jumps_back_changes_time_stamps_and_nothing_else() -> None:
    hand, end, years = HandClock(), Gate(), iter([2e9, 1e9, 1.5e9, 0.0, 0.0])

    def later() -> None:
        hand.time += 1.0

    script = Script([1, later, 2, later, end.wait])
    jumping = replace(hand.clock, now=lambda: next(years))
    live = SupervisedSource("cam", Sensor.IR, "cam_", script, None, jumping, chance=lambda: 0.5)
    stop, taken = threading.Event(), []
    for item in live.captures(stop):
        taken.append(item)
        if value(item) == 2:
            stop.set()
    live.close()
    end.open()
    captures = usable(taken)
    stamps = [capture.time for capture in captures]
    assert stamps == sorted(stamps, reverse=True), "the second frame's stamp lies before the first's"
    assert [capture.offset_s for capture in captures][-1] in (0.0, 1.0)  # the first may have been replaced
    assert script.opened == 1, "the jump was taken for a stall"


def test_it_connects_again_until_frames_come_and_says_each_cause_once(caplog: pytest.LogCaptureFixture) -> None:
    refused, silent = StreamFault("refused"), StreamFault("no answer")
    hand = HandClock()

    def later() -> None:
        hand.time += 3.0

    end = Gate()
    script = Script(refused, refused, silent, refused, [1, later, 2, end.wait])
    live = source(script, hand)
    stop = threading.Event()
    with caplog.at_level(logging.INFO, logger="runtime"):
        for item in live.captures(stop):
            if value(item) == 2:
                stop.set()
        live.close()
        end.open()
    assert live._thread is not None
    live._thread.join(PATIENT_S)
    assert hand.waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert [record.getMessage() for record in caplog.records] == [
        "cam: refused; connecting again until it is back",
        "cam: no answer; connecting again until it is back",
        "cam: back after 3.8 s, attempt 5",
    ]
    assert script.opened == script.closed == 1


def test_pauses_begin_small_again_only_after_a_steady_time() -> None:
    hand = HandClock()

    def later() -> None:
        hand.time += 3.0

    script = Script([1], [2], [3, later, 4], [5])
    live = source(script, hand)
    stop = threading.Event()
    for item in live.captures(stop):
        if value(item) == 5:
            stop.set()
    live.close()
    assert hand.waits[:3] == [0.25, 0.5, 0.25]  # connections that break at once are flapping, and count on


def test_the_newest_frame_wins_and_those_it_replaces_are_counted() -> None:
    taken, filled = Gate(), Gate()
    script = Script([0, taken.wait, 1, 2, 3, filled.open])
    live = source(script, HandClock())
    captures = live.captures(threading.Event())
    first = next(captures)
    taken.open()
    filled.wait()
    last = next(captures)
    assert (value(first), value(last)) == (0, 3)
    assert (first.sequence, last.sequence) == (0, 3)  # the gap tells of the frames that were dropped
    assert live.dropped == 2 and live.health.received == 4
    (capture,) = usable([last])
    assert capture.name == "cam_000003" and capture.source == "cam" and capture.read_ms == 1.5
    assert capture.time == "2020-09-13T12:43:20.000+00:00"
    captures.close()
    live.close()


def test_health_tells_what_happens() -> None:
    connected, look = Gate(), Gate()
    hand = HandClock()
    script = Script(StreamFault("refused"), [7, connected.open, look.wait])
    live = source(script, hand)
    before = live.health
    assert (before.connected, before.attempts, before.frame_age_s, before.last_fault) == (False, 0, None, None)
    captures = live.captures(threading.Event())
    next(captures)
    connected.wait()
    hand.time += 1.5
    health = live.health
    assert (health.connected, health.attempts, health.connections) == (True, 2, 1)
    assert (health.last_fault, health.received, health.frame_age_s) == ("refused", 1, 1.5)
    look.open()
    live.close()


@pytest.mark.parametrize("blocked", ["connecting", "receiving"])
def test_stopping_does_not_wait_for_a_connection_that_hangs(blocked: str) -> None:
    hangs, never, stop = Gate(), threading.Event(), threading.Event()

    def hang() -> None:
        hangs.open()
        never.wait()

    def connect(closing: threading.Event) -> Stream:
        if blocked == "connecting":
            hang()
        return Script([0, hang])(closing)

    live = source(connect, HandClock())
    items = []

    def consume() -> None:
        items.extend(live.captures(stop))
        live.close()

    consumer = threading.Thread(target=consume)
    consumer.start()
    hangs.wait()
    stop.set()
    consumer.join(PATIENT_S)
    assert not consumer.is_alive() and not never.is_set()  # it ended although the connection still hangs
    assert len(items) <= 1
    never.set()


def test_stopping_ends_a_long_pause() -> None:
    paused = Gate()

    class Pausing(HandClock):
        def _wait(self, stop: threading.Event, seconds: float) -> bool:
            paused.open()
            return stop.wait(3600)

    live = source(Script(StreamFault("refused")), Pausing())
    stop = threading.Event()
    consumer = threading.Thread(target=lambda: list(live.captures(stop)))
    consumer.start()
    paused.wait()
    stop.set()
    consumer.join(PATIENT_S)
    live.close()
    assert not consumer.is_alive() and live._thread is not None and not live._thread.is_alive()


@pytest.mark.parametrize("error", [BabelRSError("no GStreamer.", "Install it."), ZeroDivisionError("a defect")])
def test_what_no_retry_helps_against_ends_it_after_the_frame_that_was_there(error: Exception) -> None:
    live = source(Script([4, error]), HandClock())
    captures = live.captures(threading.Event())
    assert value(next(captures)) == 4
    with pytest.raises(type(error), match=str(error)):
        next(captures)
    live.close()


def test_frames_nobody_took_are_let_go() -> None:
    frames: list[weakref.ref[object]] = []
    done = Gate()

    class Endless:
        def receive(self) -> Received:
            if len(frames) == 200:
                done.open()
                threading.Event().wait(0.05)
                raise StreamFault("the stream ended")
            pixels = np.zeros((64, 64), np.uint8)
            frames.append(weakref.ref(pixels))
            return Received(Frame(pixels), 0.0)

        def close(self) -> None: ...

    live = source(lambda stop: Endless(), HandClock())
    captures = live.captures(threading.Event())
    first = next(captures)
    done.wait()
    gc.collect()
    assert sum(frame() is not None for frame in frames) <= 3  # the one in hand, the one in the slot, the one coming
    assert live.dropped >= 197 and first.sequence < 200
    captures.close()
    live.close()
