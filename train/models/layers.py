"""The convolution units that every convolutional part of the detector is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from train.processes import num_processes, summed_with_gradient


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes' images, so that their number changes no result.

    PyTorch's ``SyncBatchNorm`` does this on CUDA only. Every process must bring as many values as the others.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised ``(B, C, H, W)``, in the input's type; statistics in float32."""
        if not self.training or num_processes() == 1:
            return super().forward(input)
        count = input.numel() // input.shape[1] * num_processes()
        wide = input.float()
        mean = summed_with_gradient(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = summed_with_gradient(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, SiLU: ``(B, in, H, W) -> (B, out, ceil(H/stride), ceil(W/stride))``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            BatchNorm(out_channels, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class LevelsUnit(ConvUnit):
    """A :class:`ConvUnit` shared by all levels of a pyramid, with statistics over all of them together.

    Normalising each level by itself would train on statistics per level and run on their average: scores that look
    right in training and are wrong in use. In evaluation this is the plain unit, so it folds into its convolution.
    """

    def on_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The unit on maps ``(B, in, H_p, W_p)``, giving ``(B, out, H_p, W_p)``."""
        convolution, normalisation, activation = self
        if not self.training:
            return [self(level) for level in levels]
        maps = [convolution(level) for level in levels]
        joined = torch.cat([flat_map(level) for level in maps], 2)[..., None]  # (B, C, sum of H*W, 1)
        parts = activation(normalisation(joined)).split([level.shape[2] * level.shape[3] for level in maps], 2)
        return [part.reshape(level.shape) for part, level in zip(parts, maps, strict=True)]


class Residual(nn.Module):
    """Two 3x3 convolutions through half the channels, added to the input; ``(B, C, H, W)`` in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvUnit(channels, channels // 2), ConvUnit(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus its residual."""
        return x + self.body(x)


def flat_map(x: Tensor) -> Tensor:
    """``(B, C, H, W) -> (B, C, H*W)`` with plain integers, so that a traced graph computes no shapes."""
    return x.reshape(-1, int(x.shape[1]), int(x.shape[2]) * int(x.shape[3]))
