"""Memory, stream and graphs of a real GPU, without TensorRT: by the driver's library, and by pycuda where it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from runtime.engines.cuda import Cuda
from runtime.engines.cuda_driver import DriverCuda, load_driver
from runtime.engines.cuda_pycuda import PyCuda

pytestmark = pytest.mark.gpu
SIZE = 1 << 20


def by_driver() -> Cuda:
    return DriverCuda(load_driver())


def by_pycuda() -> Cuda:
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed")
    return PyCuda(load_driver())


@pytest.fixture(params=[by_driver, by_pycuda], ids=["driver", "pycuda"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    make: Callable[[], Cuda] = request.param
    return make()


def counting(start: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return ((np.arange(SIZE) + start) % 251).astype(np.uint8)


def test_the_gpu_is_described(cuda: Cuda) -> None:
    import torch

    expected = torch.cuda.get_device_properties(0)
    gpu = cuda.gpu
    assert gpu.name == expected.name and gpu.compute_capability == f"{expected.major}.{expected.minor}"
    assert gpu.multiprocessors == expected.multi_processor_count and gpu.total_bytes == expected.total_memory
    with cuda.current():
        assert 0 < cuda.free_bytes() <= gpu.total_bytes


def test_bytes_go_to_the_gpu_and_come_back(cuda: Cuda) -> None:
    with cuda.current():
        buffer = cuda.allocate(SIZE)
        buffer.host[:] = counting(0)
        cuda.upload(buffer, SIZE)
        cuda.synchronize()
        if not buffer.mapped:
            buffer.host[:] = 0
        cuda.download(buffer, SIZE // 2)
        cuda.synchronize()
        np.testing.assert_array_equal(buffer.host[: SIZE // 2], counting(0)[: SIZE // 2])
        assert buffer.mapped or not buffer.host[SIZE // 2 :].any()
        cuda.free(buffer)


def test_a_recorded_graph_repeats_the_copies_of_what_is_there_then(cuda: Cuda) -> None:
    with cuda.current():
        buffer = cuda.allocate(SIZE)
        if buffer.mapped:
            pytest.skip("this GPU shares the CPU's memory: nothing is copied")
        buffer.host[:] = 0
        cuda.begin_capture()
        cuda.upload(buffer, SIZE)
        graph = cuda.end_capture()
        for start in (3, 7):
            buffer.host[:] = counting(start)
            cuda.launch(graph)
            cuda.synchronize()
            buffer.host[:] = 0
            cuda.download(buffer, SIZE)
            cuda.synchronize()
            np.testing.assert_array_equal(buffer.host, counting(start))
        cuda.free_graph(graph)
        cuda.free(buffer)


def test_another_thread_makes_the_context_current_for_itself(cuda: Cuda) -> None:
    found: list[int] = []

    def work() -> None:
        with cuda.current():
            buffer = cuda.allocate(SIZE)
            buffer.host[:] = counting(5)
            cuda.upload(buffer, SIZE)
            cuda.download(buffer, SIZE)
            cuda.synchronize()
            found.append(int(buffer.host[100]))
            cuda.free(buffer)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [105]


def test_freed_memory_comes_back(cuda: Cuda) -> None:
    with cuda.current():
        before = cuda.free_bytes()
        buffers = [cuda.allocate(64 << 20) for _ in range(4)]
        assert cuda.gpu.integrated or cuda.free_bytes() <= before - (256 << 20)
        for buffer in buffers:
            cuda.free(buffer)
        buffers.clear()
        assert cuda.gpu.integrated or cuda.free_bytes() >= before - (8 << 20)
