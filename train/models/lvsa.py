"""LVSA: visual tokens as a weighted sum of ViT layers whose weights move while training (BabelRS, arXiv 2603.01758).

With ``alpha = min(step / tau, 1)`` and S tapped layers, ``F = (1 - alpha) * F_last + alpha * mean over the taps``: the
language model first reads the last layer alone, and in the end every tapped layer alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from babelrs.errors import BabelRSError


def layer_weights(step: int, tau: int, num_taps: int) -> tuple[float, ...]:
    """The weight of each tapped layer, last tap last; they sum to 1.

    Args:
        step: Optimiser steps done.
        tau: Optimiser steps until all layers weigh the same; 0 is "from the start".
        num_taps: S.

    Raises:
        BabelRSError: ``tau`` is negative.
    """
    if tau < 0:
        raise BabelRSError(
            f"tau {tau} is negative.", "Give the number of optimiser steps until all layers weigh alike."
        )
    if step < 0 or num_taps < 1:
        raise ValueError(f"step {step} and num_taps {num_taps} must be at least 0 and 1")
    alpha = min(step / tau, 1.0) if tau else 1.0
    other = alpha / num_taps
    return (*(other for _ in range(num_taps - 1)), 1.0 - alpha + other)


def aggregate(taps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of token maps.

    A layer of weight 0 takes no part at all: no gradient reaches it, and values that are not finite do no harm.

    Args:
        taps: S token maps ``(B, T, C)`` without class token.
        weights: S numbers, at least one of them not 0.

    Returns:
        ``(B, T, C)`` in the taps' type.
    """
    if len(taps) != len(weights) or not any(weights):
        raise ValueError(f"{len(taps)} taps cannot be summed with the weights {tuple(weights)}")
    terms = [tap if weight == 1 else weight * tap for tap, weight in zip(taps, weights, strict=True) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
