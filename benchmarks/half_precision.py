"""``python -m benchmarks.half_precision --data DATA``: a whole fp16 schedule on a CPU, with a GPU's rounding.

CPUs without fp16 units are ten to twenty times slower in it than in float32. Here every matrix product, convolution
and attention that autocast gives fp16 inputs is computed in float32 and rounded to fp16, forwards and backwards: what a
GPU's matrix units do, which add fp16 products up in float32. Overflows, the loss scale and skipped steps are then those
of fp16 training; speed and the order of sums are not. The other operations are PyTorch's own in fp16.

Writes a JSON file and the run's curves, gradient cosines among them; exits with 1 where the schedule did not end.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.utils._python_dispatch import TorchDispatchMode

from babelrs.errors import run_command
from benchmarks.launching import metrics
from benchmarks.throughput import CONFIGS
from train import finetune
from train.cli import load_config

SCHEMA = "babelrs.half-precision/1"

_aten = torch.ops.aten
_attention = _aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = _aten._scaled_dot_product_flash_attention_for_cpu_backward
PRODUCTS = {
    *(_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.convolution, _aten.convolution_backward),
    *(_attention, _attention_backward),
}
"""Operations that are computed in float32 and rounded."""
_NOT_ROUNDED = {(_attention, 1)}
"""Results that are float32 on a GPU too: the logarithm of attention's sums."""


class HalfProducts(TorchDispatchMode):
    """Within this context fp16 products are computed in float32 and rounded to fp16."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        given = kwargs or {}
        operation = func.overloadpacket
        if operation not in PRODUCTS or not any(_is_half(value) for value in args):
            return func(*args, **given)
        results = func(*(_to(value, torch.float32) if _is_half(value) else value for value in args), **given)
        if not isinstance(results, tuple):
            return _to(results, torch.float16)
        return tuple(
            value if (operation, place) in _NOT_ROUNDED else _to(value, torch.float16)
            for place, value in enumerate(results)
        )


def _is_half(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def _to(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value


class HalfPrecisionConfig(BaseModel):
    """Fine-tune one configuration in fp16 from its first step to its last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder in the SOI-Det layout")
    config: str = Field("small", description="name under train/configs")
    run: Path = Field(Path("runs/half-precision"), description="folder of the run; goes on where it was stopped")
    crop_px: int = Field(128, ge=64, multiple_of=32, description="side of a training crop, pixels")
    batch: tuple[int, int, int] = Field((1, 1, 2), description="rgb, sar and ir images of a step")
    steps: int = Field(3000, ge=1, description="optimiser steps")
    cosine_every: int = Field(25, ge=1, description="steps between cosines of the sensors' gradients")
    threads: int = Field(1, ge=1, description="threads of PyTorch")
    out: Path = Field(Path("benchmarks/results/half-precision"), description="results go to OUT.json and OUT.png")


def finetune_arguments(config: HalfPrecisionConfig) -> list[str]:
    """What ``train.finetune`` is called with."""
    options = {
        "config": CONFIGS / f"{config.config}.yaml",
        "precision": "fp16",
        "steps": config.steps,
        "out": config.run,
        "data.root": config.data,
        "data.workers": 0,
        "augment.crop_px": config.crop_px,
        "watch.cosine_every": config.cosine_every,
        **dict(zip(("batch.rgb", "batch.sar", "batch.ir"), config.batch, strict=True)),
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [*given, "--data.cache", *(["--resume"] if (config.run / "last").exists() else [])]


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the lines of a run's ``metrics.jsonl`` say of its stability."""
    steps = [line for line in lines if "gradient_norm" in line]
    taken = [line["gradient_norm"] for line in steps if not line["skipped"]]
    agreements = [line["agreement"] for line in steps if "agreement" in line]
    pairs = sorted({name for each in agreements for name in each if name.startswith("cosine.")})
    found = {pair: [each[pair] for each in agreements if each[pair] is not None] for pair in pairs}
    losses = [part["total"] for line in steps for part in line.values() if isinstance(part, dict) and "total" in part]
    return {
        "last_step": max((line["step"] for line in steps), default=0),
        "overflows": [{"step": line["step"], "loss_scale": line["loss_scale"]} for line in steps if line["skipped"]],
        "loss_scale": {"least": min(line["loss_scale"] for line in steps), "last": steps[-1]["loss_scale"]},
        "losses_not_finite": sum(not math.isfinite(loss) for loss in losses),
        "gradient_norm": {"median": statistics.median(taken), "largest": max(taken)},
        "cosines": {
            pair: {"looks": len(v), "mean": statistics.mean(v), "negative": sum(value < 0 for value in v)}
            for pair, v in found.items()
            if v
        },
    }


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(HalfPrecisionConfig, arguments)
    torch.set_num_threads(config.threads)
    if not (config.run / "final").exists():
        with HalfProducts():
            finetune.main(finetune_arguments(config))
    found = summary(metrics(config.run))
    settings = config.model_dump(mode="json", exclude={"data", "run", "out"})
    config.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA, "settings": settings, "torch": torch.__version__, **found}
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.copy(config.run / "course.png", config.out.with_suffix(".png"))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0 if found["last_step"] == config.steps and not found["losses_not_finite"] else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
