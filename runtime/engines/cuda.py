"""The little of CUDA that an engine needs, behind one interface: memory the GPU reads, one stream, graphs of its work.

pycuda serves it; where pycuda is not installed, the driver's own library does, through ctypes.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """What engines depend on, and what memory there is.

    Attributes:
        name: As the driver gives it; all Jetson Orins are ``Orin``.
        compute_capability: For example ``8.7``.
        multiprocessors: Tells devices of one name apart.
        integrated: It shares the CPU's DRAM, so that nothing needs to be copied.
        total_bytes: Its memory.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    integrated: bool
    total_bytes: int


@dataclass(frozen=True)
class Buffer:
    """Pinned memory of the CPU, and where the GPU has the same bytes.

    Attributes:
        host: ``(num_bytes,)`` uint8.
        address: The GPU's address.
        mapped: The GPU reads and writes ``host`` itself; else it has a copy.
        owner: Keeps the memory alive.
    """

    host: npt.NDArray[np.uint8]
    address: int
    mapped: bool
    owner: Any = None


class Cuda(Protocol):
    """A GPU with one stream; every method but :meth:`current` needs the context that it makes current.

    All methods raise DeviceError where CUDA refuses.
    """

    @property
    def gpu(self) -> Gpu:
        """The device."""

    @property
    def stream(self) -> int:
        """The handle of the stream, a ``cudaStream_t``."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's context current in this thread, inside a ``with``."""

    def free_bytes(self) -> int:
        """Free memory of the GPU."""

    def allocate(self, num_bytes: int) -> Buffer:
        """Pinned memory: mapped on an integrated GPU, else with a copy on the GPU."""

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""

    def upload(self, buffer: Buffer, num_bytes: int) -> None:
        """Enqueue the copy to the GPU of the first ``num_bytes``; nothing for mapped memory."""

    def download(self, buffer: Buffer, num_bytes: int) -> None:
        """Enqueue the copy from the GPU."""

    def synchronize(self) -> None:
        """Wait for all that was enqueued."""

    def begin_capture(self) -> None:
        """Record what is enqueued from now on instead of running it."""

    def end_capture(self) -> int:
        """End the recording; the handle of the graph."""

    def launch(self, graph: int) -> None:
        """Enqueue a recorded graph."""

    def free_graph(self, graph: int) -> None:
        """Give a graph back."""


def open_cuda() -> Cuda:
    """The first GPU.

    Raises:
        DeviceError: There is none, or no driver.
    """
    from runtime.engines.cuda_driver import DriverCuda, load_driver
    from runtime.engines.cuda_pycuda import PyCuda

    driver = load_driver()  # says plainly what is missing, and pycuda needs it too
    try:
        return PyCuda(driver)
    except ImportError as error:
        _LOGGER.info("pycuda cannot be imported (%s); the CUDA driver is called directly", error)
        return DriverCuda(driver)
