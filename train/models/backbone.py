"""Shared backbones: any ViT that yields S tapped token maps, and the fine features beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from babelrs.errors import BabelRSError
from train.config import BackboneConfig
from train.models.layers import ConvUnit, Residual, flat_map


@dataclass(frozen=True)
class Features:
    """What a backbone gives the detector.

    Attributes:
        taps: S token maps ``(B, prefix + H*W, C)``.
        grid: ``(H, W)`` of the tokens.
        prior: Fine convolutional maps ``(B, C_s, H_s, W_s)`` by stride, at least strides 4 and 8.
    """

    taps: tuple[Tensor, ...]
    grid: tuple[int, int]
    prior: dict[int, Tensor]


class ConvStem(nn.Module):
    """Convolutions from pixels down to the token stride; the small configurations' SpatialPrior and patch stem in one.

    ``widths[i]`` are the channels at stride ``2 ** (i + 1)``; ``blocks[i]`` residual blocks follow each stride.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        stages, channels = [], 3
        for width, count in zip(widths, blocks, strict=True):
            stages.append(nn.Sequential(ConvUnit(channels, width, stride=2), *(Residual(width) for _ in range(count))))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.channels = {2 ** (index + 1): width for index, width in enumerate(widths)}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps by stride, from 2 to the deepest."""
        maps, x = {}, images
        for index, stage in enumerate(self.stages):
            x = stage(x)
            maps[2 ** (index + 1)] = x
        return maps


class ConvViT(nn.Module):
    """A convolutional stem followed by transformer blocks on its deepest map: learns from scratch on few images.

    Positions come from the padding of the convolutions, so any image size fits.
    """

    prefix_tokens = 0

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.stem = ConvStem(config.stem_widths, config.stem_blocks)
        self.stride = 2 ** len(config.stem_widths)
        self.channels = config.width
        self.prior_channels = {s: c for s, c in self.stem.channels.items() if s >= 4}
        self.project = nn.Conv2d(config.stem_widths[-1], config.width, 1)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio, qkv_bias=True, drop_path=rate) for rate in rates
        )
        self.taps = _checked_taps(config.taps, config.depth)

    @property
    def transformer_blocks(self) -> nn.ModuleList:
        """The blocks, first to last."""
        return self.blocks

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images ``(B, 3, H, W)``."""
        maps = self.stem(images)
        projected = self.project(maps[self.stride])
        tokens = flat_map(projected).transpose(1, 2)  # (B, C, H, W) -> (B, T, C)
        tapped = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in self.taps:
                tapped.append(tokens)
        prior = {stride: maps[stride] for stride in self.prior_channels}
        return Features(tuple(tapped), (int(projected.shape[-2]), int(projected.shape[-1])), prior)


class TimmViT(nn.Module):
    """A ViT of timm by name, with a separate SpatialPrior branch for strides 4 and 8."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        import timm

        if config.name not in timm.list_models():
            raise BabelRSError(f"Unknown backbone {config.name!r}.", "Use conv_vit or a ViT name that timm lists.")
        try:
            vit: Any = timm.create_model(
                config.name,
                pretrained=config.pretrained,
                num_classes=0,
                dynamic_img_size=True,
                drop_path_rate=config.drop_path,
            )
        except TypeError as error:  # the model has no such settings
            what = f"Backbone {config.name!r} is no ViT that takes any image size ({error})."
            raise BabelRSError(what, "Use conv_vit or a plain ViT of timm.") from error
        self.vit = vit
        self.taps = _checked_taps(config.taps, len(vit.blocks))
        self.prefix_tokens: int = vit.num_prefix_tokens
        self.stride: int = vit.patch_embed.patch_size[0]
        self.channels: int = vit.embed_dim
        self.spatial_prior = ConvStem(config.stem_widths[:3], config.stem_blocks[:3])
        self.prior_channels = {s: c for s, c in self.spatial_prior.channels.items() if s >= 4}

    @property
    def transformer_blocks(self) -> Any:
        """The blocks, first to last."""
        return self.vit.blocks

    def fix_image_size(self, height: int, width: int) -> None:
        """Take images of one size from now on: positions are resampled once, which an exported graph cannot do."""
        self.vit.set_input_size(img_size=(height, width))
        self.vit.dynamic_img_size, self.vit.patch_embed.flatten = False, True

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images ``(B, 3, H, W)``; H and W multiples of the patch size."""
        maps = self.spatial_prior(images)
        vit: Any = self.vit
        tapped = vit.forward_intermediates(
            images,
            indices=[tap - 1 for tap in self.taps],
            output_fmt="NLC",
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        joined = tuple(
            torch.cat([prefix, tokens], 1) if self.prefix_tokens else tokens for tokens, prefix in map(_pair, tapped)
        )
        grid = (int(images.shape[-2]) // self.stride, int(images.shape[-1]) // self.stride)
        return Features(joined, grid, {stride: maps[stride] for stride in self.prior_channels})


def _pair(item: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return item if isinstance(item, tuple) else (item, item[:, :0])


def _checked_taps(taps: Sequence[int], depth: int) -> tuple[int, ...]:
    ordered = tuple(sorted(set(taps)))
    if not ordered or ordered != tuple(taps) or ordered[0] < 1 or ordered[-1] > depth:
        raise BabelRSError(
            f"model.backbone.taps {list(taps)} do not fit {depth} blocks.", "Give rising block numbers, counted from 1."
        )
    return ordered


Backbone = ConvViT | TimmViT


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that ``config.name`` names: ``conv_vit`` or any ViT of timm.

    Raises:
        BabelRSError: Unknown name, or taps that the depth does not have.
    """
    return ConvViT(config) if config.name == "conv_vit" else TimmViT(config)
