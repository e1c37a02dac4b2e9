"""A device and a camera for tests of degrading: warms up with the work it does, takes time, and fails as it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.degrading.degrader import Degrader
from runtime.degrading.levels import LEVELS
from runtime.degrading.signals import signals_of
from runtime.health.device import DeviceState, Zone

DEADLINE_MS = 100.0
PASSIVE_C, CRITICAL_C = 90.0, 105.0
GIB = 1 << 30


@dataclass
class Change:
    """A change of level."""

    at_s: int
    level: str
    reason: str


@dataclass
class World:
    """What goes on outside, by the second.

    Attributes:
        ambient_c: Temperature around the device.
        slowdown: What the engine takes, times the usual.
        camera_fps: Frames a second; 0: it is gone.
        fails: Whether the chosen engine fails at the next batch.
        available: Share of the memory that is free.
    """

    ambient_c: Callable[[int], float] = lambda second: 25.0
    slowdown: Callable[[int], float] = lambda second: 1.0
    camera_fps: Callable[[int], float] = lambda second: 10.0
    fails: Callable[[int], bool] = lambda second: False
    available: Callable[[int], float] = lambda second: 0.5


@dataclass
class Flight:
    """What came of a simulation.

    Attributes:
        levels: Name of the level in every second.
        celsius: Temperature in every second.
        changes: In order.
    """

    levels: list[str] = field(default_factory=list)
    celsius: list[float] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def steps(self) -> list[str]:
        """The levels in the order in which they were taken."""
        return [change.level for change in self.changes]


@dataclass
class Device:
    """Takes 45 ms an image, 4 times as long on the CPU; heats up by its work with a time constant of two minutes."""

    celsius: float = 50.0
    work_ms: float = 45.0

    def latency_ms(self, world: World, degrader: Degrader, second: int) -> float:
        level, fps = degrader.level, world.camera_fps(second)
        if not fps:
            return 0.0
        each = self.work_ms * world.slowdown(second) * (4 if level.on_cpu else 1)
        each *= 1 if level.overlap_factor == 1 else 0.8
        waits = 1.8 if level.stride == 1 else 1.0  # a frame waits for the one before it, unless it is taken alone
        self._warm(world.ambient_c(second), min(1.0, fps * each / 1e3) / level.stride, 8 if level.on_cpu else 20)
        return each * waits

    def _warm(self, ambient_c: float, load: float, watts: float) -> None:
        settled = ambient_c + 20 + 2 * watts * load
        self.celsius += (settled - self.celsius) / 120


def fly(world: World, seconds: int, deadline_ms: float | None = DEADLINE_MS) -> Flight:
    """Simulate, second by second, through the same signals and machine as on board."""
    time, flight, device = [0.0], Flight(), Device()
    degrader = Degrader(lambda: time[0])
    known = degrader.level.name
    for second in range(seconds):
        time[0] = float(second)
        if world.fails(second) and not degrader.level.on_cpu:
            degrader.fault("the engine failed")
        latency_ms = device.latency_ms(world, degrader, second)
        state = DeviceState(
            zones=(Zone("tj-thermal", device.celsius, PASSIVE_C, CRITICAL_C), Zone("soc-thermal", device.celsius - 5)),
            memory_available_bytes=int(8 * GIB * world.available(second)),
            memory_total_bytes=8 * GIB,
        )
        degrader.observe(signals_of(latency_ms, deadline_ms, state, None))
        if degrader.level.name != known:
            known = degrader.level.name
            flight.changes.append(Change(second, known, degrader.report.reason))
        flight.levels.append(known)
        flight.celsius.append(device.celsius)
        if LEVELS[-1].name == known:
            break
    return flight
