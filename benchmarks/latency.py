"""``python -m benchmarks.latency``: how long images take in each stage of the runtime, and graphs alone, on this CPU.

With ``--data``, images of every sensor go from files to JSON Lines as ``babelrs-run`` takes them: p50, p95, p99 and the
most of every stage. With ``--graphs``, any ONNX graphs, all measured alike: each runs in a process of its own, since
the threads of another session would spin beside it, and the rounds go through all graphs in turn, so that a machine
that slows down slows them all. Writes a table and a JSON file.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from babelrs.bundle import open_bundle
from babelrs.errors import BabelRSError, run_command
from benchmarks.pipeline_run import chosen_images, format_stages, open_detector, pipeline_s, stage_percentiles
from train.cli import load_config

WARM_UP = 10
"""Runs before those that count."""
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class LatencyConfig(BaseModel):
    """Time the stages of the runtime with a bundle, or ONNX graphs (batch 1, random input)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path | None = Field(None, description="root of the dataset; stages are timed with its images")
    bundle: Path = Field(Path("runtime/demo"), description="bundle whose stages are timed")
    images: int = Field(100, ge=1, description="images of every sensor")
    graphs: tuple[str, ...] = Field((), description="NAME=FILE of every graph")
    threads: int = Field(2, ge=1, description="threads within an operator")
    runs: int = Field(50, ge=1, description="runs of a graph in a round")
    rounds: int = Field(11, ge=1, description="rounds through all graphs")
    out: Path = Field(Path("benchmarks/results/latency.json"), description="JSON file to write")

    @model_validator(mode="after")
    def _has_something_to_time(self) -> LatencyConfig:
        if self.data is None and not self.graphs:
            raise ValueError("give --data for the stages of a bundle, or --graphs NAME=FILE")
        return self


def named_graphs(given: tuple[str, ...]) -> dict[str, Path]:
    """Files by name.

    Raises:
        BabelRSError: An entry has no name, or its file is missing.
    """
    pairs = {name: Path(file) for name, _, file in (entry.partition("=") for entry in given)}
    if faults := [f"{name}={file}" for name, file in pairs.items() if not name or not file.is_file()]:
        raise BabelRSError(f"No graph at {', '.join(faults)}.", "Give --graphs NAME=FILE.")
    return pairs


def median_ms(path: Path, threads: int, runs: int) -> float:
    """Median time of a run in milliseconds, in the calling process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in given.shape]
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(_TYPES[given.type])
    scaled = pixels / np.float32(255) if pixels.dtype == np.float32 else pixels
    times = []
    for _ in range(WARM_UP + runs):
        started = time.perf_counter()
        session.run(None, {given.name: scaled})
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[WARM_UP:])


def measure(config: LatencyConfig) -> dict[str, list[float]]:
    """A median by round of every graph, each from a new process."""
    graphs = named_graphs(config.graphs)
    found: dict[str, list[float]] = {name: [] for name in graphs}
    context = multiprocessing.get_context("spawn")
    for _ in range(config.rounds):
        for name, path in graphs.items():
            with context.Pool(1) as pool:
                found[name].append(pool.apply(median_ms, (path, config.threads, config.runs)))
    return found


def measure_stages(config: LatencyConfig, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Percentiles of milliseconds by sensor and stage. Images go through twice, and the second time counts."""
    bundle, found = open_bundle(config.bundle), {}
    for sensor in sorted(bundle.manifest.sensors):
        detector = open_detector(bundle, sensor, config.threads, batch=4)
        images = chosen_images(data, sensor, config.images)
        pipeline_s(detector, images)
        found[sensor.value] = stage_percentiles([pipeline_s(detector, images)[1]])
    return found


def format_table(found: Mapping[str, list[float]]) -> str:
    """Median over the rounds, and their range."""
    lines = [f"{'':<12}{'median ms':>10}{'least':>8}{'most':>8}"]
    lines += [f"{n:<12}{statistics.median(v):>10.1f}{min(v):>8.1f}{max(v):>8.1f}" for n, v in found.items()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(LatencyConfig, arguments)
    stages = {} if config.data is None else measure_stages(config, config.data)
    found = measure(config) if config.graphs else {}
    sys.stdout.write((format_stages(stages) if stages else "") + (format_table(found) if found else ""))
    record: dict[str, Any] = {
        "schema": "babelrs.latency/1",
        "threads": config.threads,
        "runs": config.runs,
        "median_ms": {name: statistics.median(values) for name, values in found.items()},
        "rounds_ms": found,
    }
    if stages:
        record |= {"images": config.images, "stages_ms": stages}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
