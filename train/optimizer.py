"""AdamW with layer-wise learning rates, its schedules, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from train.config import OptimizerConfig


def layer_of(name: str, depth: int) -> int:
    """Layer of a parameter of the detector: 0 for the stem, 1 to ``depth`` the blocks, ``depth + 1`` for the rest.

    The convolutional prior beside a ViT is new at fine-tuning, like neck and heads, and counts as the rest.
    """
    parts = name.split(".")
    if "backbone" not in parts:
        return depth + 1
    if "blocks" in parts:
        return int(parts[parts.index("blocks") + 1]) + 1
    return depth + 1 if "spatial_prior" in parts else 0


def make_optimizer(model: nn.Module, depth: int, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and kernels only, learning rates falling towards the input.

    A group's ``lr_share`` is ``layer_decay ** (depth + 1 - layer)`` (BEiT, Bao et al. 2022, appendix).

    Args:
        model: Parameters without gradients are left out.
        depth: Blocks of the backbone.
        config: Settings.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((layer_of(name, depth), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if matrix else 0.0,
                "lr_share": config.layer_decay ** (depth + 1 - layer),
            }
            for (layer, matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=config.lr,
    )


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of a step (from 0): linear warm-up, then a cosine or steps down to ``final_lr_share`` of the peak."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "step":
        passed = sum(step >= share * steps for share in config.step_at)
        return config.lr * config.step_factor**passed
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    share = config.final_lr_share + (1 - config.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * share


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_share"]


class AveragedWeights:
    """Exponential moving average of a model's parameters and floating-point buffers; counters are copied.

    The decay rises with the step, ``min(decay, (1 + step) / (10 + step))``, so that a short run is not held back by its
    first weights. Sharded tensors are averaged shard by shard.

    Attributes:
        weights: The averages by the names of the model's ``state_dict``.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.decay, self.step = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards ``model``."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if average.dtype.is_floating_point:
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Go on from ``weights`` after ``step`` updates."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
        self.step = step
