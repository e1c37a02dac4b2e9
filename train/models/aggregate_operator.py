"""``torch.ops.babelrs.layerwise_aggregate``: the native aggregation as a PyTorch operator, without linking libtorch.

The forward pass is one fused kernel. The backward pass is composed of PyTorch operations: beside the transformer blocks
its time does not show, and the fused forward already keeps the S normalised maps out of memory between the two passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from babelrs import aggregate as native
from babelrs.aggregate import Aggregation, NumberType

NAME = "babelrs::layerwise_aggregate"
_HAS_CUDA = native.has_cuda()  # asked once: a compiler that traces the model need not follow it into the library
_TYPES = {
    torch.float32: NumberType.FLOAT32,
    torch.float16: NumberType.FLOAT16,
    torch.bfloat16: NumberType.BFLOAT16,
    torch.int8: NumberType.INT8,
}

torch.library.define(
    NAME,
    "(Tensor[] taps, Tensor? gamma, Tensor? beta, Tensor weights, SymInt prefix_tokens, SymInt height, SymInt width, "
    "float epsilon=1e-06, float[]? tap_scales=None, float[]? level_scales=None, ScalarType? out_dtype=None) "
    "-> Tensor[]",
)


@torch.library.register_fake(NAME)
def _fake(
    taps: Sequence[Tensor],
    gamma: Tensor | None,
    beta: Tensor | None,
    weights: Tensor,
    prefix_tokens: int,
    height: int,
    width: int,
    epsilon: float = 1e-6,
    tap_scales: Sequence[float] | None = None,
    level_scales: Sequence[float] | None = None,
    out_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Empty levels ``(B, C, H, W)`` after every check that needs no data."""
    _check_taps(taps, prefix_tokens, height, width)
    _check_parameters(taps, gamma, beta, weights)
    dtype = _checked_types(taps, weights.shape[0], tap_scales, level_scales, out_dtype)
    batch, _, channels = taps[0].shape
    return [taps[0].new_empty((batch, channels, height, width), dtype=dtype) for _ in range(weights.shape[0])]


def _check_taps(taps: Sequence[Tensor], prefix_tokens: int, height: int, width: int) -> None:
    if not 1 <= len(taps) <= native.MAX_TAPS:
        raise ValueError(f"taps: {len(taps)} token maps, expected 1 to {native.MAX_TAPS}")
    first = taps[0]
    for index, tap in enumerate(taps):
        name = f"taps[{index}] of shape {tuple(tap.shape)}"
        if tap.ndim != 3 or tap.shape != first.shape:
            raise ValueError(f"{name}: expected (B, T, C) as taps[0] of shape {tuple(first.shape)}")
        if tap.dtype not in _TYPES or tap.dtype != first.dtype:
            raise TypeError(f"{name} is {tap.dtype}: expected one of {[str(dtype) for dtype in _TYPES]} for all taps")
        if tap.device != first.device:
            raise ValueError(f"{name} is on {tap.device}: expected {first.device}, where taps[0] is")
    if prefix_tokens < 0 or height < 1 or width < 1:
        raise ValueError(f"prefix_tokens {prefix_tokens}, height {height}, width {width}: expected >= 0, >= 1, >= 1")
    if first.shape[1] != prefix_tokens + height * width:
        expected = f"T = {prefix_tokens} prefix tokens + {height} * {width}"
        raise ValueError(f"taps of shape {tuple(first.shape)}: expected (B, T, C) with {expected}")
    channels = first.shape[2]
    if channels % 8 or not 8 <= channels <= native.MAX_CHANNELS:
        raise ValueError(f"taps of shape {tuple(first.shape)}: expected C a multiple of 8 up to {native.MAX_CHANNELS}")

    if first.numel() >= 2**31:
        raise ValueError(f"taps of shape {tuple(first.shape)}: expected fewer than 2^31 elements")


def _check_parameters(taps: Sequence[Tensor], gamma: Tensor | None, beta: Tensor | None, weights: Tensor) -> None:
    if (gamma is None) != (beta is None):
        raise ValueError("gamma and beta: expected both or neither")
    if weights.ndim != 2 or weights.shape[1] != len(taps) or not 1 <= weights.shape[0] <= native.MAX_LEVELS:
        expected = f"(P, {len(taps)}) with P from 1 to {native.MAX_LEVELS}"
        raise ValueError(f"weights of shape {tuple(weights.shape)}: expected {expected}")
    affine = (len(taps), taps[0].shape[2])
    for name, tensor in (("gamma", gamma), ("beta", beta), ("weights", weights)):
        if tensor is None:
            continue
        if tensor is not weights and tuple(tensor.shape) != affine:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)}: expected (S, C) = {affine}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} of shape {tuple(tensor.shape)} is {tensor.dtype}: expected floating point")
        if tensor.device != taps[0].device:
            raise ValueError(f"{name} is on {tensor.device}: expected {taps[0].device}, where the taps are")


