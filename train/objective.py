"""What a run minimises: a loss for every sensor, and their plain sum over sensors.

Detection's own loss is the sum of the heads' losses, with no alignment term (BabelRS, fine-tuning). Others, such as
distillation, bring parameters, state and log entries of their own; the loop stays the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from babelrs.sensors import Sensor
from train.config import FinetuneConfig
from train.data.batches import Batch
from train.losses import HeadLoss, sensor_losses
from train.models.detector import Detector
from train.models.head import RawOutputs
from train.models.pyramid import anchor_points

_AMP_TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class SensorLoss:
    """The loss of one sensor's images.

    Attributes:
        total: What is minimised, a scalar.
        parts: What it is made of, by the names that the log gives them; scalars.
    """

    total: Tensor
    parts: Mapping[str, Tensor | float]


class Objective(ABC):
    """What a run minimises."""

    @abstractmethod
    def learner(self, detector: Detector) -> nn.Module:
        """What is trained: the detector, alone or in a module with parameters that no checkpoint repeats."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[Sensor, SensorLoss]:
        """The losses of this process' images, whose sums over processes are the whole batch's.

        Args:
            model: The learner as it is trained, maybe wrapped or sharded.
            batch: This process' share, on the device.
        """

    @abstractmethod
    def observe(self, losses: Mapping[Sensor, SensorLoss]) -> None:
        """Take note of a step's losses, in every process, once they are known to be finite."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a resumed run needs of what was observed, as plain values for JSON."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            BabelRSError: The run cannot go on with this objective.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What a checkpoint says of where its weights come from, ``command`` first."""


class DetectionObjective(Objective):
    """The heads' detection losses.

    Args:
        config: Settings of the run.
        device: Where batches are.
    """

    def __init__(self, config: FinetuneConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        crop = config.augment.crop_px
        self.points, self.strides = anchor_points(crop, crop, config.model.strides, device)

    def learner(self, detector: Detector) -> nn.Module:
        """The detector itself."""
        return detector

    def losses(self, model: nn.Module, batch: Batch) -> dict[Sensor, SensorLoss]:
        """See :meth:`Objective.losses`."""
        with autocast(self.config.precision, self.device):
            outputs = model(batch.pixels)
        return {sensor: SensorLoss(loss.total, parts(loss)) for sensor, loss in self.heads(outputs, batch).items()}

    def heads(self, outputs: Mapping[Sensor, RawOutputs], batch: Batch) -> dict[Sensor, HeadLoss]:
        """The detection loss of every head's raw outputs over a batch of training crops."""
        config = self.config
        return sensor_losses(outputs, batch.targets, self.points, self.strides, config.loss, config.assigner)

    def observe(self, losses: Mapping[Sensor, SensorLoss]) -> None:
        """Nothing to note."""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    def provenance(self) -> dict[str, Any]:
        """The command."""
        return {"command": "python -m train.finetune"}


def parts(loss: HeadLoss) -> dict[str, Tensor | float]:
    """A head's losses by name, without their sum."""
    names = [name for name in HeadLoss.__dataclass_fields__ if name != "total"]
    return {name: getattr(loss, name).detach() for name in names}


def autocast(precision: Literal["no", "bf16", "fp16"], device: torch.device) -> AbstractContextManager[Any]:
    """The run's automatic mixed precision."""
    return torch.autocast(device.type, _AMP_TYPES[precision], precision != "no")
