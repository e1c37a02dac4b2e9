"""Engines that fail in stated ways, around one that is sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from babelrs.bundle import Bundle, read_selftest
from babelrs.errors import DeviceError
from babelrs.sensors import Sensor
from runtime.engines import Engine, Outputs
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.integrity.canary import OPENING_RUNS
from runtime.integrity.guarded import Guard, GuardedEngine
from runtime.integrity.weights import Region

SENSOR = Sensor.IR
Change = Callable[[int, Outputs], Outputs]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Broken:
    """Runs a sound engine and then changes what it gives, by the number of the run.

    Runs count from 0 behind those of the self-test when it is opened, which have negative numbers.
    """

    engine: OnnxRuntimeEngine
    change: Change = lambda run, outputs: outputs
    runs: int = -OPENING_RUNS
    name: str = "onnxruntime"
    precision: str = "fp32"
    reason: str = "for a test"
    is_on_cpu: bool = True
    weights: tuple[Region, ...] = ()

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        self.runs += 1
        return self.change(self.runs - 1, self.engine.infer(pixels))


@dataclass
class Bench:
    """A guarded engine and what a test needs to break it.

    Attributes:
        bundle: Whose graph.
        opened: What is opened, one after the other; after the last, sound engines.
        bad_files: What ``verify_files`` raises.
    """

    bundle: Bundle
    opened: list[Engine]
    check_interval_s: float = 10.0
    selftest_interval_s: float = 600.0
    bad_files: Exception | None = None
    clock: Clock = field(default_factory=Clock)
    num_opened: int = 0

    def sound(self) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(self.bundle.folder, self.bundle.manifest.entry(SENSOR), 1, owned=True)

    def _open(self) -> Engine:
        self.num_opened += 1
        return self.opened.pop(0) if self.opened else self.sound()

    def _verify(self) -> None:
        if self.bad_files is not None:
            raise self.bad_files

    def guarded(self) -> GuardedEngine:
        guard = Guard(
            SENSOR, self.bundle.manifest.entry(SENSOR), read_selftest(self.bundle, SENSOR), self._open, self._verify,
            self.check_interval_s, self.selftest_interval_s, clock=self.clock,
        )  # fmt: skip
        return GuardedEngine(guard, self._open())


def not_finite(run: int, outputs: Outputs) -> Outputs:
    return np.full_like(outputs[0], np.nan), outputs[1], outputs[2]


def constant(run: int, outputs: Outputs) -> Outputs:
    boxes, scores, labels = (np.zeros_like(output) for output in outputs)
    return boxes, scores, labels  # type: ignore[return-value]


def failing(run: int, outputs: Outputs) -> Outputs:
    raise DeviceError("The device is gone.", "")


def at(number: int, change: Change) -> Change:
    """The change from that run on."""
    return lambda run, outputs: change(run, outputs) if run >= number else outputs
