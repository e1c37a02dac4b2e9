"""``python -m benchmarks.continuity``: does a run stay the same over several processes, and over a kill?

Trains the same steps on real data in one process, in two (replicas, then sharded weights), and with a SIGKILL at a
random step and a resume; compares every loss step by step. Rounding grows from step to step: a control with another
number of threads shows how much of a difference it explains. Writes a table and a JSON file.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import BabelRSError, LimitMissedError, run_command
from benchmarks.launching import losses, start, stop_after, train
from train.cli import load_config

LIMIT = 1e-4
"""Largest difference of a loss between one process and two over the first 20 steps."""


class ContinuityConfig(BaseModel):
    """Compare runs that should be the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder in the SOI-Det layout")
    config: Path = Field(Path("train/configs/tiny.yaml"), description="settings of the model")
    steps: int = Field(20, ge=2, description="steps compared over processes, and after the resume")
    killed_steps: int = Field(45, ge=30, description="steps of the run that is killed")
    crop_px: int = Field(320, ge=128, multiple_of=32, description="side of the training crops, pixels")
    seed: int = Field(0, ge=0, description="seed of the runs, and of the step of the kill")
    out: Path = Field(Path("benchmarks/results/continuity.json"), description="JSON file to write")


def arguments(config: ContinuityConfig, run: Path, steps: int, *more: str) -> list[str]:
    """Settings of one run; no stochastic depth, whose draws differ between processes."""
    given = {
        "config": config.config, "out": run, "steps": steps, "seed": config.seed, "data.root": config.data,
        "precision": "no", "log-every": 1, "save-every": 8, "augment.crop_px": config.crop_px, "data.workers": 0,
        "model.backbone.drop_path": 0, "batch.rgb": 2, "batch.sar": 2, "batch.ir": 4, "optimizer.warmup_steps": 500,
    }  # fmt: skip
    flat = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return [*flat, "--watch.trackers", "tensorboard", *more]


def over_processes(config: ContinuityConfig, folder: Path) -> dict[str, float]:
    """Largest difference of any loss from the single process, by way of sharing the work."""
    _finished(arguments(config, folder / "one", config.steps), 1)
    one = _table(folder / "one", range(1, config.steps + 1))
    _finished(arguments(config, folder / "control", config.steps), 1, threads=2)
    found = {"control": float(np.abs(_table(folder / "control", range(1, config.steps + 1)) - one).max())}
    for parallel in ("ddp", "fsdp"):
        _finished(arguments(config, folder / parallel, config.steps, "--parallel", parallel), 2)
        found[parallel] = float(np.abs(_table(folder / parallel, range(1, config.steps + 1)) - one).max())
    return found


def over_a_kill(config: ContinuityConfig, folder: Path) -> dict[str, Any]:
    """A run that is killed and resumed against one that is not."""
    steps = config.killed_steps
    _finished(arguments(config, folder / "whole", steps), 1)
    killed_at = random.Random(config.seed).randint(9, steps - config.steps - 1)
    process = start(arguments(config, folder / "killed", steps))
    stop_after(process, folder / "killed", killed_at, signal.SIGKILL)
    saved = max(int(path.name[5:]) for path in (folder / "killed" / "checkpoints").glob("step-*"))
    _finished(arguments(config, folder / "killed", steps, "--resume"), 1)
    after = range(saved + 1, steps + 1)
    apart = np.abs(_table(folder / "killed", after) - _table(folder / "whole", after)).max()
    return {"killed_at": killed_at, "resumed_from": saved, "steps_compared": len(after), "difference": float(apart)}


def _finished(given: list[str], processes: int, threads: int = 1) -> None:
    done = train(given, processes, threads)
    if done.returncode:
        raise BabelRSError(f"A run failed:\n{done.stderr[-2000:]}", "Mend what it says.")


def _table(run: Path, steps: range) -> np.ndarray:
    by_step = losses(run)
    return np.array([by_step[step] for step in steps])


def main(given: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(ContinuityConfig, given)
    with tempfile.TemporaryDirectory() as folder:
        processes = over_processes(config, Path(folder))
        kill = over_a_kill(config, Path(folder))
    for name, apart in processes.items():
        kind = "1 process, 2 threads" if name == "control" else f"2 processes, {name}"
        sys.stdout.write(f"{kind:<21}{config.steps} steps: losses differ by {apart:.2e} at most\n")
    sys.stdout.write(
        f"killed at step {kill['killed_at']}, resumed from {kill['resumed_from']}: the next {kill['steps_compared']} "
        f"steps differ by {kill['difference']:.2e}\n"
    )
    record = {
        "schema": "babelrs.continuity/1",
        "config": config.config.name,
        "crop_px": config.crop_px,
        "steps": config.steps,
        "torch": version("torch"),
        "largest_difference": processes,
        "kill": kill,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    if max(processes["ddp"], processes["fsdp"]) > LIMIT or kill["difference"] > 0:
        raise LimitMissedError(f"A loss differs by more than {LIMIT} over processes, or at all over a kill.")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
