"""The loop of joint fine-tuning: one backbone, a head per sensor, the plain sum of the sensors' losses (BabelRS)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from babelrs import __version__
from babelrs.detections import Detections
from babelrs.errors import BabelRSError
from babelrs.metrics import GroundTruth, evaluate
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from train.checkpoint import Checkpoint, save_checkpoint
from train.config import FinetuneConfig
from train.data.batches import Batch, CropDataset, make_loader
from train.data.samples import Sample, class_list
from train.evaluate import predict_samples
from train.interruption import Interruption, interruptible
from train.models.backbone_weights import initialise_backbone
from train.models.detector import Detector
from train.objective import DetectionObjective, Objective, SensorLoss
from train.optimizer import AveragedWeights, learning_rate, make_optimizer, set_learning_rate
from train.parallel import clip_gradients, distribute
from train.processes import gathered, num_processes, rank, summed, wait_for_all
from train.progress import RunProgress
from train.run_folder import BEST, FINAL, LAST, STOPPED, RunFolder
from train.stability import LossGuard, first_non_finite, gradient_agreement, non_finite_gradient
from train.starting_weights import start_from
from train.training_state import TrainingState, data_fingerprint, whole, write_state

log = logging.getLogger("train.finetune")
_LOOKING_SCALE = 1024.0
"""Loss scale at which fp16 gradients are looked at: high enough to keep small ones, too low to overflow."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step was.

    Attributes:
        losses: Of this process' images, by sensor.
        totals: The whole batch's total loss by sensor.
        gradient_norm: Before clipping.
        loss_scale: After the step; 1 unless fp16.
        skipped: Whether fp16 gradients overflowed and the weights stayed.
        agreement: Norms and cosines of the sensors' gradients, where they were looked at.
        stop: Whether a process was asked to stop.
    """

    losses: dict[Sensor, SensorLoss]
    totals: dict[Sensor, float]
    gradient_norm: float
    loss_scale: float
    skipped: bool
    agreement: dict[str, float]
    stop: bool


class Trainer:
    """One joint fine-tuning run.

    Args:
        config: All settings.
        samples: Checked training samples by sensor.
        accelerator: Device and processes.
        evaluation: Samples to measure on while training, by sensor; the best checkpoint by their H-mAP is kept.
        objective: What is minimised; without one, the heads' detection losses.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        samples: dict[Sensor, list[Sample]],
        accelerator: Accelerator,
        evaluation: Mapping[Sensor, list[Sample]] | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.config, self.accelerator, self.evaluation = config, accelerator, evaluation or {}
        self.device = accelerator.device
        self.objective = objective or DetectionObjective(config, self.device)
        self.folder = RunFolder(config.out)
        self.steps = run_steps(config, samples)
        torch.manual_seed(config.seed)
        self.classes = {sensor: class_list(group) for sensor, group in samples.items()}
        self.profiles = {sensor: DEFAULT_PROFILES[sensor] for sensor in samples}
        self.detector = Detector(config.model, self.classes)
        initialise_backbone(self.detector.backbone, config.model.backbone)
        if config.init is not None:
            start_from(self.detector, config.init)
        self.learner = self.objective.learner(self.detector).to(self.device)
        blocks = self.detector.backbone.transformer_blocks
        self.model = distribute(self.learner, blocks, config.parallel, accelerator)
        torch.manual_seed(config.seed + rank())  # stochastic depth differs between processes
        self.optimizer = make_optimizer(self.learner, len(blocks), config.optimizer)
        self.average = AveragedWeights(self.detector, config.optimizer.ema_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.state = TrainingState(self.model, self.optimizer, self.average, self.scaler, data_fingerprint(samples))
        self.guard: LossGuard[Sensor] = LossGuard(config.watch.explode_factor)
        self.best_h_map = -1.0
        if config.compile:
            self.learner.compile()
        self.dataset = CropDataset(samples, self.classes, self.profiles, config.augment, config.data.cache)

    def run(self) -> bool:
        """Train to the end, from the run folder's last checkpoint where ``resume`` is set.

        Returns:
            Whether the end was reached; False where the run was asked to stop.

        Raises:
            BabelRSError: The loss exploded or is not finite, an image cannot be read, or the run cannot be continued.
        """
        config, done = self.config, self._resume() if self.config.resume else 0
        loader = make_loader(self.dataset, config.batch, config.data, self.steps, config.seed, done)
        with interruptible() as interruption, RunProgress(log, self.steps, done, rank() == 0) as progress:
            for step, batch in enumerate(loader, start=done):
                report = self.train_step(step, batch.to(self.device), interruption)
                progress.advance(step + 1)
                self._log(step + 1, report, progress)
                if config.watch.evaluate_every and (step + 1) % config.watch.evaluate_every == 0:
                    self._evaluate(step + 1)
                elif report.stop or (step + 1) % config.save_every == 0:
                    self.save(step + 1, (LAST,))
                if report.stop and step + 1 < self.steps:
                    return False
        self.save(self.steps, (LAST, FINAL))
        return True

    def train_step(self, step: int, batch: Batch, interruption: Interruption | None = None) -> StepReport:
        """One optimiser step (from 0) on this process' share of a batch."""
        config = self.config
        self.model.train()
        set_learning_rate(self.optimizer, learning_rate(step, self.steps, config.optimizer))
        losses = self.objective.losses(self.model, batch)
        asked = torch.tensor(float(interruption is not None and interruption.asked), device=self.device)
        sums = summed(torch.stack([*(loss.total.detach() for loss in losses.values()), asked]))
        *values, stop = sums.tolist()
        totals = dict(zip(losses, values, strict=True))
        if wrong := self.guard.exploded(totals):
            self._stop(step, batch, wrong, totals, self._where(batch))
        agreement: dict[str, float] = {}
        if config.watch.cosine_every and step % config.watch.cosine_every == 0:
            parameters = [p for p in self.detector.backbone.parameters() if p.requires_grad]
            agreement = gradient_agreement(
                {s: loss.total for s, loss in losses.items()}, parameters, min(_LOOKING_SCALE, self.scaler.get_scale())
            )
        # Gradients are averaged over processes, whose losses add up.
        total = torch.stack([loss.total for loss in losses.values()]).sum() * num_processes()
        norm, skipped = self._descend(total, step, batch, totals)
        self.average.update(self.detector)
        self.objective.observe(losses)
        return StepReport(losses, totals, norm, self.scaler.get_scale(), skipped, agreement, stop > 0)

    def _descend(self, total: Tensor, step: int, batch: Batch, totals: dict[Sensor, float]) -> tuple[float, bool]:
        """Backward pass and update: the gradient's norm, and whether the update was skipped."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model, self.config.optimizer.clip_norm).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._stop(step, batch, list(totals), totals, non_finite_gradient(self.learner))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < self.config.watch.least_loss_scale:
            self._stop(step, batch, list(totals), totals, "the loss scale, which fell too low")
        return norm, self.scaler.get_scale() < before

    def _where(self, batch: Batch) -> str:
        """Where NaN begins in the forward pass."""
        found = first_non_finite(self.learner, lambda: self.objective.losses(self.model, batch))
        return found or "no output of a layer: the loss alone"

    def _stop(self, step: int, batch: Batch, sensors: list[Sensor], totals: Mapping[Sensor, float], where: str) -> None:
        """End the run: the averaged weights from before this step are kept beside the last checkpoint."""
        self.save(step, (STOPPED,), state=False)
        names = [name for part in gathered([n for s in sensors for n in batch.names[s]]) for name in part]
        values = ", ".join(f"{sensor} {value:.3g}" for sensor, value in totals.items())
        raise BabelRSError(
            f"The loss exploded or is not finite at step {step + 1} ({values}); "
            f"it began in {where or 'the gradients'}. "
            f"Images: {', '.join(names)}. The averaged weights from before are in {self.config.out / STOPPED}.",
            "Lower optimizer.lr, use bf16, or look at these images.",
        )

    def save(
        self, step: int, links: tuple[str, ...], state: bool = True, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write the averaged weights as a checkpoint, with the training state unless ``state`` is off."""
        weights = whole(self.average.weights)
        beside = {"best_h_map": self.best_h_map, "guard": self.guard.state(), "objective": self.objective.state()}
        collected = self.state.collect(step, beside) if state else None
        if rank() == 0:
            record = self._record(step, metrics or {})
            self.folder.add_checkpoint(step, lambda folder: _write(folder, record, weights, collected), links)
            log.info("step %d: checkpoint in %s", step, self.config.out / links[-1])
        wait_for_all()

    def _evaluate(self, step: int) -> None:
        """Measure the averaged weights, every process on its share of the images; keep the best by H-mAP."""
        with torch.random.fork_rng():  # training draws as it would without
            detector = Detector(self.config.model, self.classes)
        detector.load_state_dict(whole(self.average.weights))
        record = Checkpoint(self.config.model, self.classes, self.profiles)
        shares = {sensor: group[rank() :: num_processes()] for sensor, group in self.evaluation.items()}
        scored = predict_samples(
            detector.eval(), record, {s: share for s, share in shares.items() if share}, self.device
        )
        found: dict[str, Detections] = {}
        truth: dict[str, GroundTruth] = {}
        for part_found, part_truth in gathered((scored.found, scored.truth)):
            found |= part_found
            truth |= part_truth
        result = evaluate(found, truth)
        metrics = result.to_dict()
        best = result.h_map > self.best_h_map
        self.best_h_map = max(self.best_h_map, result.h_map)
        if rank() == 0:
            line = {"step": step, "h_map": metrics["h_map"], "evaluation": metrics}
            self.folder.append_metrics(line)
            sensors = {f"ap50/{s}": mean.ap50 for s, mean in result.sensors.items()}
            self.accelerator.log({"h_map": result.h_map, **sensors}, step=step)
            log.info("step %d: H-mAP %.2f %%", step, 100 * result.h_map)
        self.save(step, (LAST, BEST) if best else (LAST,), metrics=metrics)

    def _record(self, step: int, metrics: Mapping[str, Any]) -> Checkpoint:
        training = {
            **self.objective.provenance(),
            "version": __version__,
            "step": step,
            "settings": self.config.model_dump(mode="json", exclude=self.config.machine_paths),
            "images": {sensor.value: len(group) for sensor, group in self.dataset.samples.items()},
        }
        return Checkpoint(self.config.model, self.classes, self.profiles, training, dict(metrics))

    def _resume(self) -> int:
        """Steps that are done."""
        folder = self.folder.last()
        record = self.state.restore(folder)
        step = int(record["step"])
        self.best_h_map = record["best_h_map"]
        self.guard.restore(record["guard"])
        self.objective.restore(record.get("objective", {}))
        if rank() == 0:
            self.folder.forget_metrics_after(step)
            log.info("going on from step %d of %d", step, self.steps)
        wait_for_all()
        return step

    def _log(self, step: int, report: StepReport, progress: RunProgress) -> None:
        due = step % self.config.log_every == 0 or step in (1, self.steps)
        if rank() or not (due or report.agreement or report.skipped):
            return
        line: dict[str, Any] = {
            "step": step,
            "lr": learning_rate(step - 1, self.steps, self.config.optimizer),
            "steps_per_s": round(progress.rate(step), 3),
            "gradient_norm": report.gradient_norm,
            "loss_scale": report.loss_scale,
            "skipped": report.skipped,
            **({"agreement": _plain(report.agreement)} if report.agreement else {}),
        }
        for sensor, loss in report.losses.items():
            parts = {name: float(value) for name, value in loss.parts.items()}
            line[sensor.value] = {**parts, "total": report.totals[sensor]}
        self.folder.append_metrics(line)
        self.accelerator.log(_scalars(line), step=step)
        progress.report(step, {sensor.value: total for sensor, total in report.totals.items()})


def _write(
    folder: Path,
    record: Checkpoint,
    weights: Mapping[str, Tensor],
    state: tuple[dict[str, Tensor], dict[str, Any]] | None,
) -> None:
    save_checkpoint(folder, weights, record)
    if state is not None:
        write_state(folder, *state)


def run_steps(config: FinetuneConfig, samples: Mapping[Sensor, list[Sample]]) -> int:
    """Optimiser steps of a run: ``steps``, or what ``epochs`` over all images together takes."""
    if config.epochs is None:
        return config.steps
    images = sum(len(group) for group in samples.values())
    return max(1, math.ceil(config.epochs * images / sum(config.batch.count(sensor) for sensor in samples)))


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """NaN as JSON has it."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _scalars(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a metrics line by its path, as trackers take them."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{name}/")
        elif name != "step" and value is not None:
            found[prefix + name] = float(value)
    return found
