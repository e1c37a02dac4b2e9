"""The loss of packed sequences, as a training step and a look at held-out rows compute it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from train.instruct.packing import PADDING, Pack, stack
from train.instruct.tiles import normalised
from train.models.chunked_loss import ResponseLoss


def packed_losses(model: nn.Module, packs: Sequence[Pack], device: torch.device, autocast: torch.dtype) -> ResponseLoss:
    """Losses of some sequences of equal length; samples are numbered through all of them.

    Args:
        model: A :class:`train.models.csia.CSIA`, maybe wrapped or sharded.
        packs: The sequences.
        device: Where the model is.
        autocast: Type that matrix products are computed in; float32 for no automatic precision.
    """
    batch = stack(packs)
    sizes = [int(pack.sample_ids.max()) + 1 for pack in packs]
    offsets = torch.tensor([0, *itertools.accumulate(sizes)][:-1])[:, None]
    samples = torch.where(batch.sample_ids == PADDING, PADDING, batch.sample_ids + offsets)
    moved = [tensor.to(device, non_blocking=True) for tensor in (batch.input_ids, batch.labels, samples)]
    tiles = normalised(batch.tiles.to(device, non_blocking=True))
    with torch.autocast(device.type, autocast, autocast != torch.float32):
        losses: ResponseLoss = model(*moved, tiles, sum(sizes))
    return losses
