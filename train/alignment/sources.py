"""What is measured: the backbone of a checkpoint of pretraining or fine-tuning, or one at random weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from babelrs.bundle import sha256_of
from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES, RadiometryProfile
from babelrs.sensors import Sensor
from train import checkpoint
from train.alignment.config import AlignConfig
from train.backbone_record import FOLDER, RECORD_FILE, WEIGHTS_FILE, read_backbone_record
from train.config import BackboneConfig, ModelConfig
from train.models.backbone_weights import load_backbone_weights
from train.models.detector import Detector

log = logging.getLogger("train.align")

DETECTION_RECORD, BACKBONE_RECORD = checkpoint.RECORD_FILE, RECORD_FILE
Classes = Mapping[Sensor, tuple[str, ...]]


@dataclass(frozen=True)
class Subject:
    """One side of the comparison.

    Attributes:
        detector: On the CPU, in evaluation mode; its pyramid and heads mean something only with ``own_heads``.
        profiles: Radiometry by sensor.
        own_heads: Whether it brings trained heads.
        provenance: Where it came from, without paths: kind, SHA-256 of the weights, sizes, what its record says.
    """

    detector: Detector
    profiles: dict[Sensor, RadiometryProfile]
    own_heads: bool
    provenance: dict[str, Any]


def open_checkpoint(folder: Path, config: AlignConfig, classes: Classes) -> Subject:
    """The checkpoint or backbone in ``folder``.

    A bare backbone becomes a detector with ``config.model``'s pyramid and heads; these, and the SpatialPrior beside a
    ViT, begin at random from the seed, the same for every backbone of one architecture.

    Args:
        folder: Checkpoint of ``train.finetune`` or ``train.pretrain``, or a backbone folder of the latter.
        config: Settings.
        classes: Class names of new heads.

    Raises:
        BabelRSError: It is none of these, or cannot be read.
    """
    if (folder / DETECTION_RECORD).is_file():
        return _open_detection(folder, config, classes)
    for backbone in (folder / FOLDER, folder):
        if (backbone / BACKBONE_RECORD).is_file():
            return _open_backbone(backbone, config, classes)
    raise BabelRSError(
        f"{folder} is no checkpoint that can be measured: it has neither {DETECTION_RECORD} (train.finetune) nor "
        f"{FOLDER}/{BACKBONE_RECORD} (train.pretrain) nor {BACKBONE_RECORD} (a backbone folder).",
        "Give a checkpoint folder such as RUN/final.",
    )


def at_random(like: Subject, seed: int, classes: Classes) -> Subject:
    """The architecture of ``like`` at random weights, with new heads."""
    fresh = new_detector(like.detector.config, classes, seed)
    return Subject(fresh, like.profiles, False, {"kind": "random weights", "seed": seed, "model": _sizes(fresh)})


def new_detector(config: ModelConfig, classes: Classes, seed: int) -> Detector:
    """A detector at random weights from ``seed``, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Detector(config, classes).eval()


def _open_detection(folder: Path, config: AlignConfig, classes: Classes) -> Subject:
    detector, record = checkpoint.load_checkpoint(folder)
    own = not config.new_heads
    if not own:
        fresh = new_detector(record.model, classes, config.seed)
        fresh.backbone.load_state_dict(detector.backbone.state_dict())
        detector = fresh
    elif config.batches and (missing := [sensor.value for sensor in config.sensors if sensor not in record.classes]):
        served = ", ".join(sensor.value for sensor in record.classes)
        raise BabelRSError(
            f"{folder} has no head for {', '.join(missing)}; it serves {served}.",
            "Set sensors to these, --new_heads, or --batches 0.",
        )
    provenance = {
        "kind": "detection checkpoint",
        "sha256": sha256_of(folder / checkpoint.WEIGHTS_FILE),
        "step": record.training.get("step"),
        "model": _sizes(detector),
    }
    return Subject(detector, {**DEFAULT_PROFILES, **record.profiles}, own, provenance)


def _open_backbone(folder: Path, config: AlignConfig, classes: Classes) -> Subject:
    record = read_backbone_record(folder)
    detector = new_detector(_detector_around(record["backbone"], folder, config), classes, config.seed)
    log.info("%s", load_backbone_weights(detector.backbone, folder).summary())
    provenance = {
        "kind": "pretrained backbone",
        "sha256": sha256_of(folder / WEIGHTS_FILE),
        "merge": record.get("merge"),
        "model": _sizes(detector),
    }
    return Subject(detector, dict(DEFAULT_PROFILES), False, provenance)


def _detector_around(backbone: Mapping[str, Any], folder: Path, config: AlignConfig) -> ModelConfig:
    """``config.model`` with the recorded backbone.

    Raises:
        BabelRSError: The record is not valid, or the backbone's patches do not fit the detector.
    """
    resized = {} if config.patch_px is None else {"patch_px": config.patch_px, **_covered(backbone, config.patch_px)}
    try:
        made = BackboneConfig.model_validate({**backbone, **resized})
    except ValidationError as error:
        raise BabelRSError(
            f"{folder / BACKBONE_RECORD} describes no backbone: {_first(error)}.", "Restore the file, or set patch_px."
        ) from None
    if made.patch_px and (faults := config.model.patch_faults(made.patch_px)):
        raise BabelRSError(
            f"The backbone in {folder} does not fit the detector around it: {'; '.join(faults)}.",
            "Set patch_px, such as 16, to resize the patches, or model.input_px.",
        )
    return config.model.model_copy(update={"backbone": made})


def _covered(backbone: Mapping[str, Any], patch_px: int) -> dict[str, int]:
    """A position table of as many patches as before, so that it stays as it is."""
    image_px, own = backbone.get("image_px"), backbone.get("patch_px")
    return {"image_px": image_px // own * patch_px} if image_px and own else {}


def _sizes(detector: Detector) -> dict[str, Any]:
    return detector.config.model_dump(mode="json", exclude={"backbone": {"weights", "pretrained"}})


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'backbone'}: {fault['msg']}"
