"""Weights that a run starts from, read into a backbone: every weight of the file is used or named.

A checkpoint carries its own weights, so nothing is read here when one is loaded.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from babelrs.errors import BabelRSError, collected
from train.config import BackboneConfig
from train.models.backbone import Backbone, ConvViT, InternViTBackbone, make_timm_vit
from train.models.backbone_names import INTERNVIT_PARTS, Renamed, bare_name, is_foreign, to_own_names
from train.models.resample import resample_positions, resize_patch_kernel

log = logging.getLogger(__name__)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """What became of every weight.

    Attributes:
        source: Where the weights came from.
        used: The backbone's weights that were set.
        resized: Of these, the ones whose shape was changed: from, to.
        ignored: The file's weights that this backbone has no use for.
        missing: The backbone's weights that stay at their random start: only a SpatialPrior's may.
    """

    source: str
    used: tuple[str, ...]
    resized: dict[str, tuple[Shape, Shape]]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]

    def summary(self) -> str:
        """Two lines at most, whatever the number of blocks."""
        resized = [f"{name} {_size(old)} to {_size(new)}" for name, (old, new) in self.resized.items()]
        return (
            f"{self.source}: {len(self.used)} weights used"
            f"; resized: {', '.join(resized) or 'none'}"
            f"; at a random start: {_grouped(self.missing)}"
            f"\nnot used, no part of this backbone: {_grouped(self.ignored)}"
        )


def initialise_backbone(backbone: Backbone, config: BackboneConfig) -> None:
    """Read the weights that a config names, if any, and log what became of them.

    Raises:
        BabelRSError: They cannot be read or do not fit; see :func:`load_backbone_weights`.
    """
    if config.weights is not None:
        log.info("%s", load_backbone_weights(backbone, config.weights).summary())
    elif config.pretrained:
        weights = make_timm_vit(config, pretrained=True).state_dict()  # timm resizes them itself
        log.info("%s", set_backbone_weights(backbone, weights, f"timm's {config.name}").summary())


def load_backbone_weights(backbone: Backbone, path: Path) -> LoadReport:
    """Read a file or folder of weights into a backbone.

    For an InternViT: transformers' ``InternVLVisionModel`` or a whole InternVL, or the authors' ViT file. For every
    backbone: this project's checkpoint folders, and files with the backbone's own names. Patch kernel and position
    table are resized where the backbone's differ.

    Args:
        backbone: Changed in place, unless an error is raised.
        path: A ``.safetensors`` file, a torch file of plain tensors, or a folder with one of them.

    Raises:
        BabelRSError: Nothing readable there, or a weight of the backbone is missing, unknown or of another shape.
    """
    tower = _tower(backbone)
    files = _weight_files(path)
    if faults := _sizes_faults(path if path.is_dir() else path.parent, backbone):
        raise collected(f"The weights {path} are of another backbone", faults, "Change model.backbone, or the weights.")
    weights: dict[str, Tensor] = {}
    foreign: list[str] = []
    for file in files:
        tensors, others = _read(file, lambda name: not is_foreign(name, tower))
        weights.update(tensors)
        foreign += others
    return set_backbone_weights(backbone, weights, str(path), foreign)


def set_backbone_weights(
    backbone: Backbone, weights: Mapping[str, Tensor], source: str, foreign: Iterable[str] = ()
) -> LoadReport:
    """Set a backbone's weights from tensors under published or own names.

    Args:
        backbone: Changed in place, unless an error is raised.
        weights: By name.
        source: Where they came from, for messages.
        foreign: Names that were left out as no part of the backbone.

    Raises:
        BabelRSError: A weight of the backbone is missing, unknown, of another shape or not finite; all are listed.
    """
    renamed = to_own_names(weights, _tower(backbone))
    names = {bare_name(name): name for name in backbone.state_dict()}
    untapped = [bare for bare in renamed.weights if bare not in names and _after_the_last_tap(bare, backbone)]
    fitted, faults = _all_fitted(renamed, names, backbone, untapped)
    missing = tuple(name for bare, name in names.items() if bare not in renamed.weights)
    if not all(name.startswith("spatial_prior.") for name in missing) or _part_of_a_prior(missing, backbone):
        faults += [f"missing {name}" for name in missing]
    if faults := [*renamed.faults, *faults]:
        raise collected(
            f"The weights {source} do not fit the backbone", faults, "Change model.backbone, or the weights.", 12
        )
    backbone.load_state_dict(fitted, strict=False)
    shapes = {
        names[b]: (tuple(t.shape), tuple(fitted[names[b]].shape)) for b, t in renamed.weights.items() if b in names
    }
    resized = {name: sizes for name, sizes in shapes.items() if sizes[0] != sizes[1]}
    ignored = (*foreign, *renamed.foreign, *(name for bare in untapped for name in renamed.sources[bare]))
    return LoadReport(source, tuple(fitted), resized, ignored, missing)


def _all_fitted(
    renamed: Renamed, names: Mapping[str, str], backbone: Backbone, untapped: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in the backbone's shapes, by its ``names``, and what cannot be used."""
    state = backbone.state_dict()
    fitted: dict[str, Tensor] = {}
    faults: list[str] = []
    for bare, tensor in renamed.weights.items():
        sources = " + ".join(renamed.sources[bare])
        if bare not in names:
            faults += [] if bare in untapped else [f"unexpected {sources}"]
            continue
        wanted = state[names[bare]]
        if (fit := _fitted(bare, tensor, wanted, backbone)) is None:
            faults.append(f"{sources} {_size(tensor.shape)} does not fit {_size(wanted.shape)}")
        elif not torch.isfinite(fit).all():
            faults.append(f"{sources} {_size(tensor.shape)} has values that are not finite")
        else:
            fitted[names[bare]] = fit
    return fitted, faults


