"""Checkpoints: a folder with ``model.safetensors`` and ``checkpoint.json``; never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from babelrs.errors import BabelRSError
from babelrs.radiometry import RadiometryProfile
from babelrs.sensors import Sensor
from train.config import ModelConfig
from train.models.detector import Detector

SCHEMA = "babelrs.checkpoint/1"
WEIGHTS_FILE, RECORD_FILE = "model.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says beside its weights.

    Attributes:
        model: The detector's configuration.
        classes: Class names by sensor.
        profiles: Radiometry by sensor.
        training: Provenance: settings, step, seed, data.
        metrics: Measured accuracy, if any.
    """

    model: ModelConfig
    classes: dict[Sensor, tuple[str, ...]]
    profiles: dict[Sensor, RadiometryProfile]
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def require(self, sensors: Iterable[Sensor]) -> None:
        """Refuse sensors that the model does not serve.

        Raises:
            BabelRSError: Naming them.
        """
        if missing := [sensor.value for sensor in sensors if sensor not in self.classes]:
            served = ", ".join(sensor.value for sensor in self.classes)
            raise BabelRSError(f"The checkpoint does not serve {', '.join(missing)}.", f"It serves {served}.")


def save_checkpoint(folder: Path, weights: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Write a checkpoint; each file is written aside and renamed, the record last."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": SCHEMA,
        "model": checkpoint.model.model_dump(mode="json", exclude={"backbone": {"weights", "pretrained"}}),
        "classes": {sensor.value: list(names) for sensor, names in checkpoint.classes.items()},
        "profiles": {sensor.value: profile.to_dict() for sensor, profile in checkpoint.profiles.items()},
        "training": checkpoint.training,
        "metrics": checkpoint.metrics,
    }
    aside = folder / (WEIGHTS_FILE + ".part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, aside)
    os.replace(aside, folder / WEIGHTS_FILE)
    aside = folder / (RECORD_FILE + ".part")
    aside.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    os.replace(aside, folder / RECORD_FILE)


def load_checkpoint(folder: Path) -> tuple[Detector, Checkpoint]:
    """The detector in evaluation mode on the CPU, and its record.

    Raises:
        BabelRSError: A file is missing, of another schema or not valid, or the weights do not fit the configuration.
    """
    checkpoint = read_checkpoint(folder)
    try:
        detector = Detector(checkpoint.model, checkpoint.classes)
    except BabelRSError as error:
        raise _invalid(folder, error) from None
    _load_weights(detector, folder / WEIGHTS_FILE)
    return detector.eval(), checkpoint


def read_checkpoint(folder: Path) -> Checkpoint:
    """What a checkpoint says, without its weights.

    Raises:
        BabelRSError: The record is missing, of another schema or not valid.
    """
    record = _read_record(folder)
    try:
        checkpoint = Checkpoint(
            ModelConfig.model_validate(record["model"]),
            {Sensor.parse(name): tuple(names) for name, names in record["classes"].items()},
            {Sensor.parse(name): RadiometryProfile.from_dict(profile) for name, profile in record["profiles"].items()},
            record.get("training", {}),
            record.get("metrics", {}),
        )
        if checkpoint.profiles.keys() != checkpoint.classes.keys():
            raise BabelRSError("classes and profiles are of different sensors")
    except (KeyError, TypeError, AttributeError, ValidationError, BabelRSError) as error:
        raise _invalid(folder, error) from None
    return checkpoint


def _invalid(folder: Path, error: Exception) -> BabelRSError:
    return BabelRSError(f"{folder / RECORD_FILE} is not a valid checkpoint record: {error}.", "Restore the file.")


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / RECORD_FILE
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BabelRSError(
            f"{folder} is not a checkpoint: {file}: {error}.", "Give the folder of a saved checkpoint."
        ) from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise BabelRSError(f"{file} has schema {found!r}, not {SCHEMA!r}.", "Give a checkpoint of this version.")
    return record


def _load_weights(detector: Detector, file: Path) -> None:
    try:
        weights = load_file(file)
    except Exception as error:
        raise BabelRSError(f"Cannot read the weights {file}: {error}.", "Restore the file.") from None
    expected = detector.state_dict()
    faults = [f"missing {name}" for name in expected.keys() - weights.keys()]
    faults += [f"unexpected {name}" for name in weights.keys() - expected.keys()]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    if faults:
        raise BabelRSError(
            f"The weights {file} do not fit their record: {'; '.join(sorted(faults)[:5])}.", "Restore both files."
        )
    detector.load_state_dict(weights)
