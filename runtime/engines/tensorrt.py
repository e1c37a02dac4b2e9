"""Runs a plan with TensorRT or TensorRT-RTX."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import DeviceError
from babelrs.manifest import SensorEntry
from runtime.engines import Outputs
from runtime.engines.builder import INPUT, OUTPUTS, TYPES
from runtime.engines.cuda import Buffer, Cuda
from runtime.engines.tensorrt_api import Log, TensorRT

_LOGGER = logging.getLogger(__name__)
_DTYPES: dict[str, type[np.generic]] = {
    "pixels": np.uint8, "boxes": np.float32, "scores": np.float32, "labels": np.int32,
}  # fmt: skip
_REBUILD = "Run babelrs-build again; babelrs-run --engine onnxruntime needs no engine."


@dataclass
class _Lane:
    """An execution context in one optimization profile, which alone sets its batch size and owns its graphs."""

    context: Any
    least: int
    most: int
    batch: int = 0
    graphs: dict[int, int] = field(default_factory=dict)


class TensorRTEngine:
    """A deserialised plan with its memory.

    Every profile of the plan has a context of its own, so that a graph captured in one is not changed by the other.
    Calls may come from any thread, one at a time.

    Args:
        api: The module that built the plan, in the same version.
        cuda: The GPU.
        plan: The engine; trusted, since it is code.
        entry: The sensor's entry in the manifest.
        precision: ``fp32``, ``fp16`` or ``int8``.
        graph_batches: Batch sizes that are replayed as a CUDA graph.

    Raises:
        DeviceError: The plan does not load here, does not fit the manifest, or memory is short.
    """

    name = "tensorrt"
    is_on_cpu = False

    def __init__(
        self,
        api: TensorRT,
        cuda: Cuda,
        plan: bytes,
        entry: SensorEntry,
        precision: str,
        graph_batches: Collection[int] = (),
    ) -> None:
        self.precision, self.reason = precision, ""
        self.graph_batches = frozenset(graph_batches)
        self._cuda, self._entry, self._log = cuda, entry, Log(api)
        self._lock = threading.Lock()
        self._buffers: dict[str, Buffer] = {}
        self._lanes: list[_Lane] = []
        candidates = entry.max_detections
        self._shapes = {
            "pixels": (entry.input_height, entry.input_width, entry.channels),
            "boxes": (candidates, 5), "scores": (candidates,), "labels": (candidates,),
        }  # fmt: skip
        with cuda.current():
            self._runtime = api.module.Runtime(self._log.sink)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                what = f"{api.name} {api.version} cannot load the engine ({self._log.reason()})."
                raise DeviceError(what, _REBUILD)
            self._check_signature()
            self._open_lanes()

    def _check_signature(self) -> None:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        found = {name: (self._engine.get_tensor_dtype(name).name, _tail(self._engine, name)) for name in names}
        wanted = {name: (TYPES[name], self._shapes[name]) for name in TYPES}
        if found != wanted:
            raise DeviceError(f"The engine's tensors are {found}, where {wanted} belong.", _REBUILD)

    def _open_lanes(self) -> None:
        limits = [
            (int(least[0]), int(most[0]))
            for least, _, most in (
                self._engine.get_tensor_profile_shape(INPUT, index)
                for index in range(self._engine.num_optimization_profiles)
            )
        ]
        self._most = max(most for _, most in limits)
        for name, shape in self._shapes.items():
            num_bytes = self._most * int(np.prod(shape)) * np.dtype(_DTYPES[name]).itemsize
            self._buffers[name] = self._cuda.allocate(num_bytes)
        for index, (least, most) in enumerate(limits):
            context = self._engine.create_execution_context()
            if context is None:
                what = f"No memory to run the engine in ({self._log.reason()})."
                raise DeviceError(what, "Free memory, or build with a smaller --batch.")
            if index and not context.set_optimization_profile_async(index, self._cuda.stream):
                raise DeviceError(f"The engine's profile {index} cannot be set ({self._log.reason()}).", _REBUILD)
            for name, buffer in self._buffers.items():
                self._done(context.set_tensor_address(name, buffer.address), f"set the address of {name}")
            self._lanes.append(_Lane(context, least, most))
        self._cuda.synchronize()

    @property
    def most(self) -> int:
        """The largest batch that runs at once; larger ones run in parts."""
        return self._most

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        """Run a batch of any size; see :class:`runtime.engines.Engine`."""
        if pixels.shape[1:] != self._shapes["pixels"] or pixels.dtype != np.uint8:
            what = f"The engine takes uint8 (N, {self._shapes['pixels']}), not {pixels.dtype} {pixels.shape}."
            raise DeviceError(what, "Feed the graph's own input size.")
        parts = [self._infer_part(pixels[start : start + self._most]) for start in range(0, len(pixels), self._most)]
        if len(parts) == 1:
            return parts[0]
        empty = tuple(np.empty((0, *self._shapes[name]), _DTYPES[name]) for name in OUTPUTS)
        boxes, scores, labels = (np.concatenate(each) for each in zip(empty, *parts, strict=True))
        return boxes, scores, labels

    def _infer_part(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        given = len(pixels)
        with self._lock, self._cuda.current():
            lane = next((each for each in self._lanes if each.most >= given), self._lanes[-1])
            batch = max(given, lane.least)  # the rows beyond are whatever was there, and are not read back
            np.copyto(self._view(INPUT, given), pixels)
            self._set_batch(lane, batch)
            if batch in self.graph_batches and batch not in lane.graphs:
                self._capture(lane, batch)
            if batch in self.graph_batches:
                self._cuda.launch(lane.graphs[batch])
            else:
                self._enqueue(lane, batch)
            self._cuda.synchronize()
            boxes, scores, labels = (self._view(name, given).copy() for name in OUTPUTS)
        return boxes, scores, labels

    def _view(self, name: str, batch: int) -> npt.NDArray[Any]:
        shape, dtype = (batch, *self._shapes[name]), np.dtype(_DTYPES[name])
        host = self._buffers[name].host[: int(np.prod(shape)) * dtype.itemsize]
        return host.view(dtype).reshape(shape)

    def _set_batch(self, lane: _Lane, batch: int) -> None:
        if lane.batch == batch:
            return
        self._done(lane.context.set_input_shape(INPUT, (batch, *self._shapes[INPUT])), f"take a batch of {batch}")
        lane.batch = batch

    def _enqueue(self, lane: _Lane, batch: int) -> None:
        self._cuda.upload(self._buffers[INPUT], self._view(INPUT, batch).nbytes)
        self._done(lane.context.execute_async_v3(self._cuda.stream), f"run a batch of {batch}")
        for name in OUTPUTS:
            self._cuda.download(self._buffers[name], self._view(name, batch).nbytes)

    def _capture(self, lane: _Lane, batch: int) -> None:
        """Record a batch as a graph; where CUDA or the engine refuses, the batch goes on without, and says so."""
        self._enqueue(lane, batch)  # TensorRT settles what depends on the shape in a first run
        self._cuda.synchronize()
        try:
            if not _can_capture(lane.context, self._cuda.stream):
                raise DeviceError("the engine is still specialising its kernels", "")
            self._cuda.begin_capture()
            try:
                self._enqueue(lane, batch)
            finally:
                graph = self._cuda.end_capture()
            lane.graphs[batch] = graph
        except DeviceError as error:
            _LOGGER.warning("no CUDA graph for batches of %d: %s", batch, error.what)
            self.graph_batches -= {batch}

    def _done(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise DeviceError(f"The engine cannot {what} ({self._log.reason()}).", _REBUILD)

    def close(self) -> None:
        """Give its memory back; the engine cannot be used after."""
        with self._lock, self._cuda.current():
            for lane in self._lanes:
                for graph in lane.graphs.values():
                    self._cuda.free_graph(graph)
            self._lanes.clear()  # contexts before their engine, and that before its runtime
            self._engine = self._runtime = None
            for buffer in self._buffers.values():
                self._cuda.free(buffer)
            self._buffers.clear()


def _can_capture(context: Any, stream: int) -> bool:
    """Whether work on the stream may be recorded now; only TensorRT-RTX, which compiles as it runs, has doubts."""
    asked = getattr(context, "is_stream_capturable", None)
    return asked is None or bool(asked(stream))


def _tail(engine: Any, name: str) -> tuple[int, ...]:
    """A tensor's shape behind the batch."""
    return tuple(int(side) for side in engine.get_tensor_shape(name))[1:]
