"""``python -m benchmarks.side_by_side``: two live sources of different sensors on one device; does either starve?

An RGB and an infrared camera, each an RTSP server of its own, go through the demo bundle's two models in one process,
as ``babelrs-run --source rgb=rtsp://... --source ir=rtsp://...`` takes them; before that each goes alone. Latency is
from when a frame was received to when its result is written. Writes a table and ``OUT``; exit code 1 says that one of
the two got too small a share of the results, or waited too long for one.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import open_bundle
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from babelrs.sensors import Sensor
from benchmarks.pipeline_run import PERCENTILES, open_detector
from benchmarks.rtsp_child import RtspServer, free_port, require_rtsp_server
from runtime.pipeline import FrameResult
from runtime.run import run_sources
from runtime.sources.opening import Opening, open_source
from runtime.summary import TOTAL, Summary
from train.cli import load_config

LEAST_SHARE = 0.4
"""Of all results, for either of two sources."""
MOST_GAP = 10.0
"""The longest wait between two results of a source, in medians of it."""
_STARTING_S = 2.0  # of the first results, which wait for connections


class SideBySideConfig(BaseModel):
    """Run two live sources, alone and together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(60, ge=5, description="of each run")
    bundle: Path = Field(Path("runtime/demo"), description="bundle to run")
    sensors: tuple[Sensor, Sensor] = Field((Sensor.RGB, Sensor.IR), description="of the two sources")
    side_px: int = Field(640, ge=64, multiple_of=8, description="columns and rows of the pictures")
    fps: int = Field(15, ge=1, le=60, description="frames a second of each camera")
    threads: int = Field(2, ge=1, description="CPU threads of an engine")
    out: Path = Field(Path("benchmarks/results/side-by-side.json"), description="JSON file to write")


@dataclass
class Times:
    """A sink that keeps when results come.

    Attributes:
        at_s: By the monotonic clock.
    """

    at_s: list[float] = field(default_factory=list)

    def write(self, _result: FrameResult) -> None:
        """Keep the time."""
        self.at_s.append(time.monotonic())

    def close(self) -> None:
        """Nothing is left to do."""


def run(config: SideBySideConfig, sensors: Sequence[Sensor]) -> list[dict[str, Any]]:
    """One run with a source of each sensor: a row for each."""
    bundle = open_bundle(config.bundle)
    detectors = {sensor: open_detector(bundle, sensor, config.threads, 1) for sensor in sensors}
    servers = [RtspServer(free_port(), config.side_px, config.fps) for _ in sensors]
    times, stop = {sensor: Times() for sensor in sensors}, threading.Event()
    ending = threading.Timer(config.seconds, stop.set)
    try:
        sources = [open_source(one.url, sensor, Opening()) for one, sensor in zip(servers, sensors, strict=True)]
        ending.start()
        summaries = run_sources(sources, detectors, {sensor: [times[sensor]] for sensor in sensors}, stop)
    finally:
        ending.cancel()
        for server in servers:
            server.kill()
    return [row(sensor, summary, times[sensor].at_s) for sensor, summary in zip(sensors, summaries, strict=True)]


def row(sensor: Sensor, summary: Summary, at_s: Sequence[float]) -> dict[str, Any]:
    """What a source got."""
    gaps = np.diff([at for at in at_s if at > at_s[0] + _STARTING_S])
    late = np.array(summary.latencies_ms[TOTAL])
    return {
        "sensor": sensor.value,
        "results": summary.num_images,
        "dropped": summary.num_dropped,
        "results_a_second": summary.num_images / summary.elapsed_s,
        "latency_ms": {name: float(np.percentile(late, at)) for name, at in PERCENTILES.items()},
        "gap_ms": {"p50": float(1e3 * np.median(gaps)), "max": float(1e3 * gaps.max())},
    }


def missed_limits(together: Sequence[dict[str, Any]]) -> list[str]:
    """Who starved, in words."""
    total = sum(one["results"] for one in together)
    missed = []
    for one in together:
        if one["results"] < LEAST_SHARE * total:
            missed.append(f"{one['sensor']}: {one['results']} of {total} results")
        if one["gap_ms"]["max"] > MOST_GAP * one["gap_ms"]["p50"]:
            missed.append(f"{one['sensor']}: {one['gap_ms']['max']:.0f} ms without a result")
    return missed


def table(alone: Sequence[dict[str, Any]], together: Sequence[dict[str, Any]]) -> str:
    """A line for each source, alone and together."""
    lines = [f"{'':<15}{'results/s':>10}{'dropped':>9}" + "".join(f"{name + ' ms':>9}" for name in PERCENTILES)]
    lines[0] += f"{'longest gap ms':>16}"
    for name, rows in (("alone", alone), ("together", together)):
        lines += [
            f"{one['sensor']:<5}{name:<10}{one['results_a_second']:>10.1f}{one['dropped']:>9}"
            + "".join(f"{value:>9.0f}" for value in one["latency_ms"].values())
            + f"{one['gap_ms']['max']:>16.0f}"
            for one in rows
        ]
    return "\n".join(lines) + "\n"


def main(given: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(SideBySideConfig, given)
    require_rtsp_server()
    load = os.getloadavg()[0]
    alone = [run(config, [sensor])[0] for sensor in config.sensors]
    together = run(config, config.sensors)
    missed = missed_limits(together)
    record = {
        "schema": "babelrs.side-by-side/1",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load_before": load},
        "versions": {"python": platform.python_version(), "onnxruntime": version("onnxruntime")},
        "settings": config.model_dump(mode="json", exclude={"out"}),
        "missed_limits": missed,
        "alone": alone,
        "together": together,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(table(alone, together) + "".join(f"limit missed: {what}\n" for what in missed))
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
