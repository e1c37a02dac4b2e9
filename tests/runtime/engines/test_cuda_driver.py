"""Calls of the CUDA driver through ctypes, to a library that notes them; a real driver is asked in GPU tests."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from babelrs.errors import DeviceError
from runtime.engines import cuda as cuda_module
from runtime.engines import cuda_driver
from runtime.engines.cuda import Cuda
from runtime.engines.cuda_driver import Driver, DriverCuda
from runtime.engines.cuda_pycuda import PyCuda

ATTRIBUTES = {16: 8, 18: 0, 75: 8, 76: 7}
OUTPUTS = {"cuMemAlloc_v2": 0xD000, "cuMemHostGetDevicePointer_v2": 0xE000, "cuStreamCreate": 77,
           "cuDevicePrimaryCtxRetain": 5, "cuStreamEndCapture": 31, "cuGraphInstantiateWithFlags": 32}  # fmt: skip


class FakeLibrary:
    """``libcuda.so.1``: writes what real calls would write, and lists the calls."""

    def __init__(self, integrated: bool = False) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.flags = -1
        self.attributes = {**ATTRIBUTES, 18: int(integrated)}
        self.host = (ctypes.c_uint8 * 4096)()
        self._functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        if name not in self._functions:
            # a class, so that argtypes can be set on it as on a function of ctypes
            self._functions[name] = _Function(self, name)
        return self._functions[name]

    def answer(self, name: str, given: tuple[Any, ...]) -> int:
        if name == "cuGetErrorName":
            _target(given[1], ctypes.c_char_p).value = b"CUDA_ERROR_OF_THE_TEST"
            return 0
        self.calls.append(name)
        if name == "cuDeviceGetAttribute":
            _target(given[0], ctypes.c_int).value = self.attributes[given[1]]
        elif name == "cuDeviceGetName":
            given[0].value = b"Orin"
        elif name == "cuDeviceTotalMem_v2":
            _target(given[0], ctypes.c_size_t).value = 8 << 30
        elif name == "cuMemGetInfo_v2":
            _target(given[0], ctypes.c_size_t).value = 3 << 30
        elif name == "cuMemHostAlloc":
            self.flags = given[2]
            _target(given[0], ctypes.c_void_p).value = ctypes.addressof(self.host)
        elif name in OUTPUTS:
            _target(given[0] if name != "cuStreamEndCapture" else given[1], ctypes.c_uint64).value = OUTPUTS[name]
        return self.fail.get(name, 0)


class _Function:
    argtypes: tuple[Any, ...] = ()

    def __init__(self, library: FakeLibrary, name: str) -> None:
        self._library, self._name = library, name

    def __call__(self, *given: Any) -> int:
        assert len(given) == len(self.argtypes), self._name
        for value, kind in zip(given, self.argtypes, strict=True):
            kind.from_param(value)  # what ctypes itself checks
        return self._library.answer(self._name, given)


def _target(reference: Any, kind: Any) -> Any:
    """What a ``ctypes.byref`` refers to."""
    return kind.from_address(ctypes.addressof(reference._obj))


def test_the_device_is_described() -> None:
    gpu = DriverCuda(Driver(FakeLibrary())).gpu
    assert (gpu.name, gpu.compute_capability, gpu.multiprocessors, gpu.integrated) == ("Orin", "8.7", 8, False)
    assert gpu.total_bytes == 8 << 30


@pytest.mark.parametrize("integrated", [False, True])
def test_memory_is_mapped_where_it_is_shared_and_copied_where_not(integrated: bool) -> None:
    library = FakeLibrary(integrated)
    cuda: Cuda = DriverCuda(Driver(library))
    library.calls.clear()
    with cuda.current():
        buffer = cuda.allocate(100)
        assert (buffer.address, buffer.mapped) == ((0xE000, True) if integrated else (0xD000, False))
        assert library.flags == (2 if integrated else 0)  # CU_MEMHOSTALLOC_DEVICEMAP
        buffer.host[:] = np.arange(100, dtype=np.uint8)
        assert bytes(library.host[:100]) == bytes(range(100))
        cuda.upload(buffer, 10)
        cuda.download(buffer, 10)
        cuda.synchronize()
        cuda.free(buffer)
    copies = [] if integrated else ["cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"]
    assert library.calls == [
        "cuCtxPushCurrent_v2", "cuMemHostAlloc", "cuMemHostGetDevicePointer_v2" if integrated else "cuMemAlloc_v2",
        *copies, "cuStreamSynchronize", *([] if integrated else ["cuMemFree_v2"]), "cuMemFreeHost",
        "cuCtxPopCurrent_v2",
    ]  # fmt: skip


def test_a_graph_is_recorded_launched_and_given_back() -> None:
    library = FakeLibrary()
    cuda: Cuda = DriverCuda(Driver(library))
    library.calls.clear()
    cuda.begin_capture()
    graph = cuda.end_capture()
    assert (graph, cuda.stream) == (32, 77)
    cuda.launch(graph)
    cuda.free_graph(graph)
    assert library.calls == [
        "cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy",
        "cuGraphLaunch", "cuGraphExecDestroy",
    ]  # fmt: skip


def test_a_context_is_popped_after_an_error_too() -> None:
    library = FakeLibrary()
    cuda = DriverCuda(Driver(library))
    with pytest.raises(ZeroDivisionError), cuda.current():
        raise ZeroDivisionError
    assert library.calls[-1] == "cuCtxPopCurrent_v2"


@pytest.mark.parametrize(("code", "remedy"), [(2, "smaller --batch"), (700, "driver")])
def test_an_error_has_its_name_and_a_remedy(code: int, remedy: str) -> None:
    library = FakeLibrary()
    cuda = DriverCuda(Driver(library))
    library.fail["cuMemHostAlloc"] = code
    with pytest.raises(DeviceError, match="cuMemHostAlloc failed: CUDA_ERROR_OF_THE_TEST") as caught:
        cuda.allocate(10)
    assert remedy in caught.value.remedy


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-none.so")
    with pytest.raises(DeviceError, match=r"No GPU: libcuda-none\.so is not installed"):
        cuda_module.open_cuda()


def fake_pycuda(integrated: bool, log: list[str]) -> Any:
    """``pycuda.driver``, as far as it is used."""

    class Error(Exception):
        pass

    class Memory(Error):
        pass

    class Array(np.ndarray):
        pass

    def pagelocked_empty(shape: tuple[int, ...], dtype: Any, mem_flags: int = 0) -> Any:
        log.append(f"pagelocked {mem_flags}")
        owner = SimpleNamespace(get_device_pointer=lambda: 0xE000, free=lambda: log.append("free"))
        return SimpleNamespace(base=owner, array=np.zeros(shape, dtype))

    class Allocation:
        def __init__(self, num_bytes: int) -> None:
            if num_bytes > 1 << 30:
                raise Memory("out of memory")

        def __int__(self) -> int:
            return 0xD000

    context = SimpleNamespace(push=lambda: log.append("push"))
    device = SimpleNamespace(
        name=lambda: "Orin", compute_capability=lambda: (8, 7), total_memory=lambda: 8 << 30,
        get_attribute={"sm": 8, "integrated": int(integrated)}.__getitem__, retain_primary_context=lambda: context,
    )  # fmt: skip
    return SimpleNamespace(
        init=lambda: None, Device=lambda index: device, Error=Error, MemoryError=Memory,
        Stream=lambda flags: SimpleNamespace(handle=77, synchronize=lambda: log.append("synchronize")),
        Context=SimpleNamespace(pop=lambda: log.append("pop")),
        device_attribute=SimpleNamespace(MULTIPROCESSOR_COUNT="sm", INTEGRATED="integrated"),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2), pagelocked_empty=pagelocked_empty, mem_alloc=Allocation,
        mem_get_info=lambda: (3 << 30, 8 << 30),
    )  # fmt: skip


@pytest.mark.parametrize("integrated", [False, True])
def test_pycuda_maps_memory_where_it_is_shared(integrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake_pycuda(integrated, log))
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=sys.modules["pycuda.driver"]))
    cuda = PyCuda(Driver(FakeLibrary()))
    assert (cuda.gpu.name, cuda.gpu.compute_capability, cuda.gpu.integrated) == ("Orin", "8.7", integrated)
    log.clear()
    with cuda.current():
        buffer = cuda.allocate(64)
        assert (buffer.address, buffer.mapped) == ((0xE000, True) if integrated else (0xD000, False))
        assert cuda.free_bytes() == 3 << 30
        cuda.synchronize()
    assert log == ["push", f"pagelocked {2 if integrated else 0}", "synchronize", "pop"]
    if not integrated:
        with pytest.raises(DeviceError, match="too little memory"):
            cuda.allocate(2 << 30)


def test_without_pycuda_the_driver_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "load_driver", lambda: Driver(FakeLibrary()))
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert isinstance(cuda_module.open_cuda(), DriverCuda)
