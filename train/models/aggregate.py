"""Layerwise aggregation: every pyramid level reads its own weighted sum of the normalised taps.

``y_p = sum_l w[p, l] * LN_l(x_l)``, prefix tokens dropped, ``(B, T, C) -> (B, C, H, W)``. The weights start equal,
which is where LVSA ends (BabelRS, LVSA at alpha = 1): detection begins with the layers that pretraining aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.models.aggregate_operator import profitable

EPSILON = 1e-6


def layerwise_aggregate(
    taps: Sequence[Tensor], gamma: Tensor, beta: Tensor, weights: Tensor, prefix_tokens: int, grid: tuple[int, int]
) -> tuple[Tensor, ...]:
    """The aggregation as a plain PyTorch expression.

    Args:
        taps: S token maps ``(B, prefix_tokens + H*W, C)``.
        gamma: LayerNorm scale of each tap, ``(S, C)``.
        beta: LayerNorm shift of each tap, ``(S, C)``.
        weights: ``(P, S)``.
        prefix_tokens: Class and register tokens in front of each map, dropped.
        grid: ``(H, W)`` of the token map.

    Returns:
        P maps ``(B, C, H, W)``.
    """
    height, width = grid
    normalised = [
        functional.layer_norm(tap[:, prefix_tokens:], tap.shape[-1:], gamma[index], beta[index], EPSILON)
        for index, tap in enumerate(taps)
    ]
    stacked = torch.stack(normalised)  # (S, B, H*W, C)
    mixed = torch.einsum("ps,sbtc->pbct", weights.to(stacked.dtype), stacked)
    return tuple(level.unflatten(-1, (height, width)) for level in mixed.unbind(0))


class _ExportedAggregate(torch.autograd.Function):
    """The same operation as one ``babelrs::LayerwiseAggregate`` node while an ONNX graph is traced.

    TensorRT's parser finds the plugin by the two ``plugin_`` attributes and creates it from the others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gamma: Tensor,
        beta: Tensor,
        weights: Tensor,
        prefix_tokens: int,
        height: int,
        width: int,
        *taps: Tensor,
    ) -> tuple[Tensor, ...]:
        return layerwise_aggregate(taps, gamma, beta, weights, prefix_tokens, (height, width))

    @staticmethod
    def symbolic(
        graph: Any, gamma: Any, beta: Any, weights: Any, prefix_tokens: int, height: int, width: int, *taps: Any
    ) -> Any:
        num_levels = weights.type().sizes()[0]
        level_type = taps[0].type().with_sizes([None, gamma.type().sizes()[1], height, width])
        levels = graph.op(
            "babelrs::LayerwiseAggregate",
            *taps,
            gamma,
            beta,
            weights,
            epsilon_f=EPSILON,
            prefix_tokens_i=prefix_tokens,
            height_i=height,
            width_i=width,
            num_levels_i=num_levels,
            plugin_namespace_s="babelrs",
            plugin_version_s="1",
            outputs=num_levels,
        )
        for level in levels if num_levels > 1 else [levels]:
            level.setType(level_type)  # what stands behind the node is typed and shaped from it
        return levels


class LayerwiseAggregate(nn.Module):
    """S tapped token maps to P pyramid inputs, with learned weights.

    Args:
        num_taps: S.
        num_levels: P.
        channels: C.
        prefix_tokens: Tokens in front of the map, dropped.
    """

    def __init__(self, num_taps: int, num_levels: int, channels: int, prefix_tokens: int) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.gamma = nn.Parameter(torch.ones(num_taps, channels))
        self.beta = nn.Parameter(torch.zeros(num_taps, channels))
        self.weights = nn.Parameter(torch.full((num_levels, num_taps), 1.0 / num_taps))

    def forward(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """P maps ``(B, C, H, W)`` from S token maps ``(B, T, C)``."""
        if torch.onnx.is_in_onnx_export():
            outputs = _ExportedAggregate.apply(self.gamma, self.beta, self.weights, self.prefix_tokens, *grid, *taps)
            return tuple(outputs)
        if profitable(taps, len(self.weights)):
            whole = [tap.contiguous() for tap in taps]
            fused = torch.ops.babelrs.layerwise_aggregate
            return tuple(fused(whole, self.gamma, self.beta, self.weights, self.prefix_tokens, *grid, EPSILON))
        return layerwise_aggregate(taps, self.gamma, self.beta, self.weights, self.prefix_tokens, grid)
