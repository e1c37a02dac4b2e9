"""From aggregated token maps and fine convolutional maps to the pyramid that the heads read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from babelrs.errors import BabelRSError
from train.models.layers import ConvUnit, Residual


class Pyramid(nn.Module):
    """One map per stride, top-down: each level joins its aggregated tokens, the coarser level and the fine maps.

    Levels finer than the tokens take nearest-neighbour upsampling (bit-exact in every engine), coarser ones strided
    convolutions. Fine maps at half a level's stride enter by a strided convolution, so that the finest level also
    reads stride 4.

    Args:
        token_channels: C of the aggregated maps.
        token_stride: Stride of the tokens, in pixels.
        prior_channels: Channels of the fine maps by stride.
        strides: Strides of the pyramid, rising by factors of two.
        channels: Channels of every level.

    Raises:
        BabelRSError: ``token_stride`` is no power of two, so that no level is a whole multiple of it.
    """

    def __init__(
        self,
        token_channels: int,
        token_stride: int,
        prior_channels: Mapping[int, int],
        strides: Sequence[int],
        channels: int,
    ) -> None:
        super().__init__()
        if token_stride & (token_stride - 1):
            raise BabelRSError(f"The backbone's patches are {token_stride} px wide.", "Use one with 8, 16 or 32 px.")
        self.strides, self.token_stride = tuple(strides), token_stride
        self.prior_strides = tuple(prior_channels)
        self.lateral = nn.ModuleList(ConvUnit(token_channels, channels, kernel=1) for _ in strides)
        self.down = nn.ModuleList(
            nn.Sequential(*(ConvUnit(channels, channels, stride=2) for _ in range(_halvings(token_stride, stride))))
            for stride in strides
        )
        self.prior_here = nn.ModuleDict()
        self.prior_finer = nn.ModuleDict()
        for stride in strides:
            if stride < token_stride and stride in prior_channels:
                self.prior_here[str(stride)] = ConvUnit(prior_channels[stride], channels, kernel=1)
        if strides[0] // 2 in prior_channels:
            self.prior_finer[str(strides[0])] = ConvUnit(prior_channels[strides[0] // 2], channels, stride=2)
        self.merge = nn.ModuleList(ConvUnit(channels, channels) for _ in strides)
        self.refine = nn.ModuleList(Residual(channels) for _ in strides)

    def forward(self, tokens: Sequence[Tensor], prior: Mapping[int, Tensor]) -> list[Tensor]:
        """Maps ``(B, channels, H/stride, W/stride)``, finest first."""
        levels: list[Tensor] = []
        coarser: Tensor | None = None
        for index in reversed(range(len(self.strides))):
            fused = self._level(index, tokens[index], prior, coarser)
            coarser = self.refine[index](self.merge[index](fused))
            levels.append(coarser)
        return levels[::-1]

    def _level(self, index: int, tokens: Tensor, prior: Mapping[int, Tensor], coarser: Tensor | None) -> Tensor:
        stride, key = self.strides[index], str(self.strides[index])
        x = self.down[index](self.lateral[index](tokens))
        if stride < self.token_stride:
            x = _upsampled(x, self.token_stride // stride)
            x = _cropped(x, prior[stride]) if stride in self.prior_strides else x
        if key in self.prior_here:
            x = x + self.prior_here[key](prior[stride])
        if key in self.prior_finer:
            x = x + self.prior_finer[key](prior[stride // 2])
        if coarser is not None:
            x = x + _cropped(_upsampled(coarser, 2), x)
        return x


def _upsampled(x: Tensor, factor: int) -> Tensor:
    return functional.interpolate(x, scale_factor=float(factor), mode="nearest")


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    """``x`` cut to the size of ``like``: sizes are plain integers, so that no shape is computed inside a graph."""
    height, width = int(like.shape[-2]), int(like.shape[-1])
    return x if (int(x.shape[-2]), int(x.shape[-1])) == (height, width) else x[..., :height, :width]


def _halvings(token_stride: int, stride: int) -> int:
    count = 0
    while token_stride < stride:
        token_stride, count = token_stride * 2, count + 1
    return count


def level_sizes(height: int, width: int, strides: Sequence[int]) -> list[tuple[int, int]]:
    """``(H, W)`` of every pyramid level for an image of ``height`` x ``width`` pixels."""
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def anchor_points(height: int, width: int, strides: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres of all cells, finest level first.

    Returns:
        Points ``(A, 2)`` x, y in pixels, and the stride of each, ``(A,)``; both float32.
    """
    points, point_strides = [], []
    for stride, (rows, columns) in zip(strides, level_sizes(height, width, strides), strict=True):
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        points.append((torch.stack([x, y], -1).reshape(-1, 2).float() + 0.5) * stride)
        point_strides.append(torch.full((rows * columns,), float(stride), device=device))
    return torch.cat(points), torch.cat(point_strides)
