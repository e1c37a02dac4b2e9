"""``python -m benchmarks.cpu_int8 --float32 A --int8 B``: what INT8 saves on this CPU, in time and in bytes.

Graphs of both bundles run in one process, image by image in turn, so that whatever else the machine does slows both.
Writes a table and a JSON file. Beside wall-clock time stands the process's own time, which waiting for a busy machine's
cores does not count in; with more than one thread it is the sum over threads.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import Bundle, open_bundle
from babelrs.errors import BabelRSError, run_command
from babelrs.manifest import SensorEntry
from compress.weights import WEIGHTS_FILE
from runtime.engines import open_engine
from train.cli import load_config

WARM_UP = 5
"""Rounds before those that count."""
FEATURES = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""What decides how fast a CPU multiplies bytes, as Linux names it."""

Times = dict[str, list[float]]


class CpuInt8Config(BaseModel):
    """Time a float32 and an INT8 bundle of the same model in turn, batch 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    float32: Path = Field(description="float32 bundle, folder or archive")
    int8: Path = Field(description="INT8 bundle, folder or archive")
    threads: int = Field(1, ge=1, description="threads within an operator")
    rounds: int = Field(101, ge=1, description="images that count, of each sensor and bundle")
    out: Path = Field(Path("benchmarks/results/cpu-int8.json"), description="JSON file to write")


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> tuple[Times, Times]:
    """Wall-clock and process time of every run in milliseconds, by name; one of each in every round."""
    wall: Times = {name: [] for name in runs}
    process: Times = {name: [] for name in runs}
    for number in range(WARM_UP + rounds):
        for name, run in runs.items():
            began = time.perf_counter(), time.process_time()
            run()
            ended = time.perf_counter(), time.process_time()
            if number >= WARM_UP:
                wall[name].append(1e3 * (ended[0] - began[0]))
                process[name].append(1e3 * (ended[1] - began[1]))
    return wall, process


def summary(times: Times) -> dict[str, Any]:
    """Medians, least values and INT8's share of float32's; milliseconds."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    least = {name: min(values) for name, values in times.items()}
    ratios = {"ratio": medians["int8"] / medians["float32"], "least_ratio": least["int8"] / least["float32"]}
    return {"median_ms": medians, "least_ms": least, **ratios}


def size_bytes(bundle: Bundle) -> int:
    """Bytes of a bundle's graphs and weights."""
    names = {entry.graph for entry in bundle.manifest.sensors.values()} | {WEIGHTS_FILE}
    return sum((bundle.folder / name).stat().st_size for name in names)


def random_pixels(entry: SensorEntry) -> np.ndarray[Any, Any]:
    """One image of a graph's input, ``(1, H, W, C)`` uint8."""
    shape = (1, entry.input_height, entry.input_width, entry.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def measure(config: CpuInt8Config) -> dict[str, Any]:
    """Everything, as plain values for JSON.

    Raises:
        BabelRSError: The bundles serve different sensors.
    """
    bundles = {"float32": open_bundle(config.float32), "int8": open_bundle(config.int8)}
    served = {name: sorted(bundle.manifest.sensors) for name, bundle in bundles.items()}
    if served["float32"] != served["int8"]:
        raise BabelRSError(f"The bundles serve {served['float32']} and {served['int8']}.", "Give two of one model.")
    sensors: dict[str, Any] = {}
    for sensor, entry in bundles["int8"].manifest.sensors.items():
        engines = {name: open_engine(each, sensor, "onnxruntime", config.threads) for name, each in bundles.items()}
        pixels = random_pixels(entry)
        runs = {name: partial(engine.infer, pixels) for name, engine in engines.items()}
        wall, process = in_turn(runs, config.rounds)
        sensors[sensor.value] = {
            "input": list(pixels.shape[1:]), **summary(wall), "process": summary(process)
        }  # fmt: skip
    sizes = {name: size_bytes(bundle) for name, bundle in bundles.items()}
    return {
        "schema": "babelrs.cpu-int8/1",
        "cpu": cpu(),
        "threads": config.threads,
        "rounds": config.rounds,
        "sensors": sensors,
        "ratio": statistics.mean(each["ratio"] for each in sensors.values()),
        "process_ratio": statistics.mean(each["process"]["ratio"] for each in sensors.values()),
        "bytes": {**sizes, "ratio": sizes["int8"] / sizes["float32"]},
    }


def cpu(info: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """This CPU's name, and which of :data:`FEATURES` it has; empty where Linux does not say."""
    if not info.is_file():
        return {}
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {"name": fields.get("model name", ""), "features": [each for each in FEATURES if each in flags]}


def format_table(record: Mapping[str, Any]) -> str:
    """A line a sensor: medians and ratios, and the sizes below."""
    lines = [f"{'':<6}{'float32 ms':>11}{'int8 ms':>9}{'ratio':>7}{'least':>7}{'process':>9}{'least':>7}"]
    for name, each in record["sensors"].items():
        medians, own = each["median_ms"], each["process"]
        shown = f"{medians['float32']:>11.1f}{medians['int8']:>9.1f}{each['ratio']:>7.3f}{each['least_ratio']:>7.3f}"
        lines.append(f"{name:<6}{shown}{own['ratio']:>9.3f}{own['least_ratio']:>7.3f}")
    sizes = record["bytes"]
    lines.append(f"bytes {sizes['float32']:>11}{sizes['int8']:>9}{sizes['ratio']:>7.3f}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(CpuInt8Config, arguments)
    record = measure(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(format_table(record))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
