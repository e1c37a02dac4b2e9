"""Settings of pretraining, with unit and default; checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from train.config import OptimizerConfig, word_no
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


class HeldOutConfig(_Section):
    """Rows whose loss and answers are looked at while training."""

    meta: Path | None = Field(
        None, description="meta JSON of instruction sets that are not learnt (none: rows of the training sets)"
    )
    base: Path | None = Field(None, description="folder that relative paths in it start from (none: the file's own)")
    every: int = Field(500, ge=0, description="steps between two looks, with one at either end of the run; 0: never")
    rows: int = Field(192, ge=1, description="rows that are measured, drawn from the run's seed")
    shown: int = Field(12, ge=0, description="rows of them that are kept as image, question and answer")
    max_tokens: int = Field(64, ge=1, description="longest answer, tokens")
    batch: int = Field(16, ge=1, description="rows at a time")


class PlanConfig(_Section):
    """What ``--dry-run`` assumes; training does not look at it."""

    visual_share: float = Field(
        0.8, ge=0, lt=1, description="share of a full sequence's tokens that are visual; whole tiles, one at least"
    )
    response_share: float = Field(0.05, gt=0, lt=1, description="share of its tokens that are learnt")
    conversations: int = Field(5, ge=1, description="conversations in a full sequence")
    gpus: tuple[PositiveInt, ...] = Field((1, 2, 4, 8, 16, 32), min_length=1, description="numbers of GPUs")
    mfu: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.2, 0.3, 0.4, 0.5), min_length=1, description="model-FLOPs utilisations"
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="one GPU's peak in the run's precision (none: watch.peak_tflops)"
    )

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> PlanConfig:
        if self.visual_share + self.response_share >= 1:
            raise ValueError(
                f"visual_share {self.visual_share} and response_share {self.response_share} leave no instructions"
            )
        return self


class PretrainConfig(_Section):
    """CSIA + LVSA: align the sensors through language."""

    out: Path = Field(Path("runs/pretrain"), description="folder of the run")
    resume: bool = Field(False, description="continue the run in out from its last checkpoint")
    steps: int = Field(20_000, ge=1, description="optimiser steps")
    seed: int = Field(0, ge=0, description="seed of every random draw")
    precision: Annotated[Literal["no", "bf16"], BeforeValidator(word_no)] = Field(
        "no", description="automatic mixed precision"
    )
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="several processes: replicas, or sharded weights")
    deterministic: bool = Field(False, description="refuse operations whose result varies from run to run")
    dry_run: bool = Field(
        False, description="print parameters, FLOPs, predicted memory and steps a day; needs no data, trains nothing"
    )
    log_every: int = Field(10, ge=1, description="steps between log lines")
    save_every: int = Field(500, ge=1, description="steps between checkpoints")
    sequences: int = Field(128, ge=1, description="packed sequences of an optimiser step, over all processes")
    accumulation: int = Field(1, ge=1, description="parts in which each process computes its sequences of a step")
    model: VLMConfig = VLMConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: InstructConfig = InstructConfig()
    optimizer: PretrainOptimizerConfig = PretrainOptimizerConfig()
    watch: PretrainWatchConfig = PretrainWatchConfig()
    heldout: HeldOutConfig = HeldOutConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        faults = self.model.tau_faults(self.steps)
        if self.data.meta is None and self.data.shards is None and not self.dry_run:
            faults.append("give data.meta or data.shards (--dry-run needs neither)")
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


MACHINE_PATHS: Any = {
    "out": True,
    "resume": True,
    "data": {"meta", "base", "shards"},
    "tokenizer": {"folder"},
    "heldout": {"meta", "base"},
}
"""Settings that a checkpoint does not repeat: they say where things lay on one machine."""

FREE = frozenset(
    ("out", "resume", "dry_run", "plan.", "log_every", "save_every", "parallel", "accumulation", "watch.", "heldout.",
     "data.meta", "data.base", "data.shards", "data.workers", "data.scan_rows", "tokenizer.folder")
)  # fmt: skip
"""Settings that a run may change while it goes on."""
