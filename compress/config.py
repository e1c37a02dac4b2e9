"""Settings of ``python -m compress.quantize``, with unit and default; checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from babelrs.sensors import Sensor
from compress.calibration import CalibrationConfig
from compress.ranges import Scales
from train.data.soi_det import Split

CalibratorName = Literal["max", "percentile", "entropy", "mse"]
RowChoice = Literal["float16", "naive", "pooled", "per-sensor"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeldOutConfig(_Section):
    """The labelled images that accuracy is measured on."""

    root: Path | None = Field(None, description="folder in the SOI-Det layout; needed for int8")
    split: Split = Field("eval", description="split to measure on")
    images_per_sensor: int | None = Field(None, ge=1, description="take only the first this many of each sensor")


class QatConfig(_Section):
    """Quantization-aware training, where calibration alone loses too much."""

    lr: float = Field(2e-5, gt=0, description="learning rate of AdamW")
    batch: int = Field(4, ge=1, description="images of a step, of each sensor")
    crop_px: int = Field(320, ge=64, multiple_of=32, description="side of the training crops, pixels")


class QuantizeConfig(_Section):
    """Make a bundle from a checkpoint."""

    checkpoint: Path = Field(description="folder of the checkpoint")
    out: Path = Field(Path("bundle"), description="folder of the bundle; must not exist")
    target: str = Field("cpu-x86", description="device the bundle is for; see compress/targets.yaml")
    targets_file: Path | None = Field(None, description="YAML of further targets")
    precision: Literal["int8", "fp16", "fp32"] = Field("int8", description="precision of the graphs")
    name: str = Field("babelrs", min_length=1, description="name of the model in the manifest")
    sensors: tuple[Sensor, ...] | None = Field(None, description="sensors to serve (none: all of the checkpoint)")
    data: HeldOutConfig = HeldOutConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    scales: Scales = Field("per-sensor", description="activation scales: each sensor's own, or one set for all")
    calibrators: tuple[CalibratorName, ...] = Field(
        ("max", "percentile", "entropy", "mse"), min_length=1, description="calibrators to compare"
    )
    wide_norms: bool = Field(
        False,
        description="compute LayerNorm and softmax of float16 graphs in float32, where an engine overflows",
    )
    max_hmap_drop: float = Field(0.5, ge=0, description="H-mAP that may be lost against float32, points")
    rows: tuple[RowChoice, ...] | None = Field(
        None, description="further ways to quantize, measured for the report (none: all that the target computes in)"
    )
    probe_images: int = Field(8, ge=1, description="calibration images of each sensor that outputs are compared on")
    parity_images: int = Field(
        8,
        ge=1,
        description="held-out images of each sensor on which written graphs are compared with what was measured",
    )
    qat_epochs: float = Field(
        0, ge=0, description="epochs of quantization-aware training where the limit is missed; 0: none"
    )
    qat: QatConfig = QatConfig()
    examples: int = Field(1, ge=0, description="images of each sensor shown in the report, float beside int8")
    selftest_root: Path | None = Field(
        None,
        description="SOI-Det folder whose fullest eval image of each sensor becomes the self-test "
        "(none: data.root; without it noise)",
    )
    selftest_px: int = Field(320, ge=32, description="side of the part of that image that is used, pixels")
    score_threshold: float = Field(0.3, ge=0, le=1, description="least score that is reported on board")
    seed: int = Field(0, ge=0, description="seed of the self-test's noise and of training")
    threads: int = Field(0, ge=0, description="images at a time; 0: one a CPU core. The bundle does not depend on it")
    archive: bool = Field(False, description="also write the bundle as one .babelrs file beside the folder")

    @model_validator(mode="after")
    def _int8_needs_data(self) -> QuantizeConfig:
        if self.precision == "int8" and self.data.root is None:
            raise ValueError("precision int8 needs labelled images: give data.root, or choose precision fp16 or fp32")
        return self

    @model_validator(mode="after")
    def _splits_differ(self) -> QuantizeConfig:
        calibrated_on = self.calibration.root or self.data.root
        if self.precision == "int8" and self.calibration.split == self.data.split and calibrated_on == self.data.root:
            raise ValueError("calibration.split is the split that is measured on: choose another")
        return self
