"""Every setting of training, with its unit and default; checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from train.backbone_record import backbone_folder, read_backbone_record


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


INTERNVIT = "internvit_300m"

_INTERNVIT_SIZES: dict[str, Any] = {
    "width": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0, "taps": (3, 9, 18, 24), "patch_px": 14,
    "image_px": 448,
}  # fmt: skip
"""What ``internvit_300m`` takes where nothing else is given (InternVL2.5's vision model)."""


def word_no(value: object) -> object:
    """The precision ``no``, which YAML reads as false where it stands bare."""
    return "no" if value is False else value


_BESIDE_THE_VIT = ("stem_widths", "stem_blocks", "drop_path", "grad_checkpointing")
"""Settings of a backbone that no weights decide."""


class BackboneConfig(_Section):
    """The shared backbone."""

    name: str = Field("conv_vit", description=f"conv_vit, {INTERNVIT}, or a ViT of timm by name")
    weights: Path | None = Field(
        None, description="weights to start from: a file, or a folder of Hugging Face or of a checkpoint; no download"
    )
    pretrained: bool = Field(False, description="start from timm's weights (downloads them; ViTs of timm)")
    patch_px: int | None = Field(
        None, ge=4, description="patch side, pixels; weights of other patches are resized (not conv_vit; none: native)"
    )
    image_px: int | None = Field(
        None, ge=16, description="side of the square image that the position table covers, pixels (none: native)"
    )
    width: int = Field(160, ge=8, description=f"token channels (conv_vit; {INTERNVIT} takes 1024)")
    depth: int = Field(6, ge=1, description=f"transformer blocks (conv_vit; {INTERNVIT} takes 24)")
    num_heads: int = Field(5, ge=1, description=f"attention heads (conv_vit; {INTERNVIT} takes 16)")
    mlp_ratio: float = Field(2.0, gt=0, description=f"hidden over token channels (conv_vit; {INTERNVIT} takes 4)")
    stem_widths: tuple[int, ...] = Field(
        (32, 48, 96, 128, 160),
        min_length=3,
        description="channels at strides 2, 4, 8, ...; conv_vit's tokens sit at the last one",
    )
    stem_blocks: tuple[int, ...] = Field((0, 0, 2, 1, 0), description="residual blocks after each of these strides")
    taps: tuple[int, ...] = Field((1, 2, 4, 6), min_length=1, description="tapped blocks, counted from 1")
    drop_path: float = Field(0.05, ge=0, lt=1, description="stochastic depth of the last block")
    grad_checkpointing: bool = Field(
        False, description="keep each block's input only and compute it again backwards: less memory, a third slower"
    )

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_name(cls, values: Any) -> Any:
        """InternViT's own sizes, where the settings do not give others."""
        if isinstance(values, dict) and values.get("name") == INTERNVIT:
            return {**_INTERNVIT_SIZES, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> BackboneConfig:
        if len(self.stem_blocks) != len(self.stem_widths):
            raise ValueError(f"stem_blocks has {len(self.stem_blocks)} entries, stem_widths {len(self.stem_widths)}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self

    @model_validator(mode="after")
    def _patches(self) -> BackboneConfig:
        if self.name == "conv_vit" and (self.patch_px or self.image_px):
            raise ValueError("conv_vit has neither patches nor a position table: leave patch_px and image_px out")
        if self.name == INTERNVIT and not (self.patch_px and self.image_px):
            raise ValueError(f"{INTERNVIT} needs patch_px and image_px")
        if self.patch_px and self.image_px and self.image_px % self.patch_px:
            raise ValueError(f"image_px {self.image_px} is not a multiple of patch_px {self.patch_px}")
        return self

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> BackboneConfig:
        if self.pretrained and self.name in ("conv_vit", INTERNVIT):
            raise ValueError(f"timm has no pretrained weights of {self.name}: give weights, or leave pretrained out")
        if self.pretrained and self.weights:
            raise ValueError("weights and pretrained exclude each other")
        return self


class InputConfig(_Section):
    """Height and width of each sensor's input at inference, pixels; smaller images are padded, larger ones tiled."""

    rgb: tuple[PositiveInt, PositiveInt] = Field((640, 640), description="RGB height and width, pixels")
    sar: tuple[PositiveInt, PositiveInt] = Field((640, 640), description="SAR height and width, pixels")
    ir: tuple[PositiveInt, PositiveInt] = Field((512, 640), description="infrared height and width, pixels")

    def of(self, sensor: Sensor) -> tuple[int, int]:
        """``(height, width)`` for ``sensor``."""
        return {Sensor.RGB: self.rgb, Sensor.SAR: self.sar, Sensor.IR: self.ir}[sensor]

    @model_validator(mode="after")
    def _whole_tokens(self) -> InputConfig:
        for sensor in Sensor:
            if any(side % 32 for side in self.of(sensor)):
                raise ValueError(f"{sensor} input {self.of(sensor)} is not a multiple of 32 pixels")
        return self


class ModelConfig(_Section):
    """The detector."""

    backbone: BackboneConfig = BackboneConfig()
    strides: tuple[int, ...] = Field((8, 16, 32, 64), min_length=1, description="strides of the pyramid, pixels")
    pyramid_channels: int = Field(64, ge=8, description="channels of every pyramid level")
    head_channels: int = Field(64, ge=8, description="channels of the heads' towers")
    input_px: InputConfig = InputConfig()
    max_detections: int = Field(300, ge=1, le=3840, description="boxes that the exported graph gives per tile (K)")
    tile_overlap: float = Field(
        0.2, ge=0, lt=0.9, description="least overlap of tiles where an image exceeds the input"
    )
    nms_iou: float = Field(
        0.3, gt=0, le=1, description="rotated overlap above which the lower-scored box of a class goes"
    )

    @model_validator(mode="after")
    def _doubling(self) -> ModelConfig:
        if any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise ValueError(f"strides {self.strides} must double from level to level")
        if self.strides[0] & (self.strides[0] - 1):
            raise ValueError(f"strides {self.strides} must be powers of two")
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> ModelConfig:
        if self.backbone.patch_px and (faults := self.patch_faults(self.backbone.patch_px)):
            raise ValueError("; ".join(faults))
        return self

    def patch_faults(self, patch_px: int) -> list[str]:
        """What does not fit patches of this side: the pyramid, or the inputs. Nothing is wrong where it is empty."""
        faults = []
        if patch_px & (patch_px - 1):
            faults.append(f"the backbone's patches of {patch_px} px are no power of two, which the pyramid needs")
        if self.strides[0] > (coarsest := 16 if patch_px > 8 else 8):
            faults.append(f"strides must start at {coarsest} or below, for the fine maps beside the ViT to be read")
        for sensor in Sensor:
            if any(side % patch_px for side in self.input_px.of(sensor)):
                faults.append(f"{sensor} input {self.input_px.of(sensor)} is not a multiple of the {patch_px} px patch")
        return faults

    def crop_faults(self, crop_px: int) -> list[str]:
        """What does not fit square training crops of this side, pixels; nothing is wrong where it is empty."""
        faults, patch_px = [], self.backbone.patch_px
        if crop_px < 2 * self.strides[-1]:  # batch normalisation needs more than one value
            faults.append(f"augment.crop_px {crop_px} is below twice the coarsest stride {self.strides[-1]}")
        if patch_px and crop_px % patch_px:
            faults.append(f"augment.crop_px {crop_px} is not a multiple of the {patch_px} px patch")
        return faults


class DataConfig(_Section):
    """What is read."""

    root: Path = Field(Path("data"), description="folder in the SOI-Det layout")
    sensors: tuple[Sensor, ...] = Field(
        (Sensor.RGB, Sensor.SAR, Sensor.IR), min_length=1, description="sensors to train on"
    )
    images_per_sensor: int | None = Field(None, ge=1, description="take only the first this many images of each sensor")
    workers: int = Field(1, ge=0, description="loader processes")
    cache: bool = Field(False, description="keep decoded images in memory, in every loader process")


class AugmentConfig(_Section):
    """Random changes to a training image; all draws come from the run's seed."""

    crop_px: int = Field(448, ge=64, multiple_of=32, description="side of the square training crop, pixels")
    scale_min: float = Field(0.6, gt=0, description="smallest zoom")
    scale_max: float = Field(1.6, gt=0, description="largest zoom")
    flip: bool = Field(True, description="mirror half of the images")
    rotate: bool = Field(True, description="quarter turns (all sensors)")
    rotate_free: float = Field(0.3, ge=0, le=1, description="share turned by any angle (oriented sensors)")
    mosaic: float = Field(0.0, ge=0, le=1, description="share of training images put together from four")
    mosaic_off_share: float = Field(0.15, ge=0, le=1, description="last share of the run without mosaics")
    brightness: float = Field(0.2, ge=0, description="largest relative change of brightness")
    contrast: float = Field(0.3, ge=0, description="largest relative change of contrast")
    min_visible: float = Field(0.4, ge=0, le=1, description="objects with less of their area in the crop are ignored")

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} exceeds scale_max {self.scale_max}")
        return self


class AssignerConfig(_Section):
    """Task-aligned assignment."""

    points_per_object: int = Field(10, ge=1, description="anchor points that learn an object, at most")
    score_exponent: float = Field(0.5, ge=0, description="weight of the class score in the alignment metric")
    overlap_exponent: float = Field(4.0, ge=0, description="weight of the overlap in the alignment metric")
    centre_radius_strides: float = Field(1.0, gt=0, description="points this near to a centre qualify too, in strides")


class LossConfig(_Section):
    """Weights of a head's losses."""

    class_weight: float = Field(2.5, ge=0, description="quality-focal classification")
    overlap_weight: float = Field(2.5, ge=0, description="Gaussian overlap of boxes")
    distribution_weight: float = Field(0.5, ge=0, description="distribution-focal loss of offsets and sizes")
    direction_weight: float = Field(0.5, ge=0, description="direction vector")
    focal_beta: float = Field(1.0, ge=0, description="focusing exponent")


class OptimizerConfig(_Section):
    """AdamW, its schedule and averaging."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay of matrices")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the rate from one backbone block to the next")
    warmup_steps: int = Field(100, ge=0, description="linear warm-up, optimiser steps")
    schedule: Literal["cosine", "step"] = Field("cosine", description="course of the rate after the warm-up")
    final_lr_share: float = Field(0.02, ge=0, le=1, description="cosine schedule ends at this share of lr")
    step_at: tuple[float, ...] = Field((2 / 3, 11 / 12), description="shares of the run at which the rate steps down")
    step_factor: float = Field(0.1, gt=0, le=1, description="factor of each step down")
    clip_norm: float = Field(10.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="decay of the averaged weights, per step")


class BatchConfig(_Section):
    """Images of each sensor in every batch (reference ratio: 2 SAR : 1 RGB : 1 IR)."""

    rgb: int = Field(4, ge=0, description="RGB images")
    sar: int = Field(8, ge=0, description="SAR images")
    ir: int = Field(4, ge=0, description="infrared images")

    def count(self, sensor: Sensor) -> int:
        """Images of ``sensor`` in a batch."""
        return {Sensor.RGB: self.rgb, Sensor.SAR: self.sar, Sensor.IR: self.ir}[sensor]


class WatchConfig(_Section):
    """What is looked at while training, and when a run is stopped."""

    cosine_every: int = Field(0, ge=0, description="steps between cosines of the sensors' gradients; 0: never")
    evaluate_every: int = Field(0, ge=0, description="steps between evaluations on the eval split; 0: never")
    explode_factor: float = Field(50.0, gt=1, description="a loss above this many times its recent mean stops the run")
    least_loss_scale: float = Field(2.0**-10, gt=0, description="fp16: a loss scale below this stops the run")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "swanlab"], ...] = Field(
        ("tensorboard",), description="where scalars go beside metrics.jsonl"
    )


class FinetuneConfig(_Section):
    """Joint fine-tuning of one backbone and a head per sensor."""

    machine_paths: ClassVar[Any] = {
        "out": True, "resume": True, "init": True, "backbone": True, "data": {"root"},
        "model": {"backbone": {"weights"}},
    }  # fmt: skip
    """Settings that a checkpoint does not repeat: they say where things lay on one machine."""

    out: Path = Field(Path("runs/finetune"), description="folder of the run")
    resume: bool = Field(False, description="continue the run in out from its last checkpoint")
    init: Path | None = Field(
        None, description="checkpoint to begin with; heads of other classes and sensors are made new"
    )
    backbone: Path | None = Field(
        None, description="backbone of train.pretrain to start from (RUN or RUN/final): its sizes, taps and weights"
    )
    steps: int = Field(3000, ge=1, description="optimiser steps")
    epochs: float | None = Field(
        None, gt=0, description="instead of steps: how often as many images are drawn as the training split has"
    )
    seed: int = Field(0, ge=0, description="seed of every random draw")
    precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(word_no)] = Field(
        "no", description="automatic mixed precision"
    )
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="several processes: replicas, or sharded weights")
    compile: bool = Field(False, description="compile the detector with torch.compile")
    deterministic: bool = Field(False, description="refuse operations whose result varies from run to run")
    log_every: int = Field(20, ge=1, description="steps between log lines")
    dry_run: bool = Field(False, description="print parameters, FLOPs and predicted memory; train nothing")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    watch: WatchConfig = WatchConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    augment: AugmentConfig = AugmentConfig()
    assigner: AssignerConfig = AssignerConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="before")
    @classmethod
    def _backbone_as_recorded(cls, values: Any) -> Any:
        """Sizes, taps and weights of a backbone that was handed over stand in for those of the settings."""
        if not isinstance(values, dict) or not values.get("backbone"):
            return values
        folder = backbone_folder(Path(values["backbone"]))
        try:
            recorded = read_backbone_record(folder)["backbone"]
        except BabelRSError as error:
            raise ValueError(str(error)) from None
        model = values.get("model") or {}
        model = model.model_dump() if isinstance(model, BaseModel) else model
        given = {key: value for key, value in (model.get("backbone") or {}).items() if key in _BESIDE_THE_VIT}
        return {**values, "model": {**model, "backbone": {**given, **recorded, "weights": str(folder)}}}

    @model_validator(mode="after")
    def _crop_fits_the_model(self) -> FinetuneConfig:
        if faults := self.model.crop_faults(self.augment.crop_px):
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _sharded_half_precision(self) -> FinetuneConfig:
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise ValueError("fp16's loss scale is not kept over sharded weights; use bf16 with fsdp")
        if self.parallel == "fsdp" and self.watch.cosine_every:
            raise ValueError("watch.cosine_every needs whole gradients in every process; set it to 0 with fsdp")
        return self

    @model_validator(mode="after")
    def _weights_exist(self) -> FinetuneConfig:
        weights = self.model.backbone.weights
        if weights is not None and not weights.exists():
            raise ValueError(f"model.backbone.weights {weights} does not exist")
        return self

    @model_validator(mode="after")
    def _every_sensor_has_images(self) -> FinetuneConfig:
        unused = [sensor.value for sensor in self.data.sensors if self.batch.count(sensor) == 0]
        if unused:
            raise ValueError(f"batch gives no images to {', '.join(unused)}, which data.sensors lists")
        return self
