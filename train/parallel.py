"""A detector over several processes: replicas that average their gradients, or weights sharded over them."""

from __future__ import annotations

from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn

from train.models.detector import Detector
from train.processes import num_processes


def distribute(detector: Detector, parallel: Literal["ddp", "fsdp"], accelerator: Accelerator) -> nn.Module:
    """The detector as every process trains it; the optimiser is made from its parameters afterwards.

    Sharding goes block by block of the backbone (FSDP2), so that no process ever holds all weights at once; the blocks
    of a step are gathered when they are needed.
    """
    if num_processes() == 1 or parallel == "ddp":
        return accelerator.prepare_model(detector) if num_processes() > 1 else detector
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (num_processes(),))
    for block in detector.backbone.transformer_blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(detector, mesh=mesh)
    return detector


def clip_gradients(model: nn.Module, largest: float) -> torch.Tensor:
    """Scale the gradients down to a norm of ``largest`` at most; the norm before, a scalar."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
