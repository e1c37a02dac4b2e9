"""An engine that is watched: nothing that failed a check leaves it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.bundle import SelfTest
from babelrs.errors import BabelRSError, DeviceError
from babelrs.manifest import SensorEntry
from babelrs.sensors import Sensor
from runtime.engines import Engine, Outputs
from runtime.integrity.canary import MISSED, Canary
from runtime.integrity.counters import Counters
from runtime.integrity.outputs import Sameness, output_fault
from runtime.integrity.weights import WeightCheck
from runtime.selftest import SelfTestResult

SELFTEST_INTERVAL_S, UNWATCHED_INTERVAL_S = 600.0, 30.0
CHECK_INTERVAL_S = 10.0
_LOGGER = logging.getLogger(__name__)
_RESTART = "Restart; if it comes again, fetch the bundle again and check the device's memory."


@dataclass(frozen=True)
class Guard:
    """What an engine is watched with.

    Attributes:
        sensor: Whose engine.
        entry: The sensor's entry in the manifest.
        selftest: A known input and what it must give.
        open_engine: Opens the engine from its files.
        verify_files: Raises :class:`BabelRSError` where a file is not as it was made.
        check_interval_s: Seconds of a CRC pass over the weights; 0: none.
        selftest_interval_s: Seconds between self-tests.
        unwatched_interval_s: The same where no CRC watches the weights.
        clock: Seconds that only grow.
    """

    sensor: Sensor
    entry: SensorEntry
    selftest: SelfTest
    open_engine: Callable[[], Engine]
    verify_files: Callable[[], None]
    check_interval_s: float = CHECK_INTERVAL_S
    selftest_interval_s: float = SELFTEST_INTERVAL_S
    unwatched_interval_s: float = UNWATCHED_INTERVAL_S
    clock: Callable[[], float] = time.monotonic


class GuardedEngine:
    """A :class:`runtime.engines.Engine` that checks its weights, its outputs and itself, for one thread.

    Before a batch the CRC of the weights goes on, and every so often the self-test runs, which must give to the bit
    what it gave when the engine was opened; see :mod:`runtime.integrity.canary`. After it the outputs are checked. On a
    fault the engine is opened again from verified files, passes the self-test, and the batch runs once more.

    Args:
        guard: How.
        engine: Opened by the guard's ``open_engine``; runs its self-test, whose result is left to the caller.

    Attributes:
        counters: What the checks did.

    Raises:
        DeviceError: The engine failed.
    """

    def __init__(self, guard: Guard, engine: Engine) -> None:
        self._guard = guard
        self.counters = Counters(selftests=1)
        self._sameness = Sameness()
        self._passes_before, self._has_said = 0, False
        self._take(engine)

    @property
    def name(self) -> str:
        """What runs the graph."""
        return self._engine.name

    @property
    def precision(self) -> str:
        """The engine's."""
        return self._engine.precision

    @property
    def reason(self) -> str:
        """Why the engine was taken."""
        return self._engine.reason

    @property
    def is_on_cpu(self) -> bool:
        """The engine's."""
        return self._engine.is_on_cpu

    @property
    def opening(self) -> SelfTestResult:
        """Of the self-test when the engine was opened."""
        return self._canary.opening

    @property
    def repeats(self) -> bool:
        """Whether the engine gives the same to the bit for the same, so that its self-test must too."""
        return self._canary.repeats

    @property
    def watched_bytes(self) -> int:
        """Bytes of weights that the CRC covers; 0 where it is off, or the engine's memory cannot be addressed."""
        return 0 if self._weights is None else self._weights.num_bytes

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`runtime.engines.Engine`.

        Raises:
            DeviceError: The outputs fail a check even after the engine was opened again, or it cannot be.
        """
        if fault := self._fault_before():
            self._reload(fault)
        outputs, fault = self._run(pixels)
        if fault:
            self.counters.faults += 1
            self._reload(fault)
            outputs, fault = self._run(pixels)
        if outputs is None or fault:
            self.counters.faults += 1
            raise DeviceError(f"{self._guard.sensor}: {fault}, again after the engine was opened anew.", _RESTART)
        return outputs

    def _fault_before(self) -> str:
        """What the CRC or a self-test that is due finds; empty where all is well."""
        damaged = None if self._weights is None else self._weights.step()
        if self._weights is not None:
            self.counters.passes = self._passes_before + self._weights.passes
        if damaged is not None:
            self.counters.mismatches += 1
            return f"the CRC of the weights {damaged.name!r} changed within the last {self._guard.check_interval_s:g} s"
        guard = self._guard
        interval_s = guard.unwatched_interval_s if self._weights is None else guard.selftest_interval_s
        if guard.clock() - self._tested_s < interval_s:
            return ""
        fault = self._selftest_fault()
        self.counters.faults += bool(fault)
        return fault

    def _run(self, pixels: npt.NDArray[np.uint8]) -> tuple[Outputs | None, str]:
        """Outputs, and what is wrong with them in words."""
        try:
            outputs = self._engine.infer(pixels)
        except DeviceError as error:
            return None, f"the engine failed ({error.what})"
        fault = output_fault(outputs, self._guard.entry, len(pixels))
        if not fault and self._sameness.suspect(pixels, outputs):
            fault = self._selftest_fault() and "the outputs are the same whatever the input"
            self._sameness.acquit()
        return outputs, fault

    def _selftest_fault(self) -> str:
        """What is wrong with the self-test, in words; empty where it is as it was."""
        self.counters.selftests += 1
        self._tested_s = self._guard.clock()
        try:
            return self._canary.fault()
        except DeviceError as error:
            return f"the engine failed its self-test ({error.what})"

    def _reload(self, cause: str) -> None:
        """Open the engine again from verified files.

        Raises:
            DeviceError: The files are bad too, the engine cannot be opened, or it misses its self-test.
        """
        _LOGGER.warning("%s: %s; opening the engine again", self._guard.sensor, cause)
        try:
            self._guard.verify_files()
            self._release()
            self._take(self._guard.open_engine())
        except (BabelRSError, OSError) as error:
            what = f"{self._guard.sensor}: {cause}, and the engine cannot be opened again ({error})."
            raise DeviceError(what, _RESTART) from error
        self.counters.selftests += 1
        if not self.opening.passed:
            what = f"{self._guard.sensor}: {cause}, and of the engine that was opened again, {MISSED}."
            raise DeviceError(what, _RESTART)
        self.counters.reloads += 1

    def _release(self) -> None:
        """Give the memory of an engine on a GPU back: two may not fit."""
        if (close := getattr(self._engine, "close", None)) is not None:
            close()

    def _take(self, engine: Engine) -> None:
        self._engine, self._canary = engine, Canary(engine, self._guard.selftest)
        if not (self.repeats or self._has_said):
            what = "%s: %s does not repeat itself to the bit; only tolerances judge its self-test in flight"
            _LOGGER.info(what, self._guard.sensor, engine.name)
            self._has_said = True
        self._tested_s = self._guard.clock()
        self._passes_before = self.counters.passes
        regions, interval_s = getattr(engine, "weights", ()), self._guard.check_interval_s
        self._weights = WeightCheck(regions, interval_s, self._guard.clock) if regions and interval_s else None
