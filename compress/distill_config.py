"""Every setting of distillation, with unit and default; what the teacher's record rules out is refused with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from babelrs.errors import BabelRSError
from train.checkpoint import Checkpoint, read_checkpoint
from train.config import FinetuneConfig


class DistillConfig(BaseModel):
    """What the student takes from the teacher, and how the sensors share it out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detection_weight: float = Field(1.0, ge=0, description="weight of the plain detection loss")
    feature_weight: float = Field(1.0, ge=0, description="weight of the gap between the tapped token maps")
    class_weight: float = Field(1.0, ge=0, description="weight of the gap between the class scores")
    box_weight: float = Field(0.25, ge=0, description="weight of the gap between the box distributions")
    direction_weight: float = Field(0.5, ge=0, description="weight of the gap between the directions")
    class_temperature: float = Field(1.0, gt=0, description="class logits are divided by this before they are compared")
    box_temperature: float = Field(4.0, gt=0, description="box logits are divided by this before they are compared")
    focal_beta: float = Field(1.0, ge=0, description="focusing exponent of the class gap")
    least_score: float = Field(
        0.05, ge=0, lt=1, description="where the teacher's best class score is below, its boxes are not learned"
    )
    gap_start_steps: int = Field(50, ge=1, description="steps whose mean gap is where a sensor starts from")
    gap_decay: float = Field(0.98, ge=0, lt=1, description="decay of the gaps' moving averages after that, per step")
    least_sensor_weight: float = Field(0.5, gt=0, le=1, description="a sensor's gap weighs no less than this")
    most_sensor_weight: float = Field(2.0, ge=1, description="a sensor's gap weighs no more than this")

    @property
    def head_weights(self) -> dict[str, float]:
        """Weights of the gaps at the heads, by setting."""
        return {name: getattr(self, name) for name in ("class_weight", "box_weight", "direction_weight")}

    @model_validator(mode="after")
    def _something_is_taken(self) -> DistillConfig:
        if not any((self.feature_weight, *self.head_weights.values())):
            raise ValueError("all gaps weigh 0: nothing is taken from the teacher (train.finetune does that)")
        return self


class DistillationConfig(FinetuneConfig):
    """Joint fine-tuning of a student on labelled images and on what a teacher makes of them."""

    machine_paths: ClassVar[Any] = {**FinetuneConfig.machine_paths, "teacher": True}

    out: Path = Field(Path("runs/distill"), description="folder of the run")
    teacher: Path = Field(description="folder of the teacher's checkpoint")
    distill: DistillConfig = DistillConfig()

    @field_validator("teacher")
    @classmethod
    def _is_a_checkpoint(cls, folder: Path) -> Path:
        try:
            read_checkpoint(folder)
        except BabelRSError as error:
            raise ValueError(str(error)) from None
        return folder

    @model_validator(mode="after")
    def _teacher_fits(self) -> DistillationConfig:
        if faults := teacher_faults(self, read_checkpoint(self.teacher)):
            raise ValueError("; ".join(faults))
        return self


def teacher_faults(config: DistillationConfig, teacher: Checkpoint) -> list[str]:
    """Why this teacher cannot teach this student; nothing where it can."""
    faults = []
    given, own = teacher.model.strides, config.model.strides
    heads = [f"distill.{name}" for name, weight in config.distill.head_weights.items() if weight]
    if given != own and heads:
        faults.append(
            f"the teacher's heads stand on strides {given}, the student's on {own}, so their outputs have no common "
            f"points: take the teacher's model.strides, or set {', '.join(heads)} to 0"
        )
    if missing := [sensor.value for sensor in config.data.sensors if sensor not in teacher.classes]:
        served = ", ".join(sensor.value for sensor in teacher.classes)
        faults.append(f"the teacher serves {served}, not {', '.join(missing)}: leave these out of data.sensors")
    faults += [f"for the teacher, {fault}" for fault in teacher.model.crop_faults(config.augment.crop_px)]
    return faults
