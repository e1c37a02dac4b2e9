"""``python -m benchmarks.basics``: start-up time, the simulator's speed, and the exactness of the overlap.

Writes a table and ``benchmarks/results/basics.json``. Run it on an idle machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.boxes import paired_iou
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.box_pairs import KINDS, shapely_iou
from train.cli import load_config


class BasicsConfig(BaseModel):
    """Measure what needs no model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path = Field(Path("benchmarks/results/basics.json"), description="JSON file to write")
    starts: int = Field(15, ge=1, description="starts of babelrs-run --help")
    scenes: int = Field(100, ge=1, description="simulated scenes of 640x640 pixels")
    workers: int = Field(2, ge=1, description="processes of the simulator")
    pairs: int = Field(125_000, ge=1, description="pairs of boxes of each kind")


def start_seconds(count: int) -> list[float]:
    """Wall time of ``babelrs-run --help``, each in a fresh process."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        _run([sys.executable, "-c", "import sys; from runtime.cli import main; sys.exit(main(['--help']))"])
        times.append(time.perf_counter() - begin)
    return times


def simulate_seconds(scenes: int, workers: int, sensors: list[Sensor]) -> float:
    """Wall time to simulate ``scenes`` scenes of 640x640 pixels, all of ``sensors`` rendered and written."""
    with tempfile.TemporaryDirectory() as folder:
        names = ",".join(sensor.value for sensor in sensors)
        command = [
            sys.executable,
            "-m",
            "train.simulate",
            "--out",
            folder + "/scenes",
            "--sensors",
            names,
            "--seed",
            "0",
        ]
        counts = ["--train-scenes", str(scenes), "--eval-scenes", "0", "--size", "640", "--workers", str(workers)]
        begin = time.perf_counter()
        _run([*command, *counts])
        return time.perf_counter() - begin


def overlap_errors(pairs: int) -> dict[str, float]:
    """Largest difference of our IoU from shapely's, by kind of pair."""
    errors = {}
    for seed, (kind, draw) in enumerate(KINDS.items()):
        a, b = draw(np.random.default_rng(seed), pairs)
        errors[kind] = float(np.abs(paired_iou(a, b) - shapely_iou(a, b)).max())
    return errors


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BabelRSError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}", "See the message above.")


def measure(config: BasicsConfig) -> dict[str, Any]:
    """Everything, as plain values for JSON."""
    starts = start_seconds(config.starts)
    rendered = {"rgb,sar,ir": list(Sensor), **{sensor.value: [sensor] for sensor in Sensor}}
    seconds = {name: simulate_seconds(config.scenes, config.workers, group) for name, group in rendered.items()}
    return {
        "schema": "babelrs.basics/1",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "help_start_s": {"median": statistics.median(starts), "max": max(starts), "starts": len(starts)},
        "simulate_s": {"scenes": config.scenes, "workers": config.workers, **seconds},
        "iou_error_against_shapely": {"pairs_per_kind": config.pairs, **overlap_errors(config.pairs)},
    }


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(BasicsConfig, arguments)
    record = measure(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    for section in ("help_start_s", "simulate_s", "iou_error_against_shapely"):
        sys.stdout.write(
            section + "\n" + "".join(f"  {name:<16}{value:.3g}\n" for name, value in record[section].items())
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
