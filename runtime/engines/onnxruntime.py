"""Runs a graph with ONNX Runtime, on the GPU where its build has a provider that starts, else on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError, DeviceError
from babelrs.manifest import SensorEntry
from runtime.engines import Outputs
from runtime.engines.owned_weights import OwnedSession, open_owned
from runtime.integrity.weights import Region

OUTPUT_NAMES = ("boxes", "scores", "labels")
PROVIDERS = {
    "CUDAExecutionProvider": "on the GPU by its CUDA provider",
    # after CUDA: it builds engines of its own at every start, for minutes, that nobody has checked
    "TensorrtExecutionProvider": "on the GPU by its TensorRT provider",
    "CPUExecutionProvider": "on the CPU",
}
"""Providers in the order they are tried, and how they are spoken of."""
CPU_ONLY = {"CPUExecutionProvider": PROVIDERS["CPUExecutionProvider"]}
SETTINGS: Mapping[str, str] = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"}
"""Session settings. Threads spin while they wait for work of their own run, and sleep once it has ended. Sleeping
within a run, they cost 6 % of its time; spinning between runs, they take the cores from reading, postprocessing and
other graphs: two models in turn on two cores took 6.5 s, by these settings 4.6 s, without any spinning 4.7 s."""
_LOGGER = logging.getLogger(__name__)


class OnnxRuntimeEngine:
    """A graph in an ONNX Runtime session.

    Args:
        folder: The bundle's folder; the graph's external weights lie beside it.
        entry: The sensor's entry in the manifest.
        threads: Threads within an operator; 0: ONNX Runtime's choice, one a core.
        settings: Session settings by ONNX Runtime's names.
        providers: As :data:`PROVIDERS`, or some of them; the CPU's is always the last.
        owned: On the CPU, hold the weights where they can be checked; see :mod:`runtime.engines.owned_weights`.

    Attributes:
        is_on_cpu: Whether the session's first provider is the CPU's.
        weights: The memory that the session computes with; empty where it cannot be addressed.

    Raises:
        BabelRSError: The graph's inputs and outputs are not those of the manifest.
        DeviceError: ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime"

    def __init__(
        self,
        folder: Path,
        entry: SensorEntry,
        threads: int = 0,
        settings: Mapping[str, str] = SETTINGS,
        providers: Mapping[str, str] = PROVIDERS,
        owned: bool = False,
    ) -> None:
        self.precision = entry.precision
        self._path = folder / entry.graph
        started, self.reason = _start(self._path, threads, settings, providers, owned)
        self._held = started if isinstance(started, OwnedSession) else None  # lives as long as the session
        self._session = started if self._held is None else self._held.session
        self.is_on_cpu: bool = self._session.get_providers()[0] == "CPUExecutionProvider"
        self.weights: tuple[Region, ...] = () if self._held is None else self._held.regions
        self._check_signature(entry)

    def _check_signature(self, entry: SensorEntry) -> None:
        inputs, outputs = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        wanted = [entry.input_height, entry.input_width, entry.channels]
        fits = len(inputs) == 1 and inputs[0].type == "tensor(uint8)" and list(inputs[0].shape[1:]) == wanted
        if not fits or not set(OUTPUT_NAMES) <= set(outputs):
            given = [(item.name, item.type, item.shape) for item in inputs]
            what = (
                f"{self._path}: takes {given} and gives {outputs}, where uint8 (N, {wanted}) and {OUTPUT_NAMES} belong."
            )
            raise BabelRSError(what, "Make the bundle again with compress.quantize.")
        self._input = inputs[0].name

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`runtime.engines.Engine`."""
        try:
            boxes, scores, labels = self._session.run(list(OUTPUT_NAMES), {self._input: pixels})
        except Exception as error:  # ONNX Runtime's own exception types have no public base class
            what = f"{self._path}: ONNX Runtime failed on a batch of {pixels.shape} ({_first_line(error)})."
            raise DeviceError(what, "Try a smaller --batch; check the device's memory.") from error
        return boxes, scores, labels


def _start(
    path: Path, threads: int, settings: Mapping[str, str], providers: Mapping[str, str], owned: bool
) -> tuple[Any, str]:
    """A session by the first provider that starts, and why it was that one.

    Raises:
        DeviceError: Not even the CPU can load the graph.
    """
    import onnxruntime

    options = _new_options(threads, settings)
    listed = onnxruntime.get_available_providers()
    for provider in (name for name in providers if name in listed and name != "CPUExecutionProvider"):
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[provider, "CPUExecutionProvider"])
        except Exception as error:  # as above
            fault = _first_line(error)
        else:
            if session.get_providers()[0] == provider:  # a provider whose libraries are missing is left out silently
                return session, providers[provider]
            fault = "its libraries do not load"
        _LOGGER.warning("ONNX Runtime's %s does not start (%s); going on without it", provider, fault)
    if owned and (held := _owned(path, threads, settings)) is not None:
        return held, PROVIDERS["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        what = f"{path}: ONNX Runtime cannot load the graph ({_first_line(error)})."
        raise DeviceError(what, "Check the bundle with babelrs-verify, and the free memory.") from error
    return session, PROVIDERS["CPUExecutionProvider"]


def _new_options(threads: int, settings: Mapping[str, str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.load_model_format", "ONNX")  # else by name: .ort is another parser
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    options.log_severity_level = 3  # errors only; they are raised as well
    return options


def _owned(path: Path, threads: int, settings: Mapping[str, str]) -> OwnedSession | None:
    """A session with weights in our hands; ``None``, and a warning, where that cannot be had."""
    try:
        return open_owned(path, partial(_new_options, threads, settings))
    except Exception as error:  # ONNX Runtime's own, a full disk; a graph that is damaged fails again without
        _LOGGER.warning("%s: its weights cannot be checked in memory (%s)", path, _first_line(error))
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
