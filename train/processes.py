"""Several training processes as one: what they must agree on, so that their number changes no result.

Each process takes an equal share of every sensor's images. Batch statistics and loss normalisers are sums over all
processes; gradients are then those of the whole batch, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes the run's files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def summed(value: Tensor) -> Tensor:
    """``value`` summed over all processes, without gradients."""
    if num_processes() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


class _Summed(torch.autograd.Function):
    """Sum over processes whose gradient is summed over them too: every process' loss depends on every summand."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return summed(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return summed(grad.contiguous())


def summed_with_gradient(value: Tensor) -> Tensor:
    """``value`` summed over all processes; gradients flow to every process' summand."""
    return value if num_processes() == 1 else _Summed.apply(value)


def gathered(value: Any) -> list[Any]:
    """``value`` of every process, in rank order; any picklable value."""
    if num_processes() == 1:
        return [value]
    values: list[Any] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Return when every process has come here."""
    if num_processes() > 1:
        dist.barrier()
