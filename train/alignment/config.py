"""Settings of the measurement of alignment, with unit and default; checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from babelrs.sensors import Sensor
from train.config import (
    AssignerConfig,
    AugmentConfig,
    BatchConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
)
from train.data.soi_det import Split


class AlignConfig(BaseModel):
    """Measure how near the sensors lie to each other, before and after: features of concepts, detection gradients."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path = Field(
        description="what is measured: a checkpoint of train.pretrain or train.finetune, or a backbone folder"
    )
    before: Path | None = Field(
        None, description="what it is compared with, of the same kinds (none: its architecture at random weights)"
    )
    data: Path = Field(description="folder in the SOI-Det layout")
    split: Split = Field("eval", description="split whose objects are looked at; gradients are of the train split")
    sensors: tuple[Sensor, ...] = Field(
        (Sensor.RGB, Sensor.SAR, Sensor.IR), min_length=2, description="sensors to compare, two at least"
    )
    images_per_sensor: int | None = Field(None, ge=1, description="take only the first this many images of each sensor")
    min_objects: int = Field(5, ge=1, description="objects that a sensor must have of a concept for it to count there")
    concepts: Path | None = Field(None, description="YAML of class names and concepts, over the built-in table")
    out: Path | None = Field(None, description="folder to write (none: alignment.<split> in the checkpoint)")
    resamples: int = Field(100, ge=0, description="times that images are drawn anew for the intervals; 0: no intervals")
    seed: int = Field(0, ge=0, description="seed of random weights, new heads, training batches and resampling")
    threads: int = Field(0, ge=0, description="CPU threads; 0: PyTorch's choice")
    batch_size: int = Field(4, ge=1, description="tiles that go through the backbone at a time")
    batches: int = Field(20, ge=0, description="training batches over which gradients are compared; 0: no gradients")
    head_steps: int = Field(300, ge=1, description="optimiser steps of new heads, while the backbone is frozen")
    new_heads: bool = Field(False, description="train new heads for a detection checkpoint too, on its frozen backbone")
    patch_px: int | None = Field(
        None, ge=4, description="patch side of a bare backbone, pixels; its weights are resized (none: its own)"
    )
    workers: int = Field(0, ge=0, description="loader processes of the training batches")
    model: ModelConfig = Field(
        ModelConfig(), description="detector around a bare backbone: inputs, pyramid, heads; no backbone"
    )
    batch: BatchConfig = BatchConfig()
    augment: AugmentConfig = AugmentConfig()
    assigner: AssignerConfig = AssignerConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @property
    def reading(self) -> DataConfig:
        """How the training split is read."""
        return DataConfig(
            root=self.data, sensors=self.sensors, images_per_sensor=self.images_per_sensor, workers=self.workers
        )

    @model_validator(mode="after")
    def _consistent(self) -> AlignConfig:
        faults = []
        if len(set(self.sensors)) < len(self.sensors):
            faults.append("sensors names one more than once")
        if "backbone" in self.model.model_fields_set:
            faults.append("model.backbone cannot be set: it is the checkpoint's")
        if unused := [sensor.value for sensor in self.sensors if self.batches and not self.batch.count(sensor)]:
            faults.append(f"batch gives no images to {', '.join(unused)}, which sensors lists")
        if faults:
            raise ValueError("; ".join(faults))
        return self


NOT_REPEATED: Any = {
    **dict.fromkeys(("checkpoint", "before", "data", "out", "concepts", "threads", "workers"), True),
    "model": {"backbone"},
}
"""Settings that results do not repeat: they say where things lay on one machine, or stand with the checkpoints."""
