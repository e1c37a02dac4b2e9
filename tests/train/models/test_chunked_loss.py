from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from train.instruct.chat import IGNORED
from train.models.chunked_loss import ResponseLoss, response_loss

BATCH, LENGTH, WIDTH, WORDS = 2, 40, 6, 500


def inputs(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, labels and sample ids: in each row samples of 15, 20 and 5 tokens, the last one padding."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(BATCH, LENGTH, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(WORDS, (BATCH, LENGTH), generator=generator)
    labels[torch.rand(BATCH, LENGTH, generator=generator) < 0.3] = IGNORED
    row = torch.tensor([0] * 15 + [1] * 20 + [-1] * 5)
    return hidden, weight, labels, torch.stack([row, torch.where(row < 0, row, row + 2)])


def all_logits(hidden: Tensor, weight: Tensor, labels: Tensor, owners: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """The loss from the logits of all tokens, by sample, in a loop."""
    total, samples = hidden.new_zeros(()), {}
    for number in range(4):
        row = number // 2
        columns = (owners[row] == number).nonzero()[:, 0]
        logits, wanted = hidden[row, columns] @ weight.T, labels[row, columns]
        samples[number] = functional.cross_entropy(logits[:-1], wanted[1:], ignore_index=IGNORED, reduction="sum")
        total = total + samples[number]
    return total, samples


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_value_and_gradients_are_those_of_all_logits(chunk: int) -> None:
    hidden, weight, labels, owners = inputs(seed=chunk)
    expected, samples = all_logits(hidden, weight, labels, owners)
    wanted = torch.autograd.grad(expected, [hidden, weight])
    found = response_loss(hidden, weight, labels, owners, 4, chunk)
    gradients = torch.autograd.grad(found.total, [hidden, weight])
    torch.testing.assert_close(found.total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.per_sample, torch.stack([*samples.values()]).detach(), rtol=1e-12, atol=0)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    counts = [int((labels[n // 2][owners[n // 2] == n][1:] != IGNORED).sum()) for n in range(4)]
    assert found.tokens_per_sample.tolist() == counts
    assert int(found.tokens) == sum(counts) > 20


def test_an_instruction_tokens_label_changes_nothing_and_a_responses_does() -> None:
    hidden, weight, labels, owners = inputs(seed=3)
    before = response_loss(hidden, weight, labels, owners, 4).total
    inner = torch.zeros_like(labels, dtype=torch.bool)
    inner[:, 1:] = (owners[:, 1:] == owners[:, :-1]) & (owners[:, 1:] >= 0)
    for row, column in (inner & (labels != IGNORED)).nonzero()[::7].tolist():
        changed = labels.clone()
        changed[row, column] = (changed[row, column] + 1) % WORDS
        assert response_loss(hidden, weight, changed, owners, 4).total != before
    outside = labels.clone()
    outside[~inner] = (outside[~inner] + 1).clamp(min=0)  # first tokens of samples, and padding
    assert response_loss(hidden, weight, outside, owners, 4).total == before


class Largest(TorchDispatchMode):
    """The number of values in the largest floating-point tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.values = max(self.values, tensor.numel())
        return result


def largest_and_saved(chunk: int | None) -> tuple[int, int]:
    """Largest tensor of a forward and backward pass, and values saved between the two; ``None``: all logits."""
    hidden, weight, labels, owners = inputs(seed=4, dtype=torch.float32)
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with Largest() as largest, saved_tensors_hooks(keep, lambda tensor: tensor):
        if chunk is None:
            loss = functional.cross_entropy((hidden[:, :-1] @ weight.T).flatten(0, 1), labels[:, 1:].flatten())
        else:
            loss = response_loss(hidden, weight, labels, owners, 4, chunk).total
        loss.backward()
    return largest.values, max(saved)


def test_no_more_logits_exist_than_a_chunk_has() -> None:
    chunk = 8
    largest, saved = largest_and_saved(chunk)
    assert largest == chunk * WORDS > WORDS * WIDTH
    assert saved < chunk * WORDS
    rows = BATCH * (LENGTH - 1)
    assert largest_and_saved(None) == (rows * WORDS, rows * WORDS)


def test_a_batch_without_responses_has_a_loss_of_zero_and_a_gradient() -> None:
    hidden, weight, labels, owners = inputs(seed=5)
    found = response_loss(hidden, weight, torch.full_like(labels, IGNORED), owners, 4)
    found.total.backward()
    assert found.total == 0 and int(found.tokens) == 0 and found.per_sample.tolist() == [0, 0, 0, 0]
    assert hidden.grad is not None and not hidden.grad.any() and weight.grad is not None and not weight.grad.any()


def test_half_precision_is_summed_in_float32() -> None:
    hidden, weight, labels, owners = (t.detach() for t in inputs(seed=6))
    narrow = response_loss(hidden.bfloat16(), weight.bfloat16(), labels, owners, 4)
    exact = response_loss(hidden.bfloat16().double(), weight.bfloat16().double(), labels, owners, 4)
    assert isinstance(narrow, ResponseLoss) and narrow.total.dtype == torch.float32
    torch.testing.assert_close(narrow.total.double(), exact.total, rtol=5e-3, atol=0)
