"""``python -m benchmarks.engines --bundle B``: a bundle's TensorRT engines on this machine's GPU, built and timed.

Builds every precision that the bundle gives, runs the self-test on each, and times single images and batches: the
engine with its copies, with and without CUDA graphs, and what Python does before and after it. ONNX Runtime runs the
same graph beside it. Needs a GPU; without one nothing is written. Writes a table and a JSON file.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import Bundle, open_bundle, read_selftest, verify_files
from babelrs.errors import DeviceError, run_command
from babelrs.postprocess import detections_from_outputs
from babelrs.sensors import Sensor
from runtime.build import open_place
from runtime.build_sensor import Place, Wish, build_sensor
from runtime.engines import Engine, open_engine
from runtime.engines.cache import EngineCache, EngineRecord
from runtime.engines.candidates import candidates
from runtime.engines.tensorrt import TensorRTEngine
from runtime.selftest import run_selftest
from train.cli import load_config

SCHEMA = "babelrs.engines/1"
WARM_UP = 10
"""Runs before those that count."""


class EnginesConfig(BaseModel):
    """Build and time a bundle's TensorRT engines on this machine's GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path = Field(Path("runtime/demo"), description="bundle folder or .babelrs file")
    module: Literal["auto", "tensorrt", "tensorrt_rtx"] = Field("auto", description="what builds and runs")
    batches: tuple[int, ...] = Field((1, 4), min_length=1, description="tiles of a run; the largest is built for")
    runs: int = Field(200, ge=1, description="runs that count, of every batch")
    cpu: bool = Field(True, description="time ONNX Runtime beside it")
    out: Path = Field(Path("benchmarks/results/engines.json"), description="JSON file to write")


def times_of(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Median, 95th percentile and least milliseconds of ``work``."""
    found = []
    for _ in range(WARM_UP + runs):
        started = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - started))
    kept = found[WARM_UP:]
    return {"median_ms": float(np.median(kept)), "p95_ms": float(np.percentile(kept, 95)), "least_ms": min(kept)}


def time_stages(engine: Engine, bundle: Bundle, sensor: Sensor, batch: int, runs: int) -> dict[str, Any]:
    """Times of a batch by stage: stacking tiles, the engine with its copies, decoding and suppression."""
    entry, pixels = bundle.manifest.entry(sensor), read_selftest(bundle, sensor).pixels
    tiles = [np.roll(pixels[0], 16 * index, axis=1).copy() for index in range(batch)]
    stacked = np.stack(tiles)
    outputs = engine.infer(stacked)

    def postprocess() -> None:
        for boxes, scores, labels in zip(*outputs, strict=True):
            detections_from_outputs(boxes, scores, labels, entry.classes, sensor, entry.score_threshold, entry.nms_iou)

    stages = {"preprocess": lambda: np.stack(tiles), "infer": lambda: engine.infer(stacked), "postprocess": postprocess}
    return {name: times_of(work, runs) for name, work in stages.items()}


def rows_of(bundle: Bundle, sensor: Sensor, place: Place, config: EnginesConfig) -> list[dict[str, Any]]:
    """One row for every precision, batch and way to launch, of a sensor; none of what cannot be built or run here."""
    rows = []
    for candidate in candidates(bundle, sensor, place.plugin is not None):
        wish = Wish((candidate.precision,), max(config.batches))
        with tempfile.TemporaryDirectory() as folder:  # a cache of its own, so that each precision is kept
            try:
                [record] = build_sensor(bundle, sensor, place, wish, EngineCache(folder))
                engine = open_engine(bundle, sensor, "tensorrt", cache=folder)
            except DeviceError as error:
                sys.stderr.write(f"{sensor} {candidate.precision}: left out, {error}\n")
                continue
            assert isinstance(engine, TensorRTEngine)
            rows += _timed(engine, record, bundle, sensor, config)
            engine.close()
    return rows


def _timed(
    engine: TensorRTEngine, record: EngineRecord, bundle: Bundle, sensor: Sensor, config: EnginesConfig
) -> list[dict[str, Any]]:
    rows = []
    for graphs in (False, True):
        engine.graph_batches = frozenset(config.batches if graphs else ())
        passed = run_selftest(engine, read_selftest(bundle, sensor)).passed
        for batch in config.batches:
            stages = time_stages(engine, bundle, sensor, batch, config.runs)
            launch = "graph" if batch in engine.graph_batches else "stream"
            rows.append({**_head(record), "launch": launch, "batch": batch, "passed": passed, "stages": stages})
    return rows


def _head(record: EngineRecord) -> dict[str, Any]:
    return {
        "sensor": record.key.sensor,
        "engine": record.key.module,
        "precision": record.key.precision,
        "build_s": record.build_s,
        "plan_bytes": record.size_bytes,
    }


def cpu_rows(bundle: Bundle, sensor: Sensor, config: EnginesConfig) -> list[dict[str, Any]]:
    """ONNX Runtime's rows for the same graph."""
    engine = open_engine(bundle, sensor, "onnxruntime")
    passed = run_selftest(engine, read_selftest(bundle, sensor)).passed
    head = {"sensor": sensor.value, "engine": f"onnxruntime {engine.reason}", "precision": engine.precision}
    runs = max(1, config.runs // 10)
    return [
        {**head, "launch": "-", "batch": batch, "passed": passed,
         "stages": time_stages(engine, bundle, sensor, batch, runs)} for batch in config.batches
    ]  # fmt: skip


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for every row, milliseconds a run of the batch."""
    lines = [
        f"{'sensor':<8}{'engine':<34}{'precision':<11}{'launch':<8}{'batch':>6}{'infer ms':>10}{'p95':>8}{'post':>8}"
    ]
    for row in rows:
        infer, post = row["stages"]["infer"], row["stages"]["postprocess"]
        lines.append(
            f"{row['sensor']:<8}{row['engine']:<34}{row['precision']:<11}{row['launch']:<8}{row['batch']:>6}"
            f"{infer['median_ms']:>10.2f}{infer['p95_ms']:>8.2f}{post['median_ms']:>8.2f}"
            f"{'' if row['passed'] else '  self-test FAILED'}"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(EnginesConfig, arguments)
    bundle = open_bundle(config.bundle)
    verify_files(bundle)
    place = open_place(config.module)
    assert place.cuda is not None
    rows: list[dict[str, Any]] = []
    for sensor in bundle.manifest.sensors:
        rows += rows_of(bundle, sensor, place, config) + (cpu_rows(bundle, sensor, config) if config.cpu else [])
    record = {
        "schema": SCHEMA,
        "bundle": {"name": bundle.manifest.name, "target": bundle.manifest.target, "sha256": bundle.digest},
        "gpu": vars(place.cuda.gpu),
        "tensorrt": {"module": place.api.name, "version": place.api.version, "plugin": place.plugin is not None},
        "machine": {"python": platform.python_version(), "machine": platform.machine()},
        "runs": config.runs,
        "rows": rows,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(format_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
