"""Settings of pretraining, with unit and default; checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.config import OptimizerConfig
from train.instruct.config import InstructConfig
from train.vlm_config import VLMConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PretrainOptimizerConfig(_Section):
    """AdamW and its schedule; the defaults are the reference recipe."""

    lr: float = Field(2e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of matrices")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the run with linear warm-up")
    final_lr_share: float = Field(0.0, ge=0, le=1, description="cosine schedule ends at this share of lr")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")

    def over(self, steps: int) -> OptimizerConfig:
        """The same for a run of so many optimiser steps."""
        given = self.model_dump(exclude={"warmup_share"})
        return OptimizerConfig(**given, warmup_steps=round(self.warmup_share * steps))


class TokenizerConfig(_Section):
    """Where tokens come from."""

    folder: Path | None = Field(
        None, description="tokenizer in Hugging Face format; none: that of the weights, or one trained on the corpus"
    )
    vocabulary: int = Field(2048, ge=300, description="tokens of a tokenizer that is trained on the corpus")
    corpus_rows: int = Field(20_000, ge=1, description="rows that it is trained on, at most")


class PretrainWatchConfig(_Section):
    """What is looked at while training, and when a run is stopped."""

    peak_tflops: float | None = Field(
        None, gt=0, description="one device's peak in this precision, for MFU (H200 in bf16: 989)"
    )
    explode_factor: float = Field(50.0, gt=1, description="a loss above this many times its recent mean stops the run")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "swanlab"], ...] = Field(
        ("tensorboard",), description="where scalars go beside metrics.jsonl"
    )


class PretrainConfig(_Section):
    """CSIA + LVSA: align the sensors through language."""

    out: Path = Field(Path("runs/pretrain"), description="folder of the run")
    resume: bool = Field(False, description="continue the run in out from its last checkpoint")
    steps: int = Field(20_000, ge=1, description="optimiser steps")
    seed: int = Field(0, ge=0, description="seed of every random draw")
    precision: Literal["no", "bf16"] = Field("no", description="automatic mixed precision")
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="several processes: replicas, or sharded weights")
    deterministic: bool = Field(False, description="refuse operations whose result varies from run to run")
    log_every: int = Field(10, ge=1, description="steps between log lines")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    sequences: int = Field(128, ge=1, description="packed sequences of an optimiser step, over all processes")
    accumulation: int = Field(1, ge=1, description="parts in which each process computes its sequences of a step")
    model: VLMConfig = VLMConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: InstructConfig = InstructConfig()
    optimizer: PretrainOptimizerConfig = PretrainOptimizerConfig()
    watch: PretrainWatchConfig = PretrainWatchConfig()

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        faults = self.model.tau_faults(self.steps)
        if self.data.meta is None and self.data.shards is None:
            faults.append("give data.meta or data.shards")
        if self.model.from_scratch:
            vision = self.model.vision
            for name, here, there in (("tile_px", self.data.tile_px, vision.image_px),
                                      ("patch_px", self.data.patch_px, vision.patch_px)):  # fmt: skip
                if here != there:
                    faults.append(f"data.{name} is {here}, the vision model's {there}")
        if self.data.max_length > self.model.text.max_tokens and self.model.from_scratch:
            faults.append(f"data.max_length {self.data.max_length} exceeds model.text.max_tokens")
        if faults:
            raise ValueError("; ".join(faults))
        return self


MACHINE_PATHS: Any = {"out": True, "resume": True, "data": {"meta", "base", "shards"}, "tokenizer": {"folder"}}
"""Settings that a checkpoint does not repeat: they say where things lay on one machine."""

FREE = frozenset(
    ("out", "resume", "log_every", "save_every", "parallel", "accumulation", "watch.", "data.meta", "data.base",
     "data.shards", "data.workers", "data.scan_rows", "tokenizer.folder")
)  # fmt: skip
"""Settings that a run may change while it goes on."""
