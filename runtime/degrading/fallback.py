"""An engine whose place ONNX Runtime on the CPU takes where it fails, or where the level says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from babelrs.errors import DeviceError
from runtime.degrading.degrader import Degrader
from runtime.engines import Engine, Outputs


class FallbackEngine:
    """Runs batches by the engine that was chosen, and by a CPU engine while the level asks for it.

    A batch at which the chosen engine fails is run again by the CPU engine, so that no image is lost. Back at a lesser
    level, the chosen engine is tried again. For one thread.

    Args:
        chosen: What was opened.
        open_cpu: Opens the CPU engine; called when it is needed first, and again after a recovery.
        degrader: Is told of faults.
    """

    def __init__(self, chosen: Engine, open_cpu: Callable[[], Engine], degrader: Degrader) -> None:
        self._chosen, self._open_cpu, self._degrader = chosen, open_cpu, degrader
        self._has_failed = False
        self._cpu: Engine | None = None

    @property
    def name(self) -> str:
        """Of the engine that runs now."""
        return (self._cpu or self._chosen).name

    @property
    def precision(self) -> str:
        """Of the engine that runs now."""
        return (self._cpu or self._chosen).precision

    @property
    def reason(self) -> str:
        """Why it is that one."""
        if self._cpu is None:
            return self._chosen.reason
        return f"{self._cpu.reason}, for {self._chosen.name}: {self._degrader.report.reason}"

    @property
    def is_on_cpu(self) -> bool:
        """Of the engine that runs now."""
        return (self._cpu or self._chosen).is_on_cpu

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`runtime.engines.Engine`."""
        level = self._degrader.level
        if not (level.on_cpu or level.stops):
            self._has_failed, self._cpu = False, None
        # A chosen engine that runs on the CPU anyway gives its place up only where it failed.
        if self._cpu is None and not self._has_failed and (self._chosen.is_on_cpu or not level.on_cpu):
            try:
                return self._chosen.infer(pixels)
            except DeviceError as error:
                self._has_failed = True
                self._degrader.fault(f"{self._chosen.name}: {error.what}")
        try:
            self._cpu = self._cpu or self._open_cpu()
            return self._cpu.infer(pixels)
        except DeviceError as error:
            self._degrader.halt(f"the CPU engine failed too: {error.what}")
            raise