def _tower(backbone: Backbone) -> frozenset[str]:
    own = frozenset(bare_name(name).split(".")[0] for name in backbone.state_dict())
    return own | INTERNVIT_PARTS if isinstance(backbone, InternViTBackbone) else own


def _after_the_last_tap(bare: str, backbone: Backbone) -> bool:
    match = re.match(r"blocks\.(\d+)\.", bare)
    return match is not None and backbone.taps[-1] <= int(match[1]) < backbone.depth


def _part_of_a_prior(missing: tuple[str, ...], backbone: Backbone) -> bool:
    prior = [name for name in backbone.state_dict() if name.startswith("spatial_prior.")]
    return 0 < len(missing) < len(prior)


def _fitted(bare: str, tensor: Tensor, wanted: Tensor, backbone: Backbone) -> Tensor | None:
    """``tensor`` in the wanted shape, resized if it is a patch kernel or position table; ``None`` if it cannot be."""
    if tensor.shape == wanted.shape:
        return tensor
    if isinstance(backbone, ConvViT) or tensor.ndim != wanted.ndim:
        return None
    if bare in ("patch_embed.weight", "patch_embed.proj.weight"):
        square = tensor.shape[2] == tensor.shape[3] and tensor.shape[:2] == wanted.shape[:2]
        return resize_patch_kernel(tensor, int(wanted.shape[-1])) if square else None
    prefix = backbone.position_prefix
    side = math.isqrt(max(0, tensor.shape[1] - prefix)) if bare == "pos_embed" else 0
    if not side or side * side + prefix != tensor.shape[1] or tensor.shape[2] != wanted.shape[2]:
        return None
    return resample_positions(tensor, (side, side), backbone.position_grid, prefix)


def _weight_files(path: Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        BabelRSError: There are none.
    """
    if path.is_file():
        return [path]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return [path / name for name in sorted(set(_json(index).get("weight_map", {}).values()))]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
    raise BabelRSError(
        f"There are no weights at {path}.", "Give a file, or a folder with model.safetensors or pytorch_model.bin."
    )


def _read(file: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, Tensor], list[str]]:
    """The wanted tensors of a file, and the other names in it.

    Raises:
        BabelRSError: The file cannot be read, or holds anything but tensors and plain values.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                return {n: opened.get_tensor(n) for n in names if wanted(n)}, [n for n in names if not wanted(n)]
        content = _unwrapped(torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError) as error:
        raise BabelRSError(f"Cannot read the weights {file}: {error}.", "Give a readable file.") from None
    except Exception as error:
        what = f"{file} is no torch file of plain tensors: {str(error).splitlines()[0]}."
        raise BabelRSError(what, "Save the weights alone, best as safetensors.") from None
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    others = [str(name) for name in content if name not in tensors]
    return {n: t for n, t in tensors.items() if wanted(n)}, others + [n for n in tensors if not wanted(n)]


def _unwrapped(content: Any) -> dict[str, Any]:
    """The mapping of names to tensors inside a training program's file."""
    for key in ("state_dict", "model", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return _unwrapped(content[key])
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, not a mapping of names")
    return content


def _sizes_faults(folder: Path, backbone: Backbone) -> list[str]:
    """What a record beside the weights says that their shapes do not show, where it is another than the backbone's."""
    if not isinstance(backbone, InternViTBackbone) or not (folder / "config.json").is_file():
        return []
    config = _json(folder / "config.json")
    vision = config.get("vision_config", config)
    norm = backbone.vit.blocks[0].norm1
    own = {
        "num_attention_heads": backbone.vit.blocks[0].attn.num_heads,
        "norm_type": "layer_norm",
        "hidden_act": "gelu",
        "layer_norm_eps": norm.eps,
    }
    return [f"{key} is {vision[key]!r}, not {value!r}" for key, value in own.items() if vision.get(key, value) != value]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BabelRSError(f"Cannot read {file}: {error}.", "Restore the file.") from None
    if not isinstance(content, dict):
        raise BabelRSError(f"{file} holds a {type(content).__name__}.", "Restore the file.")
    return content


def _grouped(names: Iterable[str]) -> str:
    """Names by their first parts with counts, as ``language_model (290), lm_head (1)``."""
    groups = Counter(re.sub(r"\.\d+.*", "", ".".join(bare_name(name).split(".")[:2])) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in groups.items()) or "none"


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
