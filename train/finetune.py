"""``python -m train.finetune``: train one backbone and a head per sensor together.

The loss is the plain sum of the heads' losses over batches that mix the sensors in a fixed ratio (BabelRS).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from babelrs import __version__
from babelrs.errors import BabelRSError, run_command
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from train.checkpoint import Checkpoint, save_checkpoint
from train.cli import load_config, start_logging
from train.config import FinetuneConfig, OptimizerConfig
from train.data.batches import Batch, CropDataset, make_loader
from train.data.samples import Sample, class_list, limited
from train.data.soi_det import read_split
from train.footprint import predict, table
from train.losses import HeadLoss, head_loss
from train.models.backbone_weights import initialise_backbone
from train.models.detector import Detector, check_model
from train.models.pyramid import anchor_points

log = logging.getLogger("train.finetune")

MACHINE_PATHS: Any = {"out": True, "data": {"root"}, "model": {"backbone": {"weights"}}}
"""Settings that a checkpoint does not repeat: they say where things lay on one machine."""


class AveragedWeights:
    """Exponential moving average of a model's parameters and floating-point buffers; counters are copied.

    The decay rises with the step, ``min(decay, (1 + step) / (10 + step))``, so that a short run is not held back by its
    first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.step = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards ``model``."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        source = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.dtype.is_floating_point:
                average.lerp_(source[name].to(average), 1 - decay)
            else:
                average.copy_(source[name])


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of a step (from 0): linear warm-up, then a cosine down to ``final_lr_share`` of the peak."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    share = config.final_lr_share + (1 - config.final_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * share


class Trainer:
    """One joint fine-tuning run.

    Args:
        config: All settings.
        samples: Checked training samples by sensor.
        accelerator: Device, precision and processes.
    """

    def __init__(self, config: FinetuneConfig, samples: dict[Sensor, list[Sample]], accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        torch.manual_seed(config.seed)
        self.classes = {sensor: class_list(group) for sensor, group in samples.items()}
        self.profiles = {sensor: DEFAULT_PROFILES[sensor] for sensor in samples}
        detector = Detector(config.model, self.classes)
        initialise_backbone(detector.backbone, config.model.backbone)
        self.average = AveragedWeights(detector.to(accelerator.device), config.optimizer.ema_decay)
        self.optimizer = make_optimizer(detector, config.optimizer)
        self.model, self.optimizer = accelerator.prepare(detector, self.optimizer)
        self.dataset = CropDataset(samples, self.classes, self.profiles, config.augment, config.data.cache)
        crop = config.augment.crop_px
        self.points, self.strides = anchor_points(crop, crop, config.model.strides, accelerator.device)

    def run(self) -> Path:
        """Train to the end.

        Returns:
            The folder of the final checkpoint.

        Raises:
            BabelRSError: The loss became NaN or infinite.
        """
        config = self.config
        loader = make_loader(self.dataset, config.batch, config.data, config.steps, config.seed)
        started = time.perf_counter()
        for step, batch in enumerate(loader):
            losses = self.train_step(step, batch.to(self.accelerator.device))
            if (step + 1) % config.log_every == 0 or step == 0:
                self._log(step, losses, started)
            if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                self.save(config.out / "last", step + 1)
        self.save(config.out / "final", config.steps)
        return config.out / "final"

    def train_step(self, step: int, batch: Batch) -> dict[Sensor, HeadLoss]:
        """One optimiser step; returns the losses by sensor."""
        config = self.config
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.optimizer)
        with self.accelerator.autocast():
            outputs = self.model(batch.pixels)
        losses = {
            sensor: head_loss(raw, batch.targets[sensor], self.points, self.strides, config.loss, config.assigner)
            for sensor, raw in outputs.items()
        }
        total = torch.stack([loss.total for loss in losses.values()]).sum()
        if not torch.isfinite(total):
            values = ", ".join(f"{sensor} {loss.total.item():.3g}" for sensor, loss in losses.items())
            raise BabelRSError(
                f"The loss is not finite at step {step + 1} ({values}).", "Lower optimizer.lr or use bf16."
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        self.average.update(self.accelerator.unwrap_model(self.model))
        return losses

    def save(self, folder: Path, step: int) -> None:
        """Write the averaged weights as a checkpoint."""
        if not self.accelerator.is_main_process:
            return
        training = {
            "command": "python -m train.finetune",
            "version": __version__,
            "step": step,
            "settings": self.config.model_dump(mode="json", exclude=MACHINE_PATHS),
            "images": {sensor.value: len(group) for sensor, group in self.dataset.samples.items()},
        }
        record = Checkpoint(self.config.model, self.classes, self.profiles, training)
        save_checkpoint(folder, self.average.model.state_dict(), record)
        log.info("step %d: checkpoint in %s", step, folder)

    def _log(self, step: int, losses: dict[Sensor, HeadLoss], started: float) -> None:
        rate = (step + 1) / (time.perf_counter() - started)
        line: dict[str, Any] = {
            "step": step + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "steps_per_s": round(rate, 3),
        }
        for sensor, loss in losses.items():
            line[sensor.value] = {name: round(getattr(loss, name).item(), 4) for name in HeadLoss.__dataclass_fields__}
        if self.accelerator.is_main_process:
            log.info("step %d/%d  %s  %.2f steps/s", step + 1, self.config.steps, _totals(losses.items()), rate)
            with (self.config.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")


def _totals(losses: Iterable[tuple[Sensor, HeadLoss]]) -> str:
    return "  ".join(f"{sensor} {loss.total.item():.3f}" for sensor, loss in losses)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(FinetuneConfig, arguments)
    start_logging()
    check_model(config.model)
    if config.dry_run:
        sys.stdout.write(table(predict(config)))
        return 0
    samples = limited(read_split(config.data.root, config.data.sensors, "train"), config.data.images_per_sensor)
    if empty := [sensor.value for sensor, group in samples.items() if not class_list(group)]:
        raise BabelRSError(f"No image of {', '.join(empty)} has an object.", "Annotate some, or change data.sensors.")
    if config.out.exists():
        raise BabelRSError(f"The run folder {config.out} exists already.", "Name another with --out, or remove it.")
    accelerator = Accelerator(mixed_precision=config.precision)
    if accelerator.num_processes > 1:
        raise BabelRSError(f"{accelerator.num_processes} processes were launched.", "Start it as one process.")
    trainer = Trainer(config, samples, accelerator)
    config.out.mkdir(parents=True)
    (config.out / "config.json").write_text(config.model_dump_json(indent=1) + "\n")
    folder = trainer.run()
    log.info("done: %s", folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
