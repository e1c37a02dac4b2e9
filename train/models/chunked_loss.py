"""Next-token cross-entropy on response tokens without the logits of a whole batch ever being there at once.

At 151,674 words and 3,072 tokens, float32 logits are 1.9 GB, and as much again for their gradient. Here only the rows
that carry a label are looked at, and only ``chunk`` of them at a time; backwards, each chunk is computed again (Chen et
al. 2016).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from train.instruct.chat import IGNORED


class ResponseLoss(NamedTuple):
    """Sums over a batch; a process's mean is ``total / tokens``, several processes' the ratio of their sums.

    Attributes:
        total: Sum of the tokens' losses in nats, a scalar with gradient, float32 or wider.
        tokens: Number of response tokens, int64 scalar.
        per_sample: Sum of the losses of each sample ``(num_samples,)``, without gradient.
        tokens_per_sample: Response tokens of each sample ``(num_samples,)``, int64.
    """

    total: Tensor
    tokens: Tensor
    per_sample: Tensor
    tokens_per_sample: Tensor


def response_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, sample_ids: Tensor, num_samples: int, chunk: int = 1024
) -> ResponseLoss:
    """Cross-entropy of predicting each response token from the token before it.

    Args:
        hidden: Last hidden states ``(B, L, C)``.
        weight: Of the language model's head, ``(V, C)``.
        labels: ``(B, L)``: the token itself where it is part of a response, else :data:`IGNORED`.
        sample_ids: ``(B, L)``: the sample each token belongs to, in ``[0, num_samples)``; padding is negative. A
            sample's first token is never predicted: what precedes it is another sample's.
        num_samples: In the batch.
        chunk: Rows whose logits exist at the same time.
    """
    scored = (labels[:, 1:] != IGNORED) & (sample_ids[:, 1:] == sample_ids[:, :-1]) & (sample_ids[:, 1:] >= 0)
    rows, targets, owners = hidden[:, :-1][scored], labels[:, 1:][scored], sample_ids[:, 1:][scored]
    losses = [
        checkpoint(_row_losses, part, weight, wanted, use_reentrant=False)
        for part, wanted in zip(rows.split(chunk), targets.split(chunk), strict=True)
    ]
    per_row = torch.cat(losses)  # with no row at all this is one empty chunk, which keeps the graph whole
    sums = per_row.new_zeros(num_samples).index_add(0, owners, per_row.detach())
    counts = torch.zeros_like(sums, dtype=torch.int64).index_add(0, owners, torch.ones_like(owners))
    return ResponseLoss(per_row.sum(), scored.sum(), sums, counts)


def _row_losses(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Losses ``(n,)`` of rows ``(n, C)``, in float32 or wider."""
    logits = functional.linear(rows, weight)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(wide, targets, reduction="none")
