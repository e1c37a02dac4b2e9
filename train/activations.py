"""What a training step keeps for its backward pass, counted on tensors that have shapes and types only.

The real model code runs under fake tensors: a model of any size takes seconds and no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

Model = TypeVar("Model", bound=nn.Module)


def without_data(build: Callable[[], Model], mode: FakeTensorMode) -> Model:
    """What ``build`` makes, on the CPU, of tensors that have shapes and types only; tied weights are no longer tied."""
    with torch.device("meta"):  # libraries read values while they build, which only meta tensors leave alone
        model = build()
    with mode:
        return model.to_empty(device="cpu")


class SavedTensors:
    """Storages that autograd keeps for the backward pass, each counted once, however many tensors share it.

    Args:
        own: Tensors that are not counted: they are there anyway.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._kept: dict[int, Tensor] = {}  # the tensors too: a freed storage's number would be given again

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor."""
        if (number := tensor.untyped_storage()._cdata) not in self._own:
            self._kept[number] = tensor
        return tensor

    @property
    def num_bytes(self) -> int:
        """Bytes kept so far."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


@contextlib.contextmanager
def saved_tensors(model: nn.Module, precision: str) -> Iterator[SavedTensors]:
    """What the forward pass of ``model`` in this context keeps, without its parameters and buffers.

    Args:
        model: In training mode.
        precision: Of automatic mixed precision: ``no``, ``bf16`` or ``fp16``.
    """
    saved = SavedTensors([*model.parameters(), *model.buffers()])
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cast = torch.autocast("cpu", types[precision]) if precision in types else contextlib.nullcontext()
    with saved_tensors_hooks(saved.keep, lambda tensor: tensor), cast:
        yield saved


class KnownIntegers(TorchDispatchMode):
    """Within a :class:`FakeTensorMode`: integers and booleans that come of real tensors keep their values.

    Token ids, positions and masks decide shapes (how many rows have a label) and branches (whether a mask is needed),
    which fake tensors refuse to answer. Floating-point results are fake, those of real tensors too.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator: with values where only integers take part, else without."""
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        real = not any(isinstance(tensor, FakeTensor) for tensor in given)
        if real and not _makes_floats(func, given, kwargs.get("dtype")):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _whole_numbers(args[1]))
        return func(*args, **kwargs)


def _makes_floats(func: Any, given: list[Tensor], dtype: torch.dtype | None) -> bool:
    if dtype is not None:
        return dtype.is_floating_point
    return not given and func is not torch.ops.aten.arange.default  # other factories make floats where no type is named


def _whole_numbers(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Indices with the real masks among them as positions, so that the result's shape is known."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with _disable_current_modes():
                found += index.nonzero(as_tuple=True)
        else:
            found.append(index)
    return found
