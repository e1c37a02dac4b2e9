"""CUDA by pycuda, which is imported when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from babelrs.errors import DeviceError
from runtime.engines.cuda import Buffer, Gpu
from runtime.engines.cuda_driver import Driver, StreamGraphs

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: it waits for no work on the default stream


class PyCuda(StreamGraphs):
    """A :class:`runtime.engines.cuda.Cuda` in the GPU's primary context, which other libraries use as well.

    Args:
        driver: For graphs, which pycuda has no calls for.

    Raises:
        ImportError: pycuda is not installed.
        DeviceError: There is no GPU, or it refuses.
    """

    def __init__(self, driver: Driver) -> None:
        self._cuda: Any = importlib.import_module("pycuda.driver")
        with self._reported():
            self._cuda.init()
            device = self._cuda.Device(0)
            self.gpu = self._describe(device)
            self._context = device.retain_primary_context()
        with self.current(), self._reported():
            self._stream_object = self._cuda.Stream(_NON_BLOCKING)
        self.stream = int(self._stream_object.handle)
        super().__init__(driver, self.stream)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            remedy = "Free memory on the device, or build with a smaller --batch."
            raise DeviceError(f"CUDA has too little memory ({error}).", remedy) from error
        except self._cuda.Error as error:
            remedy = "Check the GPU and its driver; babelrs-run --engine onnxruntime needs neither."
            raise DeviceError(f"CUDA failed ({error}).", remedy) from error

    def _describe(self, device: Any) -> Gpu:
        kinds, (major, minor) = self._cuda.device_attribute, device.compute_capability()
        return Gpu(
            name=str(device.name()),
            compute_capability=f"{major}.{minor}",
            multiprocessors=int(device.get_attribute(kinds.MULTIPROCESSOR_COUNT)),
            integrated=bool(device.get_attribute(kinds.INTEGRATED)),
            total_bytes=int(device.total_memory()),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """See :class:`runtime.engines.cuda.Cuda`."""
        with self._reported():
            self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def free_bytes(self) -> int:
        """See :class:`runtime.engines.cuda.Cuda`."""
        with self._reported():
            free, _ = self._cuda.mem_get_info()
        return int(free)

    def allocate(self, num_bytes: int) -> Buffer:
        """See :class:`runtime.engines.cuda.Cuda`."""
        mapped = self.gpu.integrated
        with self._reported():
            flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
            host = self._cuda.pagelocked_empty((num_bytes,), np.uint8, mem_flags=flags)
            if mapped:
                return Buffer(host, int(host.base.get_device_pointer()), True, host.base)
            device = self._cuda.mem_alloc(num_bytes)
        return Buffer(host, int(device), False, device)

    def free(self, buffer: Buffer) -> None:
        """See :class:`runtime.engines.cuda.Cuda`; the pinned half of a copied buffer goes with its array."""
        with self._reported():
            buffer.owner.free()

    def upload(self, buffer: Buffer, num_bytes: int) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        if not buffer.mapped:
            with self._reported():
                self._cuda.memcpy_htod_async(buffer.address, buffer.host[:num_bytes], self._stream_object)

    def download(self, buffer: Buffer, num_bytes: int) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        if not buffer.mapped:
            with self._reported():
                self._cuda.memcpy_dtoh_async(buffer.host[:num_bytes], buffer.address, self._stream_object)

    def synchronize(self) -> None:
        """See :class:`runtime.engines.cuda.Cuda`."""
        with self._reported():
            self._stream_object.synchronize()
