"""What a pretraining run leaves: the model and its tokenizer in Hugging Face format, and the backbone for detection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from babelrs.errors import BabelRSError
from train.backbone_record import FOLDER
from train.models.backbone_export import export_backbone
from train.models.vlm import LayerwiseInternVL
from train.models.vlm_build import load_vlm

MODEL, RECORD = "model", "pretraining.json"
SCHEMA = "babelrs.pretraining/1"


def write_model(
    folder: Path,
    vlm: LayerwiseInternVL,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
) -> None:
    """Write ``model/`` (model and tokenizer), ``backbone/`` (what ``train.finetune`` takes) and the record.

    Args:
        folder: Exists.
        vlm: The model; its own weights may be sharded.
        tokenizer: Its tokenizer.
        weights: Whole weights by name.
        training: Provenance.
    """
    vlm.save_pretrained(folder / MODEL, state_dict=dict(weights))
    tokenizer.save_pretrained(folder / MODEL)
    export_backbone(vlm, folder / FOLDER, weights)
    (folder / RECORD).write_text(json.dumps({"schema": SCHEMA, **training}, indent=1, sort_keys=True) + "\n")


def read_model(folder: Path) -> tuple[LayerwiseInternVL, PreTrainedTokenizerBase, dict[str, Any]]:
    """The model in evaluation mode, its tokenizer and its record.

    Args:
        folder: A checkpoint of a pretraining run.

    Raises:
        BabelRSError: It is none.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise BabelRSError(
            f"{folder} is no pretraining checkpoint: {error}.", "Give a checkpoint folder such as RUN/final."
        ) from None
    return load_vlm(folder / MODEL), AutoTokenizer.from_pretrained(folder / MODEL), record
