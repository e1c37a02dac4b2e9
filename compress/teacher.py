"""The teacher: a checkpoint that looks at the student's own training crops and is never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from babelrs.bundle import sha256_of
from babelrs.errors import BabelRSError, collected
from babelrs.sensors import Sensor
from compress.distill_losses import token_maps
from train.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint
from train.models.detector import Detector
from train.models.head import RawOutputs


@dataclass(frozen=True)
class View:
    """What the teacher makes of a batch.

    Attributes:
        outputs: Of its heads, by sensor.
        maps: Its normalised taps ``(B, H, W, C)`` over all sensors' images.
    """

    outputs: dict[Sensor, RawOutputs]
    maps: list[Tensor]


@dataclass(frozen=True)
class Teacher:
    """A detector without gradients, and where it comes from.

    Attributes:
        detector: In evaluation mode.
        record: What its checkpoint says.
        sha256: Of its weights' file.
    """

    detector: Detector
    record: Checkpoint
    sha256: str

    @torch.no_grad()
    def look(self, pixels: Mapping[Sensor, Tensor]) -> View:
        """All sensors' crops ``(N, H, W, C)`` uint8 in one pass, in the precision around the call.

        Raises:
            BabelRSError: An output is not finite.
        """
        outputs, features = self.detector.tapped(pixels)
        view = View(outputs, token_maps(features, self.detector.backbone.prefix_tokens))
        heads = [part for raw in outputs.values() for part in (raw.logits, raw.distributions)]
        if not all(bool(torch.isfinite(part).all()) for part in (*view.maps, *heads)):
            raise BabelRSError("The teacher's outputs are not finite on a training batch.", "Set precision to no.")
        return view

    def provenance(self) -> dict[str, Any]:
        """How a student's checkpoint names its teacher."""
        return {"sha256": self.sha256, "training": self.record.training}


def load_teacher(folder: Path, classes: Mapping[Sensor, Sequence[str]]) -> Teacher:
    """The teacher in ``folder``, on the CPU.

    Args:
        folder: Of its checkpoint.
        classes: The student's class names by sensor.

    Raises:
        BabelRSError: The checkpoint cannot be read, or knows other classes.
    """
    detector, record = load_checkpoint(folder)
    faults = [
        f"{sensor}: the teacher's are {', '.join(record.classes.get(sensor, ())) or 'none'}, "
        f"the data's {', '.join(names)}"
        for sensor, names in classes.items()
        if record.classes.get(sensor) != tuple(names)
    ]
    if faults:
        remedy = "Give a teacher of these classes, train on its data, or leave the sensor out of data.sensors."
        raise collected("The teacher knows other classes than the training data", faults, remedy)
    return Teacher(detector.requires_grad_(False), record, sha256_of(folder / WEIGHTS_FILE))
