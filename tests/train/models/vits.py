"""Small InternViTs, and weights under the names that others publish them with."""

from __future__ import annotations

from typing import Any

import torch

from tests.train.builders import tiny_backbone
from train.config import BackboneConfig
from train.models.backbone import InternViTBackbone


def tiny_internvit(**changes: Any) -> BackboneConfig:
    """An InternViT of width 32 and depth 4, with a table of 4 x 4 patches of 14 px."""
    fields: dict[str, Any] = {
        "name": "internvit_300m", "width": 32, "depth": 4, "num_heads": 2, "mlp_ratio": 4.0, "patch_px": 14,
        "image_px": 56, "taps": (1, 2, 4), "stem_widths": (8, 8, 8), "stem_blocks": (0, 0, 0),
    }  # fmt: skip
    return tiny_backbone(**{**fields, **changes})


def random_internvit(seed: int, **changes: Any) -> InternViTBackbone:
    """One with every weight disturbed."""
    torch.manual_seed(seed)
    backbone = InternViTBackbone(tiny_internvit(**changes)).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return backbone


def authors_names_and_shapes(width: int, depth: int, hidden: int, patch_px: int, positions: int) -> dict[str, Any]:
    """Every name in the authors' file with its shape, written out by hand."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.patch_embedding.weight": (width, 3, patch_px, patch_px),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding": (1, positions, width),
    }
    for n in range(depth):
        block: dict[str, tuple[int, ...]] = {
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "ls1": (width,), "ls2": (width,),
        }  # fmt: skip
        shapes |= {f"layers.{n}.{name}": shape for name, shape in block.items()}
    return shapes


def authors_weights(seed: int = 0, depth: int = 4, prefix: str = "", layers: str = "") -> dict[str, torch.Tensor]:
    """Random weights under the authors' names, sized for :func:`tiny_internvit`.

    Args:
        seed: Of the values.
        depth: Blocks.
        prefix: Put before every name.
        layers: Put before the blocks' names, after ``prefix``.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = authors_names_and_shapes(32, depth, 128, 14, 17)
    spread = {"weight": 0.2, "ls1": 0.3, "ls2": 0.3}
    return {
        f"{prefix}{layers if name.startswith('layers') else ''}{name}": torch.randn(shape, generator=generator)
        * spread.get(name.rsplit(".", 1)[-1], 1.0)
        + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
    }


def hugging_face_weights(authors: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """The authors' weights under transformers' names, with the projection split in three."""
    fixed = {
        "embeddings.class_embedding": "embeddings.cls_token",
        "embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
        "embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
        "embeddings.position_embedding": "embeddings.position_embeddings",
    }
    inner = {
        "attn.proj": "attention.projection_layer", "norm1": "layernorm_before", "norm2": "layernorm_after",
        "ls1": "lambda_1", "ls2": "lambda_2",
    }  # fmt: skip
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in authors.items():
        if name in fixed:
            weights[prefix + fixed[name]] = tensor
            continue
        _, number, rest = name.split(".", 2)
        if "qkv" in rest:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                weights[f"{prefix}encoder.layer.{number}.attention.{letter}_proj.{rest.rsplit('.', 1)[-1]}"] = part
            continue
        for theirs, hf in inner.items():
            rest = rest.replace(theirs, hf)
        weights[f"{prefix}encoder.layer.{number}.{rest}"] = tensor
    return weights
