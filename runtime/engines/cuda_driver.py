"""The CUDA driver's own library through ctypes: graphs always, and all the rest where pycuda is not installed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from babelrs.errors import DeviceError
from runtime.engines.cuda import Buffer, Gpu

LIBRARY = "libcuda.so.1"
# Constants of cuda.h.
_MULTIPROCESSORS, _INTEGRATED, _MAJOR, _MINOR = 16, 18, 75, 76
_HOST_MAPPED, _STREAM_NON_BLOCKING, _CAPTURE_THREAD_LOCAL = 2, 1, 1
_OUT_OF_MEMORY = 2

_Pointer = ctypes.c_void_p
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (_Pointer, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_Pointer, ctypes.c_int, ctypes.c_int),
    "cuDeviceTotalMem_v2": (_Pointer, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_Pointer, ctypes.c_int),
    "cuCtxPushCurrent_v2": (_Pointer,),
    "cuCtxPopCurrent_v2": (_Pointer,),
    "cuMemGetInfo_v2": (_Pointer, _Pointer),
    "cuMemAlloc_v2": (_Pointer, ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemHostAlloc": (_Pointer, ctypes.c_size_t, ctypes.c_uint),
    "cuMemFreeHost": (_Pointer,),
    "cuMemHostGetDevicePointer_v2": (_Pointer, _Pointer, ctypes.c_uint),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _Pointer, ctypes.c_size_t, _Pointer),
    "cuMemcpyDtoHAsync_v2": (_Pointer, ctypes.c_uint64, ctypes.c_size_t, _Pointer),
    "cuStreamCreate": (_Pointer, ctypes.c_uint),
    "cuStreamSynchronize": (_Pointer,),
    "cuStreamBeginCapture_v2": (_Pointer, ctypes.c_int),
    "cuStreamEndCapture": (_Pointer, _Pointer),
    "cuGraphInstantiateWithFlags": (_Pointer, _Pointer, ctypes.c_ulonglong),
    "cuGraphDestroy": (_Pointer,),
    "cuGraphLaunch": (_Pointer, _Pointer),
    "cuGraphExecDestroy": (_Pointer,),
    "cuGetErrorName": (ctypes.c_int, _Pointer),
}


class Driver:
    """The library's functions, which return what went wrong.

    Args:
        library: The loaded library.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in _ARGUMENTS.items():
            getattr(library, name).argtypes = arguments

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            DeviceError: It did not succeed.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            remedy = (
                "Free memory on the device, or build with a smaller --batch."
                if code == _OUT_OF_MEMORY
                else "Check the GPU and its driver; babelrs-run --engine onnxruntime needs neither."
            )
            raise DeviceError(f"{name} failed: {self._name_of(code)}.", remedy)

    def _name_of(self, code: int) -> str:
        text = ctypes.c_char_p()
        if self._library.cuGetErrorName(code, ctypes.byref(text)) or text.value is None:
            return f"error {code}"
        return text.value.decode()


def load_driver() -> Driver:
    """The driver's library, initialised.

    Raises:
        DeviceError: There is no driver, or no GPU.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise DeviceError(f"No GPU: {LIBRARY} is not installed.", "Use --engine onnxruntime on this machine.") from None
    driver = Driver(library)
    driver.call("cuInit", 0)
    return driver


class StreamGraphs:
    """Graphs of the work on one stream, which pycuda has no calls for.

    Args:
        driver: The driver.
        stream: The handle of the stream.
    """

    def __init__(self, driver: Driver, stream: int) -> None:
        self._driver, self._stream = driver, stream

    def begin_capture(self) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        self._driver.call("cuStreamBeginCapture_v2", self._stream, _CAPTURE_THREAD_LOCAL)

    def end_capture(self) -> int:
        """See :class:`runtime.engines.cuda.Cuda`."""
        graph, executable = _Pointer(), _Pointer()
        self._driver.call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, graph: int) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        self._driver.call("cuGraphLaunch", graph, self._stream)

    def free_graph(self, graph: int) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        self._driver.call("cuGraphExecDestroy", graph)


class DriverCuda(StreamGraphs):
    """A :class:`runtime.engines.cuda.Cuda` without pycuda.

    Raises:
        DeviceError: There is no GPU, or it refuses.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        device, context, stream = ctypes.c_int(), _Pointer(), _Pointer()
        driver.call("cuDeviceGet", ctypes.byref(device), 0)
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self.gpu = self._describe(device)
        with self.current():
            driver.call("cuStreamCreate", ctypes.byref(stream), _STREAM_NON_BLOCKING)
        self.stream = int(stream.value or 0)
        super().__init__(driver, self.stream)

    def _describe(self, device: ctypes.c_int) -> Gpu:
        def attribute(number: int) -> int:
            value = ctypes.c_int()
            self._driver.call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
            return value.value

        name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self._driver.call("cuDeviceGetName", name, len(name), device)
        self._driver.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
        capability = f"{attribute(_MAJOR)}.{attribute(_MINOR)}"
        integrated = bool(attribute(_INTEGRATED))
        return Gpu(name.value.decode(), capability, attribute(_MULTIPROCESSORS), integrated, total.value)

    @contextmanager
    def current(self) -> Iterator[None]:
        """See :class:`runtime.engines.cuda.Cuda`."""
        self._driver.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._driver.call("cuCtxPopCurrent_v2", ctypes.byref(_Pointer()))

    def free_bytes(self) -> int:
        """See :class:`runtime.engines.cuda.Cuda`."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, num_bytes: int) -> Buffer:
        """See :class:`runtime.engines.cuda.Cuda`."""
        mapped, pointer, address = self.gpu.integrated, _Pointer(), ctypes.c_uint64()
        self._driver.call("cuMemHostAlloc", ctypes.byref(pointer), num_bytes, _HOST_MAPPED if mapped else 0)
        if mapped:
            self._driver.call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), pointer, 0)
        else:
            self._driver.call("cuMemAlloc_v2", ctypes.byref(address), num_bytes)
        memory = (ctypes.c_uint8 * num_bytes).from_address(pointer.value or 0)
        return Buffer(np.ctypeslib.as_array(memory), address.value, mapped, pointer)

    def free(self, buffer: Buffer) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        if not buffer.mapped:
            self._driver.call("cuMemFree_v2", buffer.address)
        self._driver.call("cuMemFreeHost", buffer.owner)

    def upload(self, buffer: Buffer, num_bytes: int) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        if not buffer.mapped:
            self._driver.call("cuMemcpyHtoDAsync_v2", buffer.address, buffer.owner, num_bytes, self.stream)

    def download(self, buffer: Buffer, num_bytes: int) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        if not buffer.mapped:
            self._driver.call("cuMemcpyDtoHAsync_v2", buffer.owner, buffer.address, num_bytes, self.stream)

    def synchronize(self) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        self._driver.call("cuStreamSynchronize", self.stream)
