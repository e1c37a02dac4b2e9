"""Shared backbones: any ViT that yields S tapped token maps, and the fine features beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from babelrs.errors import BabelRSError
from train.config import INTERNVIT, BackboneConfig
from train.models.blocks import checked_taps, drop_path_rates, run_tapped
from train.models.internvit import InternViT
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
        self.taps, self.depth = checked_taps(config.taps, config.depth), config.depth
        rates = drop_path_rates(config.drop_path, config.depth)[: self.taps[-1]]  # later blocks would never learn
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio, qkv_bias=True, drop_path=rate) for rate in rates
        )
        self.grad_checkpointing = config.grad_checkpointing

    @property
    def transformer_blocks(self) -> nn.ModuleList:
        """The blocks, first to last."""
        return self.blocks

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images ``(B, 3, H, W)``."""
        maps = self.stem(images)
        projected = self.project(maps[self.stride])
        tokens = flat_map(projected).transpose(1, 2)  # (B, C, H, W) -> (B, T, C)
        tapped = run_tapped(self.blocks, tokens, self.taps, self.grad_checkpointing and self.training)
        prior = {stride: maps[stride] for stride in self.prior_channels}
        return Features(tapped, (int(projected.shape[-2]), int(projected.shape[-1])), prior)

    def fix_image_size(self, height: int, width: int) -> None:
        """Nothing to do: there is no position table."""


