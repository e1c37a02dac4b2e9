"""Inference engines: what runs a bundle's graph."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime.arguments import ENGINE_CHOICES

Outputs = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]
_LOGGER = logging.getLogger(__name__)


class Engine(Protocol):
    """A graph of one sensor, ready to run."""

    @property
    def name(self) -> str:
        """What runs it, as ``--engine`` spells it."""

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16`` or ``int8``."""

    @property
    def reason(self) -> str:
        """Why it was taken, for people."""

    @property
    def is_on_cpu(self) -> bool:
        """Whether the CPU computes it."""

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Run a batch.

        Args:
            pixels: ``(N, H, W, C)``, of the graph's input size.

        Returns:
            Boxes ``(N, K, 5)`` in pixels of the input and radians, scores ``(N, K)`` descending, labels ``(N, K)``.

        Raises:
            DeviceError: The engine failed.
        """


def open_engine(
    bundle: Bundle,
    sensor: Sensor,
    name: str = "auto",
    threads: int = 0,
    cache: str | Path | None = None,
    owned: bool = False,
    on_cpu: bool = False,
) -> Engine:
    """Load a sensor's graph, and log which engine was taken and why.

    Args:
        bundle: An opened, verified bundle.
        sensor: Which graph.
        name: ``tensorrt``: the engine that ``babelrs-build`` made of exactly this bundle on this device, and checked;
            ``onnxruntime``: by the best of its providers that starts; ``auto``: the first where there is one, else the
            second.
        threads: CPU threads; 0 lets the engine choose.
        cache: Where engines are kept; ``None``: ``$BABELRS_CACHE``, else ``babelrs`` in the user's cache folder.
        owned: Hold the weights where they can be checked, with an engine that can; see its ``weights``.
        on_cpu: Take ONNX Runtime on the CPU, whatever ``name`` is.

    Raises:
        BabelRSError: The sensor is not in the bundle, the engine is unknown, or the graph is not what the manifest
            says, or reaches beyond the bundle's files.
        DeviceError: The engine cannot load the graph.
    """
    if name not in ENGINE_CHOICES:
        raise BabelRSError(f"Unknown engine {name!r}.", f"Use one of: {', '.join(ENGINE_CHOICES)}.")
    entry = bundle.manifest.entry(sensor)
    engine: Engine
    why_not = ""
    if name in ("auto", "tensorrt") and not on_cpu:
        try:
            engine = _open_tensorrt(bundle, sensor, cache, warn=name == "auto")
            _LOGGER.info("%s: engine tensorrt (%s): %s", sensor, engine.precision, engine.reason)
            return engine
        except DeviceError as error:
            if name == "tensorrt":
                raise
            why_not = error.what
    from runtime.engines.graph_check import check_graph
    from runtime.engines.onnxruntime import CPU_ONLY, PROVIDERS, OnnxRuntimeEngine

    check_graph(bundle, sensor)
    providers = CPU_ONLY if on_cpu else PROVIDERS
    engine = OnnxRuntimeEngine(bundle.folder, entry, threads, providers=providers, owned=owned)
    if why_not:
        engine.reason = f"{engine.reason}; not tensorrt: {why_not}"
    _LOGGER.info("%s: engine onnxruntime (%s): %s", sensor, engine.precision, engine.reason)
    return engine


def _open_tensorrt(bundle: Bundle, sensor: Sensor, folder: str | Path | None, warn: bool) -> Engine:
    """The engine that was built here. What costs least is looked at first: a machine without engines loads nothing.

    Raises:
        DeviceError: There is none, or it cannot be used; the latter is worth a warning where another takes its place.
    """
    from runtime.engines.cache import EngineCache

    cache = EngineCache(folder)
    try:
        records = [record for record in cache.records(bundle.digest, sensor) if record.kept and record.passed]
        if records:
            from runtime.engines.choice import open_cached

            return open_cached(bundle, sensor, cache, records)
    except DeviceError as error:
        if warn:
            _LOGGER.warning("%s: the engine that was built cannot be used: %s", sensor, error)
        raise
    what = " ".join([f"No engine for {sensor} of this bundle is in {cache.folder}.", *cache.removed])
    raise DeviceError(what, f"Build it here: babelrs-build {bundle.folder}.")
