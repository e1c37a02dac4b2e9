"""Beginning with the weights of an earlier checkpoint: all that fits, and a word about all that does not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from babelrs.errors import collected
from babelrs.sensors import Sensor
from train.checkpoint import load_checkpoint
from train.models.detector import Detector

log = logging.getLogger("train.starting_weights")


def start_from(detector: Detector, folder: Path) -> None:
    """Copy a checkpoint's weights; heads of other class lists and of new sensors stay as they were made.

    Raises:
        BabelRSError: The checkpoint cannot be read, or its shared parts have other shapes.
    """
    given, record = load_checkpoint(folder)
    same = {s for s in detector.classes if record.classes.get(s) == detector.classes[s]}
    weights = {
        name: tensor
        for name, tensor in given.state_dict().items()
        if not name.startswith("heads.") or Sensor.parse(name.split(".")[1]) in same
    }
    own = detector.state_dict()
    faults = [
        f"{name}: there {_shape(weights, name)}, here {_shape(own, name)}" for name in _unlike(weights, own, same)
    ]
    if faults:
        raise collected(
            f"The checkpoint {folder} is of another model", sorted(faults), "Give the model settings that it has."
        )
    detector.load_state_dict(weights, strict=False)
    for sensor, classes in detector.classes.items():
        if sensor not in same:
            log.info("the %s head is new: the checkpoint's classes are %s, the data's %s",
                     sensor, record.classes.get(sensor, ()), classes)  # fmt: skip


def _unlike(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], same: set[Sensor]) -> list[str]:
    heads = tuple(f"heads.{sensor.value}." for sensor in same)
    wanted = {name for name in own if not name.startswith("heads.") or name.startswith(heads)}
    return [name for name in weights.keys() | wanted if _shape(weights, name) != _shape(own, name)]


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
