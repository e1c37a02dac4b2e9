"""Inference engines: what runs a bundle's graph."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.arguments import ENGINE_CHOICES

Outputs = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]


class Engine(Protocol):
    """A graph of one sensor, ready to run."""

    @property
    def name(self) -> str:
        """What runs it, as ``--engine`` spells it."""

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16`` or ``int8``."""

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Run a batch.

        Args:
            pixels: ``(N, H, W, C)``, of the graph's input size.

        Returns:
            Boxes ``(N, K, 5)`` in pixels of the input and radians, scores ``(N, K)`` descending, labels ``(N, K)``.

        Raises:
            DeviceError: The engine failed.
        """


def open_engine(bundle: Bundle, sensor: Sensor, name: str = "auto", threads: int = 0) -> Engine:
    """Load a sensor's graph.

    Args:
        bundle: An opened, verified bundle.
        sensor: Which graph.
        name: ``auto`` (the best there is) or an engine's name.
        threads: CPU threads; 0 lets the engine choose.

    Raises:
        BabelRSError: The sensor is not in the bundle, the engine is unknown, or the graph is not what the manifest
            says.
        DeviceError: The engine cannot load the graph.
    """
    if name not in ENGINE_CHOICES:
        raise BabelRSError(f"Unknown engine {name!r}.", f"Use one of: {', '.join(ENGINE_CHOICES)}.")
    from runtime.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle.folder, bundle.manifest.entry(sensor), threads)
