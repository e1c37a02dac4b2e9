"""The vision-language model of pretraining: transformers' InternVL, reading a merge of several ViT layers.

    ViT -> merge of the tapped blocks -> class token dropped -> pixel shuffle 0.5 -> projector -> causal LLM

transformers takes one layer (``vision_feature_layer``) in ``InternVLModel.get_image_features``; that method is what is
replaced here. Everything else, names of the weights included, is transformers' own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from babelrs.errors import BabelRSError
from train.models.blocks import checked_taps, drop_path_rates
from train.models.lvsa import aggregate, layer_weights
from train.vlm_config import Merge

SHUFFLE = 2
"""Side of the square of tokens that pixel shuffle joins into one."""


@dataclass(frozen=True)
class Tapping:
    """What is read of the ViT; kept under ``config.tapping`` of the model.

    Attributes:
        merge: How the tapped layers become visual tokens.
        taps: Tapped blocks, counted from 1; those after the last are not built, as they would never learn.
        tau: Optimiser steps until LVSA weighs all taps alike.
        depth: Blocks of the ViT as published.
        drop_path: Stochastic depth of the last published block.
    """

    merge: Merge
    taps: tuple[int, ...]
    tau: int
    depth: int
    drop_path: float = 0.0

    @staticmethod
    def of(config: InternVLConfig) -> Tapping:
        """The one a model's configuration holds."""
        held: dict[str, Any] = dict(getattr(config, "tapping"))  # noqa: B009 - no declared attribute
        return Tapping(**{**held, "taps": tuple(held["taps"])})


def tapped_config(config: InternVLConfig, tapping: Tapping) -> InternVLConfig:
    """An InternVL configuration with what is read of its ViT, which is cut after the last tap.

    Raises:
        BabelRSError: The taps do not fit the ViT, or it ends in a normalisation that taps would skip.
    """
    taps = checked_taps(tapping.taps, tapping.depth, "taps")
    cut = copy.deepcopy(config)
    vision: Any = cut.vision_config
    if not vision.use_mean_pooling:
        raise BabelRSError("The vision tower ends in a normalisation, which its taps would skip.", "Use an InternViT.")
    vision.num_hidden_layers, vision.use_mask_token = taps[-1], False
    cut.tapping = asdict(tapping) | {"taps": list(taps)}
    return cut


class LayerwiseInternVLModel(InternVLModel):
    """``InternVLModel`` whose visual tokens merge several layers of the ViT.

    ``lvsa_step`` counts the optimiser's steps; the training loop sets it and checkpoints carry it.
    """

    lvsa_step: Tensor
    """int64 scalar."""

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__(config)
        self.tapping = Tapping.of(config)
        self.register_buffer("lvsa_step", torch.zeros((), dtype=torch.int64))
        num_taps = len(self.tapping.taps)
        if self.tapping.merge == "concat":
            self.multi_modal_projector = InternVLMultiModalProjector(_widened(config, num_taps))
        others = num_taps - 1 if self.tapping.merge == "per_layer" else 0
        self.other_projectors = nn.ModuleList(InternVLMultiModalProjector(config) for _ in range(others))
        self._add_drop_path()
        self.post_init()

    def _add_drop_path(self) -> None:
        """Stochastic depth (Huang et al. 2016) where transformers has dropout, at the end of each residual branch."""
        rates = drop_path_rates(self.tapping.drop_path, self.tapping.depth)
        for layer, rate in zip(self.vision_tower.encoder.layer, rates, strict=False):
            if rate:
                attention = layer.attention
                attention.projection_dropout = nn.Sequential(attention.projection_dropout, DropPath(rate))
                layer.dropout = nn.Sequential(layer.dropout, DropPath(rate))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerwiseInternVLModel):
            nn.init.zeros_(module.lvsa_step)  # weights published without it start at 0

    def merge_weights(self) -> tuple[float, ...]:
        """The weight of each tapped layer at the present step, last tap last; all 1 where nothing is weighed."""
        taps = self.tapping.taps
        if self.tapping.merge == "lvsa":
            return layer_weights(int(self.lvsa_step), self.tapping.tau, len(taps))
        only_last = self.tapping.merge == "last"
        return tuple(0.0 if only_last and tap != taps[-1] else 1.0 for tap in taps)

    def tapped(self, pixel_values: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Token maps ``(B, H*W, C)`` of the tapped blocks without class token, and ``(H, W)``.

        Args:
            pixel_values: Normalised images ``(B, 3, H * patch, W * patch)``.

        Raises:
            BabelRSError: The images are not of an even number of patches.
        """
        grid = self._grid(pixel_values)
        states = self.vision_tower(pixel_values=pixel_values.to(self.dtype), output_hidden_states=True).hidden_states
        return tuple(states[tap][:, 1:] for tap in self.tapping.taps), grid  # states[0] is the embedding

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Visual tokens ``(B, H*W / 4, text width)`` as ``pooler_output``; of them an image has 256 at 448 px.

        Args:
            pixel_values: Normalised images ``(B, 3, H * patch, W * patch)``.
            _: What transformers passes on beside: which layer to take, and how to return it.
        """
        taps, grid = self.tapped(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=taps[-1], pooler_output=self._merged(taps, grid))

    def _merged(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        if self.tapping.merge == "per_layer":
            projectors = [*self.other_projectors, self.multi_modal_projector]
            projected = [project(self._shuffled(tap, grid)) for project, tap in zip(projectors, taps, strict=True)]
            return aggregate(projected, self.merge_weights())
        joined = torch.cat(list(taps), -1) if self.tapping.merge == "concat" else aggregate(taps, self.merge_weights())
        return self.multi_modal_projector(self._shuffled(joined, grid))

    def _shuffled(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``(B, H*W, C) -> (B, H*W / 4, 4C)``."""
        return self.pixel_shuffle(tokens.unflatten(1, grid), 1 / SHUFFLE).flatten(1, 2)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        vision: Any = self.config.vision_config
        patch = [int(side) for side in vision.patch_size]
        size = [int(side) for side in images.shape[-2:]]
        if any(side % (SHUFFLE * unit) for side, unit in zip(size, patch, strict=True)):
            what = f"Images of {size[0]} x {size[1]} px are no even number of {patch[0]} px patches."
            raise BabelRSError(what, "Resize them: pixel shuffle joins 2 x 2 patches.")
        return size[0] // patch[0], size[1] // patch[1]


class LayerwiseInternVL(InternVLForConditionalGeneration):
    """``InternVLForConditionalGeneration`` on :class:`LayerwiseInternVLModel`; its configuration has a ``tapping``."""

    def __init__(self, config: InternVLConfig) -> None:
        super(InternVLForConditionalGeneration, self).__init__(config)
        self.model = LayerwiseInternVLModel(config)
        text: Any = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    @property
    def tapping(self) -> Tapping:
        """What is read of the ViT."""
        return self.model.tapping

    @property
    def lvsa_step(self) -> int:
        """Optimiser steps done, as LVSA counts them."""
        return int(self.model.lvsa_step)

    @lvsa_step.setter
    def lvsa_step(self, step: int) -> None:
        self.model.lvsa_step.fill_(step)

    def merge_weights(self) -> tuple[float, ...]:
        """The weight of each tapped layer at the present step, last tap last."""
        return self.model.merge_weights()


def _widened(config: InternVLConfig, factor: int) -> InternVLConfig:
    """A configuration for a projector that reads ``factor`` layers side by side."""
    wide = copy.deepcopy(config)
    vision: Any = wide.vision_config
    vision.hidden_size = factor * vision.hidden_size
    return wide