class PlainViT(nn.Module, ABC):
    """A ViT on square patches (``vit``), with a separate SpatialPrior branch for the strides 4 and 8 below its patches.

    Args:
        vit: The ViT, with no parameter that its taps do not need.
        taps: Tapped blocks, counted from 1.
        depth: Blocks of the ViT as published; those after the last tap are not built.
        config: Sizes of the SpatialPrior.
    """

    channels: int
    prefix_tokens: int
    stride: int
    position_grid: tuple[int, int]
    position_prefix: int
    """Rows of the position table in front of the map."""

    def __init__(self, vit: nn.Module, taps: tuple[int, ...], depth: int, stride: int, config: BackboneConfig) -> None:
        super().__init__()
        self.vit: Any = vit
        self.taps, self.depth, self.stride = taps, depth, stride
        levels = 3 if stride > 8 else 2  # a map at the patches' own stride would have no reader
        self.spatial_prior = ConvStem(config.stem_widths[:levels], config.stem_blocks[:levels])
        self.prior_channels = {s: c for s, c in self.spatial_prior.channels.items() if s >= 4}

    @property
    def transformer_blocks(self) -> Any:
        """The blocks, first to last."""
        return self.vit.blocks

    @abstractmethod
    def tapped(self, images: Tensor) -> tuple[Tensor, ...]:
        """Token maps ``(B, prefix + H*W, C)``."""

    @abstractmethod
    def fix_image_size(self, height: int, width: int) -> None:
        """Take images of one size from now on: positions are resampled once, which an exported graph cannot do."""

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images ``(B, 3, H, W)``; H and W multiples of the patch size."""
        maps = self.spatial_prior(images)
        grid = (int(images.shape[-2]) // self.stride, int(images.shape[-1]) // self.stride)
        return Features(self.tapped(images), grid, {stride: maps[stride] for stride in self.prior_channels})


class TimmViT(PlainViT):
    """A ViT of timm by name, at random weights: :func:`train.models.backbone_weights.initialise` reads others.

    Modules that only a classifier needs (final norm, pooling, head) and blocks after the last tap are removed: a
    parameter without a gradient stops distributed training.
    """

    def __init__(self, config: BackboneConfig) -> None:
        vit = make_timm_vit(config, pretrained=False)
        depth = len(vit.blocks)
        super().__init__(vit, checked_taps(config.taps, depth), depth, vit.patch_embed.patch_size[0], config)
        _keep_what_taps_need(vit, self.taps[-1])
        self.grad_checkpointing = config.grad_checkpointing
        self.prefix_tokens, self.channels = vit.num_prefix_tokens, vit.embed_dim
        self.position_grid = vit.patch_embed.grid_size
        self.position_prefix = 0 if getattr(vit, "no_embed_class", False) else vit.num_prefix_tokens
        self.train()

    def train(self, mode: bool = True) -> TimmViT:
        """Training or evaluation mode; blocks are checkpointed in training only."""
        self.vit.set_grad_checkpointing(self.grad_checkpointing and mode)
        super().train(mode)
        return self

    def fix_image_size(self, height: int, width: int) -> None:
        """Take images of one size from now on: positions are resampled once, which an exported graph cannot do."""
        self.vit.set_input_size(img_size=(height, width))
        self.vit.dynamic_img_size, self.vit.patch_embed.flatten = False, True

    def tapped(self, images: Tensor) -> tuple[Tensor, ...]:
        """Token maps ``(B, prefix + H*W, C)``."""
        found = self.vit.forward_intermediates(
            images,
            indices=[tap - 1 for tap in self.taps],
            output_fmt="NLC",
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        return tuple(
            torch.cat([prefix, tokens], 1) if self.prefix_tokens else tokens for tokens, prefix in map(_pair, found)
        )


class InternViTBackbone(PlainViT):
    """:class:`InternViT` with its SpatialPrior."""

    def __init__(self, config: BackboneConfig) -> None:
        vit = InternViT(config)
        super().__init__(vit, vit.taps, config.depth, vit.stride, config)
        self.prefix_tokens, self.channels = vit.prefix_tokens, config.width
        self.position_grid, self.position_prefix = vit.grid, vit.prefix_tokens

    def fix_image_size(self, height: int, width: int) -> None:
        """Take images of one size from now on: positions are resampled once, which an exported graph cannot do."""
        self.vit.fix_image_size(height, width)

    def tapped(self, images: Tensor) -> tuple[Tensor, ...]:
        """Token maps ``(B, 1 + H*W, C)``."""
        return self.vit(images)


def make_timm_vit(config: BackboneConfig, pretrained: bool) -> Any:
    """The ViT that timm lists as ``config.name``, with ``patch_px`` and ``image_px`` where they are given.

    Raises:
        BabelRSError: Unknown name, or a model that does not take any image size.
    """
    import timm

    if config.name not in timm.list_models():
        raise BabelRSError(
            f"Unknown backbone {config.name!r}.", f"Use conv_vit, {INTERNVIT} or a ViT name that timm lists."
        )
    sizes: dict[str, Any] = {"patch_size": config.patch_px, "img_size": config.image_px}
    try:
        return timm.create_model(
            config.name,
            pretrained=pretrained,
            num_classes=0,
            dynamic_img_size=True,
            drop_path_rate=config.drop_path,
            **{name: size for name, size in sizes.items() if size is not None},
        )
    except TypeError as error:  # the model has no such settings
        what = f"Backbone {config.name!r} is no ViT that takes any image size ({error})."
        raise BabelRSError(what, "Use conv_vit or a plain ViT of timm.") from error


_READ_BY_TAPS = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "rope", "blocks")


def _keep_what_taps_need(vit: Any, num_blocks: int) -> None:
    vit.blocks = vit.blocks[:num_blocks]
    for name, child in list(vit.named_children()):
        if name not in _READ_BY_TAPS and next(child.parameters(), None) is not None:
            setattr(vit, name, nn.Identity())


def _pair(item: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return item if isinstance(item, tuple) else (item, item[:, :0])


Backbone = ConvViT | TimmViT | InternViTBackbone


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that ``config.name`` names, at random weights.

    Raises:
        BabelRSError: Unknown name, or taps that the depth does not have.
    """
    if config.name == "conv_vit":
        return ConvViT(config)
    return InternViTBackbone(config) if config.name == INTERNVIT else TimmViT(config)
