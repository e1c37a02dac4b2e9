"""A model over several processes: replicas that average their gradients, or weights sharded over them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn

from train.processes import num_processes


def make_accelerator(deterministic: bool, trackers: Sequence[str], out: Path) -> Accelerator:
    """Device and processes; precision and loss scale are the trainer's own.

    Args:
        deterministic: Refuse operations whose result varies from run to run.
        trackers: Where scalars go, by accelerate's names.
        out: Folder of the run.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    return Accelerator(cpu=not torch.cuda.is_available(), log_with=list(trackers) or None, project_dir=str(out))


def start_trackers(accelerator: Accelerator, trackers: Sequence[str], out: Path) -> None:
    """Open the trackers of a run, whose folder exists."""
    accelerator.init_trackers("", init_kwargs={"wandb": {"dir": str(out)}} if "wandb" in trackers else {})


def distribute(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    parallel: Literal["ddp", "fsdp"],
    accelerator: Accelerator,
    methods: Sequence[str] = (),
) -> nn.Module:
    """The model as every process trains it; the optimiser is made from its parameters afterwards.

    Sharding goes block by block (FSDP2), so that no process ever holds all weights at once; the blocks of a step are
    gathered when they are needed.

    Args:
        model: The whole.
        blocks: Its transformer blocks.
        parallel: Replicas or sharded weights.
        accelerator: Device and processes.
        methods: Of the model, that use its weights as ``forward`` does.
    """
    if num_processes() == 1 or parallel == "ddp":
        return accelerator.prepare_model(model) if num_processes() > 1 else model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(accelerator.device.type, (num_processes(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(model, method)
    return model


def let_go(model: nn.Module) -> None:
    """Shard weights again that a forward pass without a backward pass has left gathered."""
    wrapped: Any = model
    if hasattr(wrapped, "reshard"):
        wrapped.reshard()


@contextmanager
def gradients_kept_local(model: nn.Module, local: bool) -> Iterator[None]:
    """Within this context backward passes add up gradients of this process only, where ``local`` is set."""
    wrapped: Any = model
    if local and isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    elif local and hasattr(wrapped, "set_requires_gradient_sync"):
        wrapped.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            wrapped.set_requires_gradient_sync(True)
    else:
        yield


def clip_gradients(model: nn.Module, largest: float) -> torch.Tensor:
    """Scale the gradients down to a norm of ``largest`` at most; the norm before, a scalar."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
