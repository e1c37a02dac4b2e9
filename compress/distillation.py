"""What distillation minimises: detection's own loss, and every sensor's gap to the teacher with its own weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.distill_config import DistillationConfig
from compress.distill_losses import feature_gap, head_gaps, matched_taps, token_maps
from compress.gap_weights import GapWeights
from compress.teacher import Teacher, View
from train.data.batches import Batch
from train.losses import HeadLoss
from train.models.detector import Detector
from train.models.head import RawOutputs
from train.objective import DetectionObjective, Objective, SensorLoss, autocast, parts
from train.processes import summed


class Student(nn.Module):
    """The detector, and beside it a projection of each of its taps to the teacher's width.

    Args:
        detector: What the checkpoint will hold.
        teacher_channels: Width of the teacher's tokens; ``None`` where its features are not learned.
    """

    def __init__(self, detector: Detector, teacher_channels: int | None) -> None:
        super().__init__()
        self.detector = detector
        channels = detector.backbone.channels
        taps = () if teacher_channels is None else detector.backbone.taps
        self.projections = nn.ModuleList(nn.Linear(channels, teacher_channels or 0) for _ in taps)

    def forward(self, pixels: Mapping[Sensor, Tensor]) -> tuple[dict[Sensor, RawOutputs], list[Tensor]]:
        """Raw outputs, and the projected taps ``(B, h, w, teacher_channels)`` over all sensors' images.

        Args:
            pixels: Per sensor ``(N, H, W, C)`` uint8.
        """
        outputs, features = self.detector.tapped(pixels)
        if not self.projections:
            return outputs, []
        maps = token_maps(features, self.detector.backbone.prefix_tokens)
        return outputs, [project(tokens) for project, tokens in zip(self.projections, maps, strict=True)]


class Distillation(Objective):
    """``detection_weight * detection + w_m * gap_m`` for every sensor m; :mod:`compress.gap_weights` says what w is.

    Args:
        config: Settings of the run.
        teacher: Moved to the device.
        device: Where batches are.
    """

    def __init__(self, config: DistillationConfig, teacher: Teacher, device: torch.device) -> None:
        self.config, self.teacher, self.device = config, teacher, device
        teacher.detector.to(device)
        self.detection = DetectionObjective(config, device)
        self.gap_weights = GapWeights(config.data.sensors, config.distill)
        self.taps: tuple[int, ...] = ()

    def learner(self, detector: Detector) -> nn.Module:
        """The detector with its projections."""
        own, given = detector.backbone, self.teacher.detector.backbone
        self.taps = matched_taps(own.taps, own.depth, given.taps, given.depth)
        return Student(detector, given.channels if self.config.distill.feature_weight else None)

    def losses(self, model: nn.Module, batch: Batch) -> dict[Sensor, SensorLoss]:
        """See :meth:`train.objective.Objective.losses`."""
        with autocast(self.config.precision, self.device):
            outputs, projected = model(batch.pixels)
            view = self.teacher.look(batch.pixels)
        heads = self.detection.heads(outputs, batch)
        found, start = {}, 0
        for sensor, images in batch.pixels.items():
            rows = slice(start, start + len(images))
            gaps = self._gaps(outputs[sensor], view.outputs[sensor], [tokens[rows] for tokens in projected], view, rows)
            found[sensor] = self._weighted(sensor, heads[sensor], gaps)
            start = rows.stop
        return found

    def _gaps(
        self, outputs: RawOutputs, wanted: RawOutputs, projected: Sequence[Tensor], view: View, rows: slice
    ) -> dict[str, Tensor]:
        """One sensor's gaps by the setting that weighs them; its images are ``rows`` of the teacher's maps."""
        gaps = {}
        if projected:
            pairs = zip(projected, self.taps, strict=True)
            each = [feature_gap(tokens, view.maps[index][rows]) for tokens, index in pairs]
            gaps["feature"] = torch.stack(each).mean()
        if any(self.config.distill.head_weights.values()):
            heads = head_gaps(outputs, wanted, self.detection.points, self.detection.strides, self.config.distill)
            gaps |= {"class": heads.classes, "box": heads.boxes, "direction": heads.direction}
        return gaps

    def _weighted(self, sensor: Sensor, detection: HeadLoss, gaps: Mapping[str, Tensor]) -> SensorLoss:
        settings = self.config.distill
        gap = torch.stack([getattr(settings, f"{name}_weight") * value for name, value in gaps.items()]).sum()
        weight = self.gap_weights.weights[sensor]
        logged: dict[str, Tensor | float] = {
            **parts(detection),
            "detection": detection.total.detach(),
            **{f"{name}_gap": value.detach() for name, value in gaps.items()},
            "gap": gap.detach(),
            "gap_left": self.gap_weights.left[sensor],
            "gap_weight": weight,
        }
        return SensorLoss(settings.detection_weight * detection.total + weight * gap, logged)

    def observe(self, losses: Mapping[Sensor, SensorLoss]) -> None:
        """Let the sensors' weights follow the whole batch's gaps."""
        gaps = summed(torch.stack([torch.as_tensor(loss.parts["gap"]) for loss in losses.values()]))
        self.gap_weights.update(dict(zip(losses, gaps.tolist(), strict=True)))

    def state(self) -> dict[str, Any]:
        """The teacher's hash, and what is left of the gaps."""
        return {"teacher": self.teacher.sha256, "gaps": self.gap_weights.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            BabelRSError: The run began with another teacher.
        """
        if state["teacher"] != self.teacher.sha256:
            raise BabelRSError(
                f"The run began with a teacher of SHA-256 {state['teacher']}, this one is {self.teacher.sha256}.",
                "Give the same teacher, or begin a new run with --init and this run's checkpoint.",
            )
        self.gap_weights.restore(state["gaps"])

    def provenance(self) -> dict[str, Any]:
        """The command and the teacher."""
        return {"command": "python -m compress.distill", "teacher": self.teacher.provenance()}
