"""The paper's claim of stable training, watched: opposing gradients, exploding losses, where NaN began.

BabelRS argues that the detection gradients of the sensors on the shared backbone turn from opposing to agreeing after
language alignment, and that gradient norms stay controlled under mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from babelrs.sensors import Sensor
from train.processes import summed


def gradient_agreement(
    losses: Mapping[Sensor, Tensor], parameters: Sequence[nn.Parameter], scale: float = 1.0
) -> dict[str, float]:
    """Norm of each sensor's gradient on shared parameters, and the cosine between each two.

    The graph stays for the backward pass of the step itself. With several processes the gradients are their sum.

    Args:
        losses: A scalar per sensor.
        parameters: The shared parameters.
        scale: The losses are multiplied by this before, the norms divided after: fp16 gradients need it.

    Returns:
        ``{"norm.rgb": ..., "cosine.rgb.sar": ...}``; a cosine with a zero gradient is NaN.
    """
    gradients = {
        sensor: torch.autograd.grad(loss * scale, parameters, retain_graph=True, allow_unused=True)
        for sensor, loss in losses.items()
    }
    products = dict.fromkeys([(a, b) for a in losses for b in losses if a <= b], 0.0)
    for index in range(len(parameters)):
        shared = {sensor: grads[index] for sensor, grads in gradients.items()}
        here = {sensor: summed(grad).double() for sensor, grad in shared.items() if grad is not None}
        for first, second in products:
            if first in here and second in here:
                products[first, second] += float((here[first] * here[second]).sum())
    norms = {sensor: math.sqrt(products[sensor, sensor]) for sensor in losses}
    found = {f"norm.{sensor}": norm / scale for sensor, norm in norms.items()}
    for first, second in combinations(sorted(losses), 2):
        size = norms[first] * norms[second]
        found[f"cosine.{first}.{second}"] = products[first, second] / size if size else math.nan
    return found


Name = TypeVar("Name", bound=str)


class LossGuard(Generic[Name]):
    """Notices a loss that explodes: above ``factor`` times its recent mean.

    Args:
        factor: How many times.
        memory_steps: Steps over which the mean forgets; nothing is judged before as many.
    """

    def __init__(self, factor: float, memory_steps: int = 50) -> None:
        self.factor, self.memory_steps = factor, memory_steps
        self.mean: dict[str, float] = {}
        self.steps = 0

    def state(self) -> dict[str, Any]:
        """All that it remembers, as plain values for JSON."""
        return {"mean": {str(name): mean for name, mean in self.mean.items()}, "steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.mean, self.steps = dict(state["mean"]), int(state["steps"])

    def exploded(self, losses: Mapping[Name, float]) -> list[Name]:
        """Names whose loss is not finite or too large; the others enter the mean."""
        judged = self.steps >= self.memory_steps
        self.steps += 1
        wrong = []
        for name, loss in losses.items():
            mean = self.mean.get(str(name), loss)
            if not math.isfinite(loss) or (judged and loss > self.factor * mean):
                wrong.append(name)
            else:
                self.mean[str(name)] = mean + (loss - mean) / min(self.steps, self.memory_steps)
        return wrong


def first_non_finite(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Where NaN or infinity begins: a parameter, the first module whose output holds it, or nowhere (empty).

    Args:
        model: Its modules are watched.
        forward: Runs the model once more on the same batch.
    """
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            return f"parameter {name}"
    with _kept_buffers(model), _watched(model) as found, torch.no_grad():
        forward()
    return found[0] if found else ""


def non_finite_gradient(model: nn.Module) -> str:
    """The parameter nearest to the loss whose gradient holds NaN or infinity; empty where none does."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"gradient of {name}"
    return ""


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    found: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and any(not torch.isfinite(tensor).all() for tensor in _tensors(output)):
                found.append(f"output of {name} ({type(module).__name__})")

        return look

    # Inner modules end before the ones that hold them: the first to report is the innermost.
    handles: list[RemovableHandle] = [
        module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Running statistics stay as they are."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name))
