"""The names under which a backbone's weights are published, in the names of this project's modules.

Three sources: transformers' ``InternVLVisionModel`` (alone or inside a whole InternVL), the authors' InternViT file,
and this project's own checkpoints and backbone files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_WRAPPERS = ("module", "model", "vision_tower", "vision_model", "encoder", "backbone", "vit")
"""Leading parts of a name that only say where in a larger model the ViT sits."""

_INTERNVIT_NAMES: Mapping[str, str] = {
    # transformers' InternVLVisionModel; three projections become one
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.*": "patch_embed.*",
    "layer.#.layernorm_before.*": "blocks.#.norm1.*",
    "layer.#.attention.q_proj.*": "blocks.#.attn.qkv.*/0",
    "layer.#.attention.k_proj.*": "blocks.#.attn.qkv.*/1",
    "layer.#.attention.v_proj.*": "blocks.#.attn.qkv.*/2",
    "layer.#.attention.projection_layer.*": "blocks.#.attn.proj.*",
    "layer.#.lambda_1": "blocks.#.ls1.gamma",
    "layer.#.layernorm_after.*": "blocks.#.norm2.*",
    "layer.#.mlp.fc1.*": "blocks.#.mlp.fc1.*",
    "layer.#.mlp.fc2.*": "blocks.#.mlp.fc2.*",
    "layer.#.lambda_2": "blocks.#.ls2.gamma",
    # the authors' file
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding.*": "patch_embed.*",
    "layers.#.norm1.*": "blocks.#.norm1.*",
    "layers.#.attn.qkv.*": "blocks.#.attn.qkv.*",
    "layers.#.attn.proj.*": "blocks.#.attn.proj.*",
    "layers.#.ls1": "blocks.#.ls1.gamma",
    "layers.#.norm2.*": "blocks.#.norm2.*",
    "layers.#.mlp.fc1.*": "blocks.#.mlp.fc1.*",
    "layers.#.mlp.fc2.*": "blocks.#.mlp.fc2.*",
    "layers.#.ls2": "blocks.#.ls2.gamma",
}
"""``#`` stands for a block's number, ``*`` for weight or bias, ``/i`` for part i of a joined tensor."""

INTERNVIT_PARTS = frozenset(("embeddings", "layer", "layers"))
"""First parts of the names that only published InternViTs have."""

_UNUSED = ("embeddings.mask_token",)  # masked-image pretraining only


@dataclass(frozen=True)
class Renamed:
    """A file's weights in this project's names.

    Attributes:
        weights: By name, as ``bare_name`` gives it for this project's modules.
        sources: The file's names behind each of them.
        foreign: The file's names that are no part of the backbone: language model, projector, heads.
        faults: What cannot be used although it belongs to the backbone.
    """

    weights: dict[str, Tensor]
    sources: dict[str, tuple[str, ...]]
    foreign: tuple[str, ...]
    faults: tuple[str, ...]


def bare_name(name: str) -> str:
    """A weight's name inside its ViT: leading wrappers such as ``model.vision_tower.`` are dropped."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(parts)


def is_foreign(name: str, tower: Collection[str]) -> bool:
    """Whether a file's weight is no part of a backbone; ``tower`` are the first parts of the names that are."""
    bare = bare_name(name)
    return bare in _UNUSED or bare.split(".")[0] not in tower


def own_name(bare: str) -> tuple[str, int | None] | None:
    """This project's name of an InternViT's weight, and its part of a joined tensor; ``None`` for an unknown name."""
    number = re.search(r"\.(\d+)\.", bare)
    pattern = re.sub(r"\.\d+\.", ".#.", bare, count=1)
    pattern, ending = re.sub(r"\.(weight|bias)$", ".*", pattern), bare.rsplit(".", 1)[-1]
    if pattern not in _INTERNVIT_NAMES:
        return None
    target, _, part = _INTERNVIT_NAMES[pattern].partition("/")
    target = target.replace("#", number[1] if number else "").replace("*", ending)
    return target, int(part) if part else None


def to_own_names(weights: Mapping[str, Tensor], tower: Collection[str]) -> Renamed:
    """A file's weights under this project's names; split projections are joined.

    Every name of the file ends up in ``sources``, ``foreign`` or ``faults``.

    Args:
        weights: As read.
        tower: First parts of the bare names that belong to the backbone.
    """
    parts: dict[str, dict[int | None, str]] = {}
    foreign, faults = [], []
    for name in weights:
        bare = bare_name(name)
        published = own_name(bare) if bare.split(".")[0] in INTERNVIT_PARTS else (bare, None)
        if is_foreign(name, tower):
            foreign.append(name)
        elif published is None:
            faults.append(f"unexpected {name}")
        elif published[1] in parts.setdefault(published[0], {}):
            faults.append(f"{name} and {parts[published[0]][published[1]]} are the same weight")
        else:
            parts[published[0]][published[1]] = name
    joined = {target: _joined(weights, found) for target, found in parts.items()}
    for target in [target for target, tensor in joined.items() if tensor is None]:
        faults.append(f"{target} cannot be made of {', '.join(parts.pop(target).values())} alone")
    sources = {target: tuple(found.values()) for target, found in parts.items()}
    found = {target: tensor for target, tensor in joined.items() if tensor is not None}
    return Renamed(found, sources, tuple(foreign), tuple(faults))


def _joined(weights: Mapping[str, Tensor], parts: Mapping[int | None, str]) -> Tensor | None:
    """One tensor of its parts in order; ``None`` if some are missing or do not go together."""
    if parts.keys() == {None}:
        return weights[parts[None]]
    if parts.keys() != {0, 1, 2}:
        return None
    tensors = [weights[parts[index]] for index in range(3)]
    return torch.cat(tensors) if len({tensor.shape for tensor in tensors}) == 1 else None
