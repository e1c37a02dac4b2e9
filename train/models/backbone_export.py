"""Handing pretraining's shared ViT over to detection: ``model.backbone.weights`` takes the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from babelrs.errors import collected
from train.backbone_record import RECORD_FILE, SCHEMA, WEIGHTS_FILE
from train.config import INTERNVIT
from train.models.vlm import LayerwiseInternVL

_TOWER = "model.vision_tower."
"""What the ViT's weights are named by in the whole model."""


def export_backbone(model: LayerwiseInternVL, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the ViT: ``model.safetensors`` and ``config.json`` in Hugging Face format, float32, and a record.

    Args:
        model: The whole model.
        folder: Made where it is missing.
        weights: The whole model's by name, where its own are sharded.

    The record says under ``backbone`` what ``model.backbone`` of a detector must be given to read the weights as they
    are, and under ``merge`` where pretraining ended: strategy, step, tau and the weight of each tap.

    Raises:
        BabelRSError: The vision tower is of another architecture than detection's InternViT.
    """
    vision: Any = model.config.vision_config
    record = {"schema": SCHEMA, "backbone": detector_settings(model), "merge": _merge_record(model)}
    folder.mkdir(parents=True, exist_ok=True)
    held = model.state_dict() if weights is None else weights
    tower = {name[len(_TOWER) :]: tensor for name, tensor in held.items() if name.startswith(_TOWER)}
    plain = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tower.items()}
    save_file(plain, folder / WEIGHTS_FILE)
    (folder / "config.json").write_text(json.dumps(vision.to_dict(), indent=1, sort_keys=True) + "\n")
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def detector_settings(model: LayerwiseInternVL) -> dict[str, Any]:
    """The fields of ``model.backbone`` that make a detector's backbone of the model's ViT.

    Raises:
        BabelRSError: Detection has no backbone of that architecture.
    """
    vision: Any = model.config.vision_config
    wanted = {"norm_type": "layer_norm", "use_qk_norm": False, "attention_bias": True, "hidden_act": "gelu"}
    faults = [f"{key} is {getattr(vision, key)!r}, not {value!r}" for key, value in wanted.items()
              if getattr(vision, key) != value]  # fmt: skip
    faults += [f"{key} {sides} is not square" for key in ("image_size", "patch_size")
               if len({*(sides := tuple(getattr(vision, key)))}) > 1]  # fmt: skip
    if faults:
        raise collected("Detection has no such vision tower", faults, "Pretrain an InternViT-300M or a small one.")
    return {
        "name": INTERNVIT, "width": vision.hidden_size, "depth": model.tapping.depth,
        "num_heads": vision.num_attention_heads, "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        "patch_px": vision.patch_size[0], "image_px": vision.image_size[0], "taps": list(model.tapping.taps),
    }  # fmt: skip


def _merge_record(model: LayerwiseInternVL) -> dict[str, Any]:
    return {
        "strategy": model.tapping.merge, "step": model.lvsa_step, "tau": model.tapping.tau,
        "weights": list(model.merge_weights()),
    }  # fmt: skip
