"""Quantization-aware training: the weights learn to live with INT8, where calibration alone loses too much.

Every sensor's images pass the model with that sensor's own scales, one sensor after the other; their gradients add up
to one step. Scales of activations stay as calibrated, those of weights follow the weights. Rounding passes gradients
straight through (Jacob et al. 2018, sec. 3).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.config import QatConfig
from compress.fake_quant import FakeQuantized
from compress.ranges import SensorRanges
from train.checkpoint import Checkpoint
from train.config import AssignerConfig, AugmentConfig, BatchConfig, DataConfig, LossConfig, OptimizerConfig
from train.data.batches import Batch, CropDataset, make_loader
from train.data.samples import Sample
from train.losses import sensor_losses
from train.models.detector import Detector, normalise
from train.models.pyramid import anchor_points
from train.optimizer import learning_rate, make_optimizer, set_learning_rate

log = logging.getLogger("compress.qat")

LOG_EVERY = 20


def train_quantized(
    detector: Detector,
    checkpoint: Checkpoint,
    int8_parts: Collection[str],
    ranges: SensorRanges,
    samples: Mapping[Sensor, Sequence[Sample]],
    config: QatConfig,
    epochs: float,
    seed: int,
) -> Detector:
    """The detector with weights that were trained under INT8; batch normalisation is folded into them.

    Args:
        detector: The trained model; it is copied.
        checkpoint: Its record.
        int8_parts: Parts that are INT8 while it learns.
        ranges: Of every sensor's activations.
        samples: Training samples by sensor.
        config: Rate, batch and crops.
        epochs: How often as many images are drawn as there are.
        seed: Of batches and augmentation.

    Raises:
        BabelRSError: The loss is not finite, or an image cannot be read.
    """
    model = FakeQuantized(detector, half=False)  # float32 beside INT8: float16 cannot hold such small steps of weights
    model.quantize_parts(int8_parts)
    batches, steps = _batches(checkpoint, samples, config, epochs, seed)
    learnt_by = losses_of(checkpoint)
    schedule = OptimizerConfig(lr=config.lr, weight_decay=0.0, warmup_steps=0)
    optimizer = make_optimizer(model.detector, len(detector.backbone.transformer_blocks), schedule)
    for step, crops in enumerate(batches):
        set_learning_rate(optimizer, learning_rate(step, steps, schedule))
        optimizer.zero_grad(set_to_none=True)
        losses = {sensor: _backward(model, sensor, crops, ranges, config.crop_px, *learnt_by) for sensor in samples}
        if not all(map(math.isfinite, losses.values())):
            raise BabelRSError(f"The loss is not finite at step {step + 1} ({losses}).", "Lower qat.lr.")
        torch.nn.utils.clip_grad_norm_(model.detector.parameters(), schedule.clip_norm)
        optimizer.step()
        model.follow_weights()
        if step % LOG_EVERY == 0 or step + 1 == steps:
            shown = "  ".join(f"{sensor} {loss:.3f}" for sensor, loss in losses.items())
            log.info("quantization-aware step %d/%d  %s", step + 1, steps, shown)
    return model.without_quantizers(detector)


def _batches(
    checkpoint: Checkpoint, samples: Mapping[Sensor, Sequence[Sample]], config: QatConfig, epochs: float, seed: int
) -> tuple[Iterable[Batch], int]:
    """Batches with as many crops of every sensor, and how many batches there are."""
    images = sum(len(group) for group in samples.values())
    steps = max(1, math.ceil(epochs * images / (config.batch * len(samples))))
    augment = AugmentConfig(crop_px=config.crop_px)
    dataset = CropDataset(samples, checkpoint.classes, checkpoint.profiles, augment, cache=False)
    batch = BatchConfig(**{sensor.value: config.batch for sensor in samples})
    return make_loader(dataset, batch, DataConfig(workers=0), steps, seed), steps


def losses_of(checkpoint: Checkpoint) -> tuple[LossConfig, AssignerConfig]:
    """What the checkpoint was trained by, as it says; the defaults where it does not."""
    settings = checkpoint.training.get("settings", {})
    return (
        LossConfig.model_validate(settings.get("loss", {})),
        AssignerConfig.model_validate(settings.get("assigner", {})),
    )


def _backward(
    model: FakeQuantized,
    sensor: Sensor,
    batch: Batch,
    ranges: SensorRanges,
    crop_px: int,
    loss_by: LossConfig,
    assigner: AssignerConfig,
) -> float:
    """Add one sensor's gradients; its loss."""
    model.use(ranges[sensor])
    detector = model.detector
    points, strides = anchor_points(crop_px, crop_px, detector.config.strides, torch.device("cpu"))
    raw = detector.heads[sensor.value](detector.features(normalise(batch.pixels[sensor])))
    loss = sensor_losses({sensor: raw}, batch.targets, points, strides, loss_by, assigner)[sensor].total
    loss.backward()
    return float(loss.detach())
