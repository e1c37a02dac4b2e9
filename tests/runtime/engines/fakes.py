"""A GPU and a TensorRT that keep the rules of the real ones, on the CPU.

The GPU's memory is its own, and what is enqueued happens when the stream is waited for, not before. The engine is the
graph in ONNX Runtime, which reads and writes that memory at the addresses it was given.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from babelrs.errors import DeviceError
from runtime.engines.cuda import Buffer, Gpu
from runtime.engines.tensorrt_api import TensorRT

FILLING = 0xAA
"""What memory holds that nobody has written to."""
DTYPES = {"pixels": np.uint8, "boxes": np.float32, "scores": np.float32, "labels": np.int32}
TRT_DTYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(int32)": "INT32", "tensor(int64)": "INT64"}


class FakeCuda:
    """Memory and one stream; ``log`` lists what was enqueued or asked for."""

    def __init__(self, integrated: bool = False, name: str = "Orin", free: int = 8 << 30) -> None:
        self.gpu = Gpu(name, "8.7", 8, integrated, 8 << 30)
        self.stream = 77
        self.log: list[str] = []
        self.memory: dict[int, npt.NDArray[np.uint8]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.refuse_capture = False
        self.depth = 0
        self._free = free
        self._queue: list[Callable[[], None]] = []
        self._recording: list[Callable[[], None]] | None = None
        self._next = 4096

    @contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def free_bytes(self) -> int:
        return self._free

    def allocate(self, num_bytes: int) -> Buffer:
        assert self.depth > 0
        host = np.full(num_bytes, FILLING, np.uint8)
        address, self._next = self._next, self._next + num_bytes + 4096
        self.memory[address] = host if self.gpu.integrated else np.full(num_bytes, FILLING, np.uint8)
        return Buffer(host, address, self.gpu.integrated)

    def free(self, buffer: Buffer) -> None:
        del self.memory[buffer.address]

    def upload(self, buffer: Buffer, num_bytes: int) -> None:
        if not buffer.mapped:
            self.enqueue("upload", lambda: self._copy(self.memory[buffer.address], buffer.host, num_bytes))

    def download(self, buffer: Buffer, num_bytes: int) -> None:
        if not buffer.mapped:
            self.enqueue("download", lambda: self._copy(buffer.host, self.memory[buffer.address], num_bytes))

    @staticmethod
    def _copy(to: npt.NDArray[np.uint8], source: npt.NDArray[np.uint8], num_bytes: int) -> None:
        to[:num_bytes] = source[:num_bytes]

    def enqueue(self, name: str, work: Callable[[], None]) -> None:
        assert self.depth > 0, f"{name} without a current context"
        self.log.append(name)
        (self._queue if self._recording is None else self._recording).append(work)

    @property
    def capturing(self) -> bool:
        return self._recording is not None

    def synchronize(self) -> None:
        assert not self.capturing
        self.log.append("synchronize")
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def begin_capture(self) -> None:
        if self.refuse_capture:
            raise DeviceError("cuStreamBeginCapture_v2 failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.", "")
        self._recording = []
        self.log.append("begin_capture")

    def end_capture(self) -> int:
        assert self._recording is not None
        handle = 1000 + len(self.graphs)
        self.graphs[handle], self._recording = self._recording, None
        self.log.append("end_capture")
        return handle

    def launch(self, graph: int) -> None:
        for work in self.graphs[graph]:
            self._queue.append(work)
        self.log.append("launch")

    def free_graph(self, graph: int) -> None:
        del self.graphs[graph]


class FakeContext:
    """An execution context: one profile, one shape, addresses by name."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._profile, self._shape = engine, 0, None
        self._ran: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._profile, self._shape = index, None
        return index < self._engine.num_optimization_profiles

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._engine.cuda.log.append(f"address {name}")
        self._addresses[name] = address
        return name in DTYPES

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profiles[self._profile]
        if not least <= shape[0] <= most:
            self._engine.say(f"batch {shape[0]} is not in profile {self._profile}")
            return False
        self._shape = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self._engine.cuda
        assert stream == cuda.stream
        if self._shape is None or set(self._addresses) != set(DTYPES):
            self._engine.say("shapes or addresses are missing")
            return False
        if cuda.capturing and self._ran != self._shape:
            self._engine.say("a new shape cannot be captured before it ran")
            return False
        if self._engine.trt.fail_runs:
            self._engine.say("an illegal memory access was encountered")
            return False
        shape, addresses = self._shape, dict(self._addresses)
        cuda.enqueue("execute", lambda: self._engine.compute(shape, addresses))
        self._ran = shape
        return True