def _checked_types(
    taps: Sequence[Tensor],
    num_levels: int,
    tap_scales: Sequence[float] | None,
    level_scales: Sequence[float] | None,
    out_dtype: torch.dtype | None,
) -> torch.dtype:
    """The levels' type: that of the taps unless ``out_dtype`` says otherwise."""
    given = taps[0].dtype
    dtype = given if out_dtype is None else out_dtype
    if dtype not in _TYPES or (dtype != given and torch.int8 not in (dtype, given)):
        raise TypeError(f"out_dtype is {dtype}: expected {given} or torch.int8, or any type for int8 taps")
    for name, scales, count, integer in (
        ("tap_scales", tap_scales, len(taps), given == torch.int8),
        ("level_scales", level_scales, num_levels, dtype == torch.int8),
    ):
        if integer and (scales is None or len(scales) != count):
            raise ValueError(f"{name} is {scales}: int8 needs {count} scales")
        if not integer and scales is not None:
            raise ValueError(f"{name} is {scales}: expected none, only int8 has scales")
    return dtype


def _aggregate(
    taps: Sequence[Tensor],
    gamma: Tensor | None,
    beta: Tensor | None,
    weights: Tensor,
    prefix_tokens: int,
    height: int,
    width: int,
    epsilon: float = 1e-6,
    tap_scales: Sequence[float] | None = None,
    level_scales: Sequence[float] | None = None,
    out_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Checks, allocates and runs; the levels ``(B, C, H, W)``."""
    levels = _fake(
        taps, gamma, beta, weights, prefix_tokens, height, width, epsilon, tap_scales, level_scales, out_dtype
    )
    for index, tap in enumerate(taps):
        if not tap.is_contiguous() or tap.data_ptr() % 16:
            raise ValueError(f"taps[{index}] of shape {tuple(tap.shape)}: expected contiguous and aligned to 16 bytes")
    parameters = [None if value is None else value.float().contiguous() for value in (gamma, beta, weights)]
    addresses = [None if value is None else value.data_ptr() for value in parameters]
    batch, tokens, channels = taps[0].shape
    call = Aggregation(
        [tap.data_ptr() for tap in taps],
        [level.data_ptr() for level in levels],
        addresses[0],
        addresses[1],
        weights=addresses[2] or 0,
        shape=(batch, tokens, channels),
        prefix_tokens=prefix_tokens,
        grid=(height, width),
        in_type=_TYPES[taps[0].dtype],
        out_type=_TYPES[levels[0].dtype],
        epsilon=epsilon,
        tap_scales=tap_scales or (),
        level_scales=level_scales or (),
    )
    if taps[0].is_cuda:
        device = taps[0].device
        # The caching allocator hands `parameters` out again on this stream only, behind the kernel.
        native.aggregate_on_cuda(call, device.index, torch.cuda.current_stream(device).cuda_stream)
    else:
        native.aggregate_on_cpu(call)
    return levels


torch.library.impl(NAME, "CPU")(_aggregate)
torch.library.impl(NAME, "CUDA")(_aggregate)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    taps, gamma, beta, weights, prefix_tokens, _, _, epsilon, *_ = inputs
    ctx.save_for_backward(gamma, beta, weights, *taps)
    ctx.prefix_tokens, ctx.epsilon = prefix_tokens, epsilon


def _backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Gradients of the taps, gamma, beta and weights, tap by tap in float32."""
    gamma, beta, weights, *taps = ctx.saved_tensors
    given = next(grad for grad in grads if grad is not None)
    levels = torch.stack([torch.zeros_like(given) if grad is None else grad for grad in grads])
    levels = levels.float().flatten(3).transpose(2, 3)  # (P, B, C, H, W) -> (P, B, HW, C)
    wide = weights.float()
    tap_grads, gamma_grads, beta_grads, weight_grads = [], [], [], []
    for index, tap in enumerate(taps):
        tokens = tap[:, ctx.prefix_tokens :].float().contiguous()
        mixed = torch.einsum("p,pbtc->btc", wide[:, index], levels)
        value, grad = tokens, mixed
        if gamma is not None:
            scale, shift, channels = gamma[index].float(), beta[index].float(), [tap.shape[-1]]
            value, mean, rstd = torch.native_layer_norm(tokens, channels, scale, shift, ctx.epsilon)
            grad, scale_grad, shift_grad = torch.ops.aten.native_layer_norm_backward(
                mixed, tokens, channels, mean, rstd, scale, shift, [True, True, True]
            )
            gamma_grads.append(scale_grad)
            beta_grads.append(shift_grad)
        weight_grads.append(torch.einsum("pbtc,btc->p", levels, value))
        tap_grads.append(torch.nn.functional.pad(grad.to(tap.dtype), (0, 0, ctx.prefix_tokens, 0)))
    affine: tuple[Tensor | None, Tensor | None] = (None, None)
    if gamma is not None:
        affine = (torch.stack(gamma_grads).to(gamma.dtype), torch.stack(beta_grads).to(beta.dtype))
    return (tap_grads, *affine, torch.stack(weight_grads, 1).to(weights.dtype), *([None] * 7))


torch.library.register_autograd(NAME, _backward, setup_context=_setup_context)


def profitable(taps: Sequence[Tensor], num_levels: int) -> bool:
    """Whether the fused kernel can run on these taps and gains anything: on CUDA, within the kernel's limits."""
    first = taps[0]
    return (
        first.is_cuda
        and _HAS_CUDA
        and len(taps) <= native.MAX_TAPS
        and num_levels <= native.MAX_LEVELS
        and first.shape[-1] % 8 == 0
        and first.shape[-1] <= native.MAX_CHANNELS
        and first.numel() < 2**31
        and all(tap.dtype == first.dtype and tap.dtype in _TYPES for tap in taps)
    )
