"""What all transformer backbones share: checked taps, stochastic depth by block, and running blocks under taps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.checkpoint import checkpoint

from babelrs.errors import BabelRSError


def checked_taps(taps: Sequence[int], depth: int, setting: str = "model.backbone.taps") -> tuple[int, ...]:
    """``taps`` as they are, if they are rising block numbers counted from 1.

    Args:
        taps: Block numbers.
        depth: Blocks there are.
        setting: Where the user gave them.

    Raises:
        BabelRSError: They are not, or the depth does not have them.
    """
    ordered = tuple(sorted(set(taps)))
    if not ordered or ordered != tuple(taps) or ordered[0] < 1 or ordered[-1] > depth:
        raise BabelRSError(
            f"{setting} {list(taps)} do not fit {depth} blocks.", "Give rising block numbers, counted from 1."
        )
    return ordered


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth of each block, rising linearly from 0 to ``last`` (Huang et al. 2016, sec. 4)."""
    return [last * index / max(1, depth - 1) for index in range(depth)]


def run_tapped(blocks: Iterable[Module], tokens: Tensor, taps: Sequence[int], checkpointed: bool) -> tuple[Tensor, ...]:
    """Outputs ``(B, T, C)`` of the tapped blocks; the residual stream itself, with no normalisation after it.

    Args:
        blocks: In order; the first is number 1.
        tokens: ``(B, T, C)``.
        taps: Block numbers.
        checkpointed: Keep only each block's input for the backward pass, and compute the rest again (Chen et al. 2016).
    """
    tapped = []
    for number, block in enumerate(blocks, start=1):
        if checkpointed and torch.is_grad_enabled():
            tokens = checkpoint(block, tokens, use_reentrant=False)
        else:
            tokens = block(tokens)
        if number in taps:
            tapped.append(tokens)
    return tuple(tapped)
