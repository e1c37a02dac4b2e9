"""InternViT: the ViT that BabelRS aligns through language (InternVL2.5, Chen et al. 2024; 300M by default)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from train.config import BackboneConfig
from train.models.blocks import checked_taps, drop_path_rates, run_tapped
from train.models.resample import resample_positions

LAYER_SCALE = 0.1


class InternViT(nn.Module):
    """Pre-norm blocks with LayerScale over patches, a class token and a learned position table; images of any size.

    Only the blocks up to the last tap are built: later ones would never learn. There is no final norm either; the
    original has none, and each reader of a tap normalises it.
    """

    prefix_tokens = 1

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        if config.patch_px is None or config.image_px is None:
            raise ValueError("an InternViT needs patch_px and image_px, which its config fills in")
        self.taps = checked_taps(config.taps, config.depth)
        self.grad_checkpointing = config.grad_checkpointing
        self.stride, side = config.patch_px, config.image_px // config.patch_px
        self.grid = (side, side)
        self.patch_embed = nn.Conv2d(3, config.width, self.stride, stride=self.stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, config.width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        make = partial(Block, config.width, config.num_heads, config.mlp_ratio, qkv_bias=True, norm_layer=norm)
        rates = drop_path_rates(config.drop_path, config.depth)[: self.taps[-1]]
        self.blocks = nn.ModuleList(make(init_values=LAYER_SCALE, drop_path=rate) for rate in rates)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def fix_image_size(self, height: int, width: int) -> None:
        """Resample the positions once, for images of this size; other sizes then start from the resampled table."""
        grid = (height // self.stride, width // self.stride)
        with torch.no_grad():
            table = resample_positions(self.pos_embed, self.grid, grid, self.prefix_tokens)
        self.pos_embed, self.grid = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad), grid

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Tapped token maps ``(B, 1 + H*W, C)``, class token first, of images ``(B, 3, H * patch, W * patch)``."""
        embedded = self.patch_embed(images)  # (B, C, H, W)
        grid = (int(embedded.shape[2]), int(embedded.shape[3]))
        patches = embedded.reshape(-1, int(embedded.shape[1]), grid[0] * grid[1]).transpose(1, 2)
        classes = self.cls_token.expand(patches.shape[0], -1, -1).to(patches)
        tokens = torch.cat([classes, patches], 1) + resample_positions(self.pos_embed, self.grid, grid, 1)
        return run_tapped(self.blocks, tokens, self.taps, self.grad_checkpointing and self.training)
