"""``python -m benchmarks.throughput``: training images a second, and the share of a step spent waiting for data.

Runs the trainer's own steps and loader on real data, one configuration after the other. Writes a table and a JSON file.
Run it on an idle machine; on a GPU give ``--data.workers`` as many as there are free cores.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import run_command
from train.cli import load_config
from train.config import DataConfig, FinetuneConfig
from train.data.batches import make_loader
from train.finetune import read_training
from train.trainer import Trainer

CONFIGS = Path(__file__).parent.parent / "train" / "configs"


class ThroughputConfig(BaseModel):
    """Time training steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    configs: tuple[str, ...] = Field(("tiny", "small"), min_length=1, description="names under train/configs")
    data: DataConfig = DataConfig()
    precisions: tuple[Literal["no", "bf16", "fp16"], ...] = Field(("no",), min_length=1, description="to time each in")
    compile: tuple[bool, ...] = Field((False,), min_length=1, description="without and with torch.compile")
    batch: tuple[int, int, int] = Field((4, 8, 4), description="rgb, sar and ir images of a step")
    warm_up: int = Field(3, ge=1, description="steps before the clock starts")
    steps: int = Field(10, ge=1, description="steps that are timed")
    out: Path = Field(Path("benchmarks/results/throughput.json"), description="JSON file to write")


@dataclass(frozen=True)
class Throughput:
    """One configuration's speed.

    Attributes:
        images_per_s: Training images, all sensors together.
        crop_px: Side of each.
        step_s: Mean time of a step, waiting included.
        waiting_share: Share of it spent waiting for the loader.
    """

    config: str
    precision: str
    compiled: bool
    crop_px: int
    images_per_s: float
    step_s: float
    waiting_share: float


def measure(name: str, precision: str, compiled: bool, config: ThroughputConfig) -> Throughput:
    """Time the steps of one configuration."""
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    rgb, sar, ir = config.batch
    with tempfile.TemporaryDirectory() as folder:
        run = {"out": folder, "precision": precision, "compile": compiled, "steps": 10_000, "epochs": None}
        given = {**settings, **run, "batch": {"rgb": rgb, "sar": sar, "ir": ir}, "data": config.data.model_dump()}
        training = FinetuneConfig.model_validate(given)
        trainer = Trainer(training, read_training(training)[0], Accelerator(cpu=not torch.cuda.is_available()))
        step_s, waiting_s = _timed(trainer, training, config)
    images = sum(config.batch)
    return Throughput(name, precision, compiled, training.augment.crop_px, images / step_s, step_s, waiting_s / step_s)


def _timed(trainer: Trainer, training: FinetuneConfig, config: ThroughputConfig) -> tuple[float, float]:
    """Mean seconds of a step, and of its wait for data."""
    count = config.warm_up + config.steps
    batches = iter(make_loader(trainer.dataset, training.batch, training.data, count, training.seed))
    waiting, started = 0.0, 0.0
    for step in range(count):
        if step == config.warm_up:
            waiting, started = 0.0, time.perf_counter()
        begin = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - begin
        trainer.train_step(step, batch.to(trainer.device))  # ends with the loss on the host: nothing is under way
    return (time.perf_counter() - started) / config.steps, waiting / config.steps


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(ThroughputConfig, arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    rows = []
    sys.stdout.write(
        f"{'config':<8}{'precision':>10}{'compiled':>9}{'crop':>6}{'images/s':>10}{'step s':>8}{'waiting':>9}\n"
    )
    for name in config.configs:
        for precision in config.precisions:
            for compiled in config.compile:
                row = measure(name, precision, compiled, config)
                rows.append(asdict(row))
                sys.stdout.write(
                    f"{name:<8}{precision:>10}{compiled!s:>9}{row.crop_px:>6}{row.images_per_s:>10.2f}"
                    f"{row.step_s:>8.2f}{row.waiting_share:>9.1%}\n"
                )
    record = {
        "schema": "babelrs.throughput/1",
        "device": device,
        "threads": torch.get_num_threads(),
        "loader_processes": config.data.workers,
        "images_per_step": dict(zip(("rgb", "sar", "ir"), config.batch, strict=True)),
        "torch": version("torch"),
        "runs": rows,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
