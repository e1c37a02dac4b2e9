"""Layerwise aggregation by raw pointers: the native library's C interface, with no array library in between.

The library takes memory of the CPU or of a CUDA device; :mod:`train.models.aggregate_operator` wraps it for PyTorch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import babelrs
from babelrs.errors import DeviceError

MAX_TAPS, MAX_LEVELS, MAX_CHANNELS = 8, 5, 1536
_LIBRARY = "libbabelrs_aggregate.so"
_BAD_ARGUMENT = 1


class NumberType(IntEnum):
    """Number types of taps and levels, as the native library numbers them."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8 = 3


class _Call(ctypes.Structure):
    """``babelrs_aggregate_call`` of ``babelrs/aggregate.h``."""

    _fields_ = (
        ("taps", ctypes.c_void_p * MAX_TAPS),
        ("outputs", ctypes.c_void_p * MAX_LEVELS),
        ("gamma", ctypes.c_void_p),
        ("beta", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("tap_scales", ctypes.c_float * MAX_TAPS),
        ("level_scales", ctypes.c_float * MAX_LEVELS),
        *((name, ctypes.c_int64) for name in ("batch", "tokens", "prefix", "channels", "height", "width")),
        *((name, ctypes.c_int32) for name in ("num_taps", "num_levels", "in_type", "out_type")),
        ("epsilon", ctypes.c_float),
    )


@dataclass(frozen=True)
class Aggregation:
    """One call: addresses of contiguous memory that outlives it, and what lies there.

    Attributes:
        taps: S addresses of token maps ``(B, T, C)`` of ``in_type``, aligned to 16 bytes.
        outputs: P addresses of maps ``(B, C, H, W)`` of ``out_type``, aligned to 16 bytes.
        gamma: Address of float32 ``(S, C)``; None with ``beta`` for the plain weighted sum (LVSA).
        beta: Address of float32 ``(S, C)``.
        weights: Address of float32 ``(P, S)``.
        shape: ``(B, T, C)``.
        prefix_tokens: Tokens dropped in front of each map; T is this and ``H * W``.
        grid: ``(H, W)``.
        tap_scales: Real value of one step of each int8 tap; empty for other types.
        level_scales: The same of each level.
    """

    taps: Sequence[int]
    outputs: Sequence[int]
    gamma: int | None
    beta: int | None
    weights: int
    shape: tuple[int, int, int]
    prefix_tokens: int
    grid: tuple[int, int]
    in_type: NumberType
    out_type: NumberType
    epsilon: float
    tap_scales: Sequence[float] = ()
    level_scales: Sequence[float] = ()


def has_cuda() -> bool:
    """Whether the native library is installed and holds the CUDA kernels."""
    library = _library()
    return library is not None and bool(library.babelrs_aggregate_has_cuda())


def available() -> bool:
    """Whether the native library is installed."""
    return _library() is not None


def aggregate_on_cpu(call: Aggregation) -> None:
    """Computes the levels in the CPU's memory.

    Raises:
        ValueError: An argument the library cannot take; the message names it.
    """
    _run("babelrs_aggregate_cpu", call)


def aggregate_on_cuda(call: Aggregation, device: int, stream: int) -> None:
    """Enqueues the kernel on ``stream`` (a ``cudaStream_t``) of ``device``.

    Raises:
        ValueError: An argument the library cannot take; the message names it.
        DeviceError: CUDA refused, or the library was built without it.
    """
    _run("babelrs_aggregate_cuda", call, ctypes.c_int32(device), ctypes.c_void_p(stream))


def aggregate_emulated(call: Aggregation, shared_bytes: int, multiprocessors: int) -> None:
    """Runs the kernel's blocks on the CPU, as a device with so much shared memory a block would.

    Raises:
        ValueError: An argument the library cannot take; the message names it.
    """
    _run("babelrs_aggregate_emulated", call, ctypes.c_int32(shared_bytes), ctypes.c_int32(multiprocessors))


@cache
def _library() -> Any:
    """The library, under this package's sources or its compiled extension; None where it is not installed."""
    for folder in babelrs.__path__:
        path = Path(folder) / "lib" / _LIBRARY
        if path.is_file():
            return ctypes.CDLL(str(path))
    return None


def _run(function: str, call: Aggregation, *arguments: Any) -> None:
    library = _library()
    if library is None:
        raise DeviceError(f"The native library {_LIBRARY} is not installed.", "Install babelrs with pip.")
    message = ctypes.create_string_buffer(512)
    code = getattr(library, function)(ctypes.byref(_packed(call)), *arguments, message, ctypes.c_size_t(len(message)))
    reason = message.value.decode()
    if code == _BAD_ARGUMENT:
        raise ValueError(reason)
    if code:
        raise DeviceError(f"Layerwise aggregation failed: {reason}.", "Check the device and its memory.")


def _packed(call: Aggregation) -> _Call:
    if len(call.taps) > MAX_TAPS:
        raise ValueError(f"taps: S is {len(call.taps)}, expected 1 to {MAX_TAPS}")
    if len(call.outputs) > MAX_LEVELS:
        raise ValueError(f"weights: P is {len(call.outputs)}, expected 1 to {MAX_LEVELS}")
    packed = _Call(gamma=call.gamma, beta=call.beta, weights=call.weights, epsilon=call.epsilon)
    packed.taps[: len(call.taps)] = call.taps
    packed.outputs[: len(call.outputs)] = call.outputs
    packed.tap_scales[: len(call.tap_scales)] = call.tap_scales
    packed.level_scales[: len(call.level_scales)] = call.level_scales
    packed.batch, packed.tokens, packed.channels = call.shape
    packed.prefix, (packed.height, packed.width) = call.prefix_tokens, call.grid
    packed.num_taps, packed.num_levels = len(call.taps), len(call.outputs)
    packed.in_type, packed.out_type = call.in_type, call.out_type
    return packed
