"""The watchdog is fed only while every stage answers: engines, sinks, sources and receivers that hang are noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from babelrs.images import Frame
from babelrs.sensors import Sensor
from runtime.engines import Outputs
from runtime.health.monitor import Monitor
from runtime.health.notify import Notifier
from runtime.health.watchdog import Watchdog
from runtime.pipeline import Detector, FrameResult
from runtime.raster import FrameRaster
from runtime.run import run_sources
from runtime.sources import Capture, Source
from runtime.sources.live import Received, Stream, StreamFault
from runtime.sources.supervised import SupervisedSource, Supervision
from tests.runtime.brightest import BrightestPixel, dot_entry
from tests.runtime.dots import dots_image
from tests.runtime.health.manager import PATIENT_S, Manager

WATCHDOG_S = 4.0
FRAME = Frame(dots_image(64, 64, [(20, 20, 250)]))


@dataclass
class Trap:
    """A call that hangs, once it is armed, until it is let go."""

    armed: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        if self.armed.is_set():
            assert self.let_go.wait(PATIENT_S)


@dataclass
class PacedSource:
    """Gives a frame every few milliseconds, or none at all once the trap in its read is armed."""

    trap: Trap
    pause_s: float = 0.02
    name: str = "camera"
    sensor: Sensor = Sensor.IR
    live: bool = True
    dropped: int = 0

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        number = 0
        while not stop.wait(self.pause_s):
            self.trap()
            yield Capture(FrameRaster(FRAME), "s", f"n{number}", self.sensor, number, "now", 1.0)
            number += 1

    def close(self) -> None:
        pass


@dataclass
class TrappedEngine(BrightestPixel):
    trap: Trap = field(default_factory=Trap)

    def infer(self, pixels: np.ndarray) -> Outputs:  # type: ignore[type-arg]
        self.trap()
        return super().infer(pixels)


@dataclass
class TrappedSink:
    trap: Trap
    pause_s: float = 0.0

    def write(self, result: FrameResult) -> None:
        time.sleep(self.pause_s)
        self.trap()

    def close(self) -> None:
        pass


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def is_alive(message: dict[str, str]) -> bool:
    return message.get("WATCHDOG") == "1"


def watched_run(
    manager: Manager, source: Source, engine: BrightestPixel, sink: TrappedSink, then: Callable[[], None]
) -> None:
    """Run under a watchdog; ``then`` is called once the manager was told that all is ready and alive."""
    stop, monitor = threading.Event(), Monitor()
    watchdog = Watchdog(monitor.pulses, Notifier(manager.address), lambda: monitor.has_begun, stop, WATCHDOG_S)
    detector = Detector(engine, dot_entry(Sensor.IR), Sensor.IR, 0.3, 2)
    arguments = ([source], {Sensor.IR: detector}, {Sensor.IR: [sink]}, stop)
    run = threading.Thread(target=run_sources, args=arguments, kwargs={"monitor": monitor})
    watchdog.start()
    run.start()
    try:
        before = manager.until(is_alive)
        assert before[0]["READY"] == "1" and not any(is_alive(message) for message in before[:-1])
        then()
    finally:
        stop.set()
        for trap in (sink.trap, getattr(engine, "trap", sink.trap), getattr(source, "trap", sink.trap)):
            trap.let_go.set()
        run.join(PATIENT_S)
        watchdog.close()
    assert not run.is_alive() and manager.until(lambda message: "STOPPING" in message)[-1] == {"STOPPING": "1"}


def starves_while_armed(manager: Manager, trap: Trap, who: str) -> None:
    """Once the manager is told who hangs, it is told nothing more, until the call comes back."""
    trap.armed.set()
    assert manager.until(lambda message: "no answer" in message.get("STATUS", ""))[-1]["STATUS"].endswith(who)
    manager._socket.settimeout(WATCHDOG_S)
    with pytest.raises(TimeoutError):
        manager._socket.recv(65536)
    trap.armed.clear()
    trap.let_go.set()
    manager.until(is_alive)


@pytest.mark.parametrize("where", ["source", "engine", "sink"])
def test_a_call_that_hangs_ends_the_watchdogs_food(where: str, manager: Manager) -> None:
    traps = {"source": Trap(), "engine": Trap(), "sink": Trap()}
    who = {"source": "reading camera", "engine": "inferring", "sink": "writing"}[where]
    engine = TrappedEngine(trap=traps["engine"])
    watched_run(
        manager,
        PacedSource(traps["source"]),
        engine,
        TrappedSink(traps["sink"]),
        lambda: starves_while_armed(manager, traps[where], who),
    )


def test_a_receiver_that_hangs_in_a_driver_ends_it_too(manager: Manager) -> None:
    trap = Trap()

    @dataclass
    class Driver:
        def receive(self) -> Received:
            trap()
            threading.Event().wait(0.02)
            return Received(FRAME, 1.0)

        def close(self) -> None:
            pass

    def connect(stop: threading.Event) -> Stream:
        return Driver()

    source = SupervisedSource("cam", Sensor.IR, "cam_", connect)
    then = lambda: starves_while_armed(manager, trap, "reading cam, receiving")  # noqa: E731
    try:
        watched_run(manager, source, BrightestPixel(), TrappedSink(Trap()), then)
    finally:
        trap.let_go.set()


def stays_alive(manager: Manager) -> None:
    """The manager hears so for far longer than a stage may be in one call: of half a second's rounds, many."""
    for _ in range(int(3 * WATCHDOG_S)):
        assert all("no answer" not in message.get("STATUS", "") for message in manager.until(is_alive))


def test_a_camera_that_is_gone_and_connected_to_again_is_no_reason_to_starve(manager: Manager) -> None:
    def connect(stop: threading.Event) -> Stream:
        raise StreamFault("no such camera")

    patient = Supervision(first_wait_s=2 * WATCHDOG_S)
    source = SupervisedSource("cam", Sensor.IR, "cam_", connect, patient)
    watched_run(manager, source, BrightestPixel(), TrappedSink(Trap()), lambda: stays_alive(manager))


def test_stages_that_wait_for_a_slow_sink_are_no_reason_to_starve(manager: Manager) -> None:
    """The sink takes a quarter of what it may; who reads waits for several of its writes."""
    sink = TrappedSink(Trap(), pause_s=WATCHDOG_S / 8)
    watched_run(manager, PacedSource(Trap()), BrightestPixel(), sink, lambda: stays_alive(manager))


def test_who_hangs_is_logged_once_and_that_it_is_back(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    trap = Trap()
    engine = TrappedEngine(trap=trap)
    then = lambda: starves_while_armed(manager, trap, "inferring")  # noqa: E731
    with caplog.at_level("WARNING", logger="runtime.health"):
        watched_run(manager, PacedSource(Trap()), engine, TrappedSink(Trap()), then)
    said = [record.message for record in caplog.records if record.message.startswith("inferring")]
    assert len(said) == 2 and "has not answered for" in said[0] and "answers again" in said[1]
