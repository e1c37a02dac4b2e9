"""The model that a bundle is made of: a checkpoint with the sensors that are asked for, at the device's input sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.targets import Target
from train.checkpoint import Checkpoint, load_checkpoint
from train.config import InputConfig
from train.models.detector import Detector


def load_source(folder: Path, target: Target, sensors: Sequence[Sensor] | None) -> tuple[Detector, Checkpoint]:
    """The detector in evaluation mode on the CPU, and its record; both without what is not served.

    Args:
        folder: Of the checkpoint.
        target: Its ``input_px`` replace the checkpoint's.
        sensors: Those to serve; ``None``: all of the checkpoint.

    Raises:
        BabelRSError: The checkpoint is not valid, does not serve a sensor, or cannot take the target's input sizes.
    """
    whole, checkpoint = load_checkpoint(folder)
    if sensors is None and not target.input_px:
        return whole, checkpoint
    wanted = tuple(checkpoint.classes) if sensors is None else tuple(sensors)
    checkpoint.require(wanted)
    checkpoint = dataclasses.replace(
        checkpoint,
        model=checkpoint.model.model_copy(update={"input_px": sized(checkpoint.model.input_px, target)}),
        classes={sensor: checkpoint.classes[sensor] for sensor in wanted},
        profiles={sensor: checkpoint.profiles[sensor] for sensor in wanted},
    )
    detector = Detector(checkpoint.model, checkpoint.classes)
    weights = whole.state_dict()
    detector.load_state_dict({name: weights[name] for name in detector.state_dict()})
    return detector.eval(), checkpoint


def sized(inputs: InputConfig, target: Target) -> InputConfig:
    """Input sizes with the target's in the place of the checkpoint's.

    Raises:
        BabelRSError: A size is not one the model can take.
    """
    given = {sensor.value: size for sensor, size in target.input_px.items()}
    try:
        return InputConfig.model_validate({**inputs.model_dump(), **given})
    except ValidationError as error:
        why = "; ".join(fault["msg"] for fault in error.errors())
        raise BabelRSError(f"The target {target.name}: {why}.", "Change its input_px.") from None
