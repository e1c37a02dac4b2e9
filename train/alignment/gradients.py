"""Whether the sensors' detection losses pull the shared backbone the same way: cosines of their gradients.

BabelRS (arXiv 2603.01758) argues that they turn from opposing to agreeing after language alignment.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from babelrs.errors import BabelRSError, collected
from babelrs.sensors import Sensor
from train.alignment.config import AlignConfig
from train.alignment.measures import finite_mean, or_none, pair_name
from train.alignment.sources import Subject
from train.data.batches import Batch, CropDataset, make_loader
from train.data.samples import Sample, check_classes
from train.losses import HeadLoss, sensor_losses
from train.models.detector import Detector
from train.models.pyramid import anchor_points
from train.optimizer import learning_rate, make_optimizer, set_learning_rate
from train.parallel import clip_gradients
from train.stability import gradient_agreement

log = logging.getLogger("train.align")

PRIOR = "spatial_prior."


@dataclass(frozen=True)
class GradientCosines:
    """Batch by batch.

    Attributes:
        heads: Whose heads the losses are of, in words.
        cosines: By pair of sensors; NaN where a gradient is zero.
        norms: Length of the gradient on the shared parameters, by sensor.
        losses: Total detection loss, by sensor.
    """

    heads: str
    cosines: dict[str, list[float]] = field(default_factory=dict)
    norms: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """As JSON has it: every pair's :func:`summary` and values, every sensor's mean norm and loss."""
        pairs = {
            pair: {**summary(values), "values": [or_none(value) for value in values]}
            for pair, values in self.cosines.items()
        }
        sensors = {
            sensor: {"norm": or_none(finite_mean(norms)), "loss": or_none(finite_mean(self.losses[sensor]))}
            for sensor, norms in self.norms.items()
        }
        return {"heads": self.heads, "pairs": pairs, "sensors": sensors}


def summary(cosines: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation over batches and share of negative ones, of the cosines that are numbers."""
    values = np.array([value for value in cosines if math.isfinite(value)])
    return {
        "mean": float(values.mean()) if len(values) else None,
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "negative_share": float((values < 0).mean()) if len(values) else None,
        "batches": len(values),
        "undefined": len(cosines) - len(values),
    }


def shared_parameters(detector: Detector) -> list[nn.Parameter]:
    """What the sensors share and pretraining aligned: the backbone without the SpatialPrior beside a ViT."""
    return [weight for name, weight in detector.backbone.named_parameters() if not name.startswith(PRIOR)]


def gradient_cosines(
    subject: Subject, samples: Mapping[Sensor, list[Sample]], config: AlignConfig, device: torch.device
) -> GradientCosines:
    """Cosines of the sensors' detection gradients over ``config.batches`` training batches.

    Where the subject has no heads of its own, SpatialPrior, aggregation, pyramid and heads are trained first, on the
    frozen backbone. The batches are a pure function of the seed, the same for every subject, and come after those that
    new heads learn from. Gradients are taken in evaluation mode (no stochastic depth, running statistics), in
    float32, of each sensor's total loss on :func:`shared_parameters`.

    Args:
        subject: Whose detector it is; its weights change where heads are trained.
        samples: Training samples by sensor.
        config: Settings.
        device: Where to run.

    Raises:
        BabelRSError: The crops do not fit the model, a class is unknown to its heads, an image cannot be read, or new
            heads diverge.
    """
    check_trainable(subject, samples, config)
    detector = subject.detector.to(device)
    classes = {sensor: detector.classes[sensor] for sensor in samples}
    dataset = CropDataset(samples, classes, subject.profiles, config.augment, cache=False)
    losses = _Losses(detector, config, device)
    steps = config.head_steps + config.batches
    if not subject.own_heads:
        train_heads(
            detector, make_loader(dataset, config.batch, config.reading, config.head_steps, config.seed), losses
        )
    later = make_loader(dataset, config.batch, config.reading, steps, config.seed, config.head_steps)
    heads = "its own" if subject.own_heads else f"new, {config.head_steps} steps on the frozen backbone"
    return _measured(detector, later, losses, heads)


def check_trainable(subject: Subject, samples: Mapping[Sensor, list[Sample]], config: AlignConfig) -> None:
    """Refuse what the detector has no loss for.

    Raises:
        BabelRSError: The crops do not fit the model, or its heads do not know a class.
    """
    for sensor, group in samples.items():
        check_classes(group, subject.detector.classes[sensor], sensor)
    if faults := subject.detector.config.crop_faults(config.augment.crop_px):
        raise collected("The training crops do not fit the detector", faults, "Change augment.crop_px.")


class _Losses:
    """A detector's losses on batches, by sensor."""

    def __init__(self, detector: Detector, config: AlignConfig, device: torch.device) -> None:
        self.detector, self.config, self.device = detector, config, device
        crop = config.augment.crop_px
        self.points, self.strides = anchor_points(crop, crop, detector.config.strides, device)

    def __call__(self, batch: Batch) -> dict[Sensor, Tensor]:
        """Total loss of every sensor's head, a scalar each."""
        here = batch.to(self.device)
        config = self.config
        found: dict[Sensor, HeadLoss] = sensor_losses(
            self.detector(here.pixels), here.targets, self.points, self.strides, config.loss, config.assigner
        )
        return {sensor: loss.total for sensor, loss in found.items()}


def train_heads(detector: Detector, batches: Iterable[Batch], losses: _Losses) -> None:
    """Train all but the shared parameters, which stay as they are; the backbone's running statistics too.

    Raises:
        BabelRSError: A loss is not finite.
    """
    config = losses.config
    detector.train()
    detector.backbone.eval()
    getattr(detector.backbone, PRIOR[:-1], nn.Module()).train()
    for weight in shared_parameters(detector):
        weight.requires_grad_(False)
    optimizer = make_optimizer(detector, len(detector.backbone.transformer_blocks), config.optimizer)
    for step, batch in enumerate(batches):
        set_learning_rate(optimizer, learning_rate(step, config.head_steps, config.optimizer))
        total = torch.stack(list(losses(batch).values())).sum()
        if not torch.isfinite(total):
            raise BabelRSError(f"The loss of new heads is not finite at step {step + 1}.", "Lower optimizer.lr.")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        clip_gradients(detector, config.optimizer.clip_norm)
        optimizer.step()
        if (step + 1) % 50 == 0:
            log.info("heads: step %d of %d, loss %.3g", step + 1, config.head_steps, total.item())


def _measured(detector: Detector, batches: Iterable[Batch], losses: _Losses, heads: str) -> GradientCosines:
    found = GradientCosines(heads)
    detector.eval().requires_grad_(False)
    shared = shared_parameters(detector)
    for weight in shared:
        weight.requires_grad_(True)
    for batch in batches:
        totals = losses(batch)
        agreement = gradient_agreement(totals, shared)
        for sensor, total in totals.items():
            found.losses.setdefault(sensor.value, []).append(total.item())
            found.norms.setdefault(sensor.value, []).append(agreement[f"norm.{sensor}"])
        for first, second in combinations(sorted(totals), 2):
            found.cosines.setdefault(pair_name(first, second), []).append(agreement[f"cosine.{first}.{second}"])
    return found