class FakeEngine:
    """A plan that was loaded."""

    def __init__(self, trt: Any, plan: dict[str, Any]) -> None:
        self.trt, self.cuda, self.profiles = trt, trt.cuda, plan["profiles"]
        self.num_optimization_profiles = len(self.profiles)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", plan["folder"])
        self._session = onnxruntime.InferenceSession(base64.b64decode(plan["model"]), options)
        self._io = [*self._session.get_inputs(), *self._session.get_outputs()]
        self.num_io_tensors = len(self._io)

    def say(self, text: str) -> None:
        self.trt.log.log(SimpleNamespace(name="ERROR"), text)

    def get_tensor_name(self, index: int) -> str:
        return str(self._io[index].name)

    def _tensor(self, name: str) -> Any:
        return next(each for each in self._io if each.name == name)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=TRT_DTYPES[self._tensor(name).type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self._tensor(name).shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in self.profiles[index]]

    def create_execution_context(self) -> FakeContext | None:
        return None if self.trt.no_memory else FakeContext(self)

    def compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        memory = self.cuda.memory
        pixels = memory[addresses["pixels"]][: int(np.prod(shape))].reshape(shape)
        outputs = self._session.run(list(DTYPES)[1:], {"pixels": pixels.copy()})
        for name, output in zip(list(DTYPES)[1:], outputs, strict=True):
            assert output.dtype == DTYPES[name]
            memory[addresses[name]][: output.nbytes] = np.frombuffer(output.tobytes(), np.uint8)
        self.trt.slow_down(shape[0])


class _Config:
    def __init__(self) -> None:
        self.profiles: list[tuple[int, int, int]] = []
        self.timing: bytes | None = None
        self.workspace = 0
        self.cleared: list[str] = []

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.workspace = size

    def clear_flag(self, flag: str) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile.batches)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> Any:
        if content and not content.startswith(b"timing"):
            raise RuntimeError("a damaged timing cache")
        return SimpleNamespace(serialize=lambda: b"timing" + content[6:] + b"+1")

    def set_timing_cache(self, timing: Any, ignore_mismatch: bool) -> bool:
        self.timing = timing.serialize()
        return not ignore_mismatch


class _Profile:
    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        assert name == "pixels" and least[1:] == best[1:] == most[1:]
        self.batches = (least[0], best[0], most[0])


class FakeTensorRT:
    """The module; attributes say how it is to misbehave, and what was asked of it."""

    def __init__(self, cuda: FakeCuda | None = None, version: str = "10.3.0.30", strong_flag: int | None = 1) -> None:
        self.cuda = cuda or FakeCuda()
        self.__version__ = version
        self.fail_runs = self.no_memory = self.refuse_plans = False
        self.fail_builds: set[str] = set()
        self.slow_down: Callable[[int], None] = lambda batch: None
        self.log: Any = None
        self.builds: list[_Config] = []
        self.flags: list[int] = []
        flags = {} if strong_flag is None else {"STRONGLY_TYPED": strong_flag}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.BuilderFlag = SimpleNamespace(TF32="tf32")
        self.ILogger = type("ILogger", (), {"__init__": lambda self: None})

    def api(self, name: str = "tensorrt") -> TensorRT:
        return TensorRT(name, self, self.__version__)

    def Runtime(self, log: Any) -> Any:
        self.log = log

        def load(plan: bytes) -> FakeEngine | None:
            if self.refuse_plans:
                log.log(SimpleNamespace(name="ERROR"), "The engine plan file is generated on an incompatible device")
                return None
            return FakeEngine(self, json.loads(plan))

        return SimpleNamespace(deserialize_cuda_engine=load)

    def Builder(self, log: Any) -> Any:
        def create_network(flags: int) -> Any:
            self.flags.append(flags)
            return SimpleNamespace(model=b"", folder="", num_inputs=1, num_outputs=3, get_input=None, get_output=None)

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=_Config,
            create_optimization_profile=_Profile,
            build_serialized_network=lambda network, config: self._build(network, config, log),
        )

    def _build(self, network: Any, config: _Config, log: Any) -> bytes | None:
        self.builds.append(config)
        quantized = b"QuantizeLinear" in network.model
        if ("int8" if quantized else "float") in self.fail_builds:
            log.log(SimpleNamespace(name="ERROR"), "Could not find any implementation for node conv_1")
            return None
        model = base64.b64encode(network.model).decode()
        return json.dumps({"model": model, "folder": network.folder, "profiles": config.profiles}).encode()

    def OnnxParser(self, network: Any, log: Any) -> Any:
        def parse(model: bytes, path: str) -> bool:
            network.model, network.folder = model, path.rpartition("/")[0]
            tensor = {"pixels": "UINT8", "boxes": "FLOAT", "scores": "FLOAT", "labels": "INT32"}
            named = [SimpleNamespace(name=name, dtype=SimpleNamespace(name=kind)) for name, kind in tensor.items()]
            network.get_input = lambda index: named[index]
            network.get_output = lambda index: named[1 + index]
            return True

        return SimpleNamespace(parse=parse, num_errors=0)
