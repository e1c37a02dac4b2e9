"""``python -m benchmarks.overhead``: what the runtime adds to its engine, and how soon the first detection is there.

Images of every sensor, and a scene where one is named, from files to JSON Lines through the runtime's threads, beside
the engine alone on the same prepared batches, in turns. Alone, the engine also runs with ONNX Runtime's own settings,
whose threads spin while they wait; the faster of the two is what the whole is compared with. Then fresh processes, from
their start to the first line on disk. Writes a table, ``OUT.json`` and ``OUT.png``. Exit code 1 says that a stated
limit was missed. Run it on an idle machine.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import Bundle, open_bundle
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.pipeline_run import (
    Pixels,
    chosen_images,
    engine_s,
    format_stages,
    open_detector,
    pipeline_s,
    prepared_batches,
    stage_percentiles,
)
from runtime.pipeline import Detector
from runtime.sources.files import ImageFile, find_images
from runtime.stopwatch import STAGES
from train.cli import load_config

log = logging.getLogger("benchmarks.overhead")

MOST_OVERHEAD, MOST_START_S = 1.10, 1.5
START_LIMIT_S = 60.0
"""A start that takes longer has failed."""
_HELD = 32  # batches of a scene that are held at a time
_REST_S = 0.3  # after an engine whose threads spin


class OverheadConfig(BaseModel):
    """Measure the runtime beside its engine, and its start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="root of the dataset")
    bundle: Path = Field(Path("runtime/demo"), description="bundle to run")
    scene: Path | None = Field(None, description="large RGB image, measured too")
    images: int = Field(200, ge=3, description="images of the three sensors together")
    rounds: int = Field(5, ge=1, description="rounds through all images")
    scene_rounds: int = Field(1, ge=1, description="rounds through the scene")
    starts: int = Field(7, ge=1, description="fresh processes of every sensor")
    threads: int = Field(2, ge=1, description="CPU threads of the engine")
    batch: int = Field(4, ge=1, description="tiles a run of the engine")
    out: Path = Field(Path("benchmarks/results/overhead"), description="results go to OUT.json and OUT.png")


def compared(
    config: OverheadConfig, bundle: Bundle, sensor: Sensor, images: list[ImageFile], rounds: int
) -> dict[str, Any]:
    """Seconds of the whole and of the engine alone, and milliseconds by stage: a row of the results."""
    detector = open_detector(bundle, sensor, config.threads, config.batch)
    spinning = open_detector(bundle, sensor, config.threads, config.batch, settings={})
    seconds: dict[str, list[float]] = {"whole_s": [], "engine_s": [], "engine_spinning_s": []}
    summaries, tiles = [], 0
    if len(images) > 1:  # warm up: allocators grow, files come into the system's cache
        _alone(detector, spinning, images), pipeline_s(detector, images)
    for number in range(rounds):
        engine, engine_spinning, tiles = _alone(detector, spinning, images)
        whole, summary = pipeline_s(detector, images)
        for values, value in zip(seconds.values(), (whole, engine, engine_spinning), strict=True):
            values.append(value)
        summaries.append(summary)
        log.info("%s, round %d: whole %.2f s, engine %.2f s, %.2f s", sensor, number, whole, engine, engine_spinning)
    return {
        "images": len(images),
        "tiles": tiles,
        **{name: statistics.median(values) for name, values in seconds.items()},
        "rounds_s": seconds,
        "stages_mean_ms": {
            stage: statistics.fmean(value for summary in summaries for value in summary.latencies_ms[stage])
            for stage in STAGES
        },
        "stages_ms": stage_percentiles(summaries),
    }


def _alone(detector: Detector, spinning: Detector, images: list[ImageFile]) -> tuple[float, float, int]:
    """Seconds of both engines for the same batches, a few batches at a time, and the number of tiles."""
    engine = engine_spinning = 0.0
    tiles = 0
    for part in _parts(prepared_batches(detector, images)):
        tiles += sum(map(len, part))
        engine += engine_s(detector.engine, part)
        engine_spinning += engine_s(spinning.engine, part)
        time.sleep(_REST_S)
    return engine, engine_spinning, tiles


def _parts(batches: Iterator[Pixels]) -> Iterator[list[Pixels]]:
    """A few batches at a time: those of a scene are more than memory holds."""
    while part := list(islice(batches, _HELD)):
        yield part


def with_ratios(rows: dict[str, Any]) -> dict[str, Any]:
    """The rows with that of all images, and how many times the engine's time each takes."""
    names = ("images", "tiles", "whole_s", "engine_s", "engine_spinning_s")
    sensors = [row for name, row in rows.items() if name != "scene"]
    complete = {**rows, "all": {name: sum(row[name] for row in sensors) for name in names}}
    for row in complete.values():
        row["ratio"] = row["whole_s"] / min(row["engine_s"], row["engine_spinning_s"])
    return complete


def start_s(config: OverheadConfig, sensor: Sensor, image: Path) -> float:
    """Seconds from starting a process to the first line on disk, its modules compiled as those of an installation are.

    Raises:
        BabelRSError: There is none after a minute, or the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / f"detections.{sensor}.jsonl"
        command = [sys.executable, "-m", "runtime.cli", "--sensor", sensor.value, str(image), "--out", folder]
        command += ["--bundle", str(config.bundle), "--threads", str(config.threads), "--quiet"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        begin = time.perf_counter()
        with subprocess.Popen(command, env=environment) as process:
            while not (lines.exists() and lines.stat().st_size):  # a line is written whole
                if process.poll() not in (None, 0) or time.perf_counter() - begin > START_LIMIT_S:
                    process.kill()
                    raise BabelRSError(f"{' '.join(command)} gave nothing.", "See the message above.")
                time.sleep(0.002)
            return time.perf_counter() - begin


def missed(rows: dict[str, Any], starts: dict[str, list[float]]) -> list[str]:
    """Which stated limits were missed, in words."""
    found = [
        f"{name}: {rows[name]['ratio']:.3f} times the engine's time; {MOST_OVERHEAD}"
        for name in ("all", "scene")
        if name in rows and rows[name]["ratio"] > MOST_OVERHEAD
    ]
    medians = {sensor: statistics.median(values) for sensor, values in starts.items()}
    return found + [
        f"{sensor}: {median:.2f} s to the first line; {MOST_START_S}"
        for sensor, median in medians.items()
        if median > MOST_START_S
    ]


def format_table(rows: dict[str, Any], starts: dict[str, list[float]]) -> str:
    """Three tables: times beside the engine's, stages, starts."""
    lines = ["       images   tiles   whole s  engine s  spinning s   ratio"]
    lines += [
        f"{name:<6}{row['images']:>7}{row['tiles']:>8}{row['whole_s']:>10.2f}{row['engine_s']:>10.2f}"
        f"{row['engine_spinning_s']:>12.2f}{row['ratio']:>8.3f}"
        for name, row in rows.items()
    ]
    stages = format_stages({name: row["stages_ms"] for name, row in rows.items() if "stages_ms" in row})
    begun = [
        f"{sensor}: first line after {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"
        for sensor, values in starts.items()
    ]
    return "\n".join([*lines, "", stages, *begun]) + "\n"


def plot(rows: dict[str, Any], starts: dict[str, list[float]], path: Path) -> None:
    """Mean milliseconds of an image by stage, beside what it takes in all and the engine alone; and the starts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (times, begun) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", width_ratios=(2, 1))
    sensors = [name for name in rows if name not in ("all", "scene")]
    bottom = [0.0] * len(sensors)
    for stage, colour in zip(STAGES, ("tab:olive", "tab:orange", "0.75", "tab:purple"), strict=True):
        values = [rows[name]["stages_mean_ms"][stage] for name in sensors]
        times.bar(sensors, values, 0.5, bottom, label=stage, color=colour)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    for key, marker, label in (("whole_s", "_", "an image of the run"), ("engine_s", "x", "engine alone")):
        shown = [1e3 * rows[name][key] / rows[name]["images"] for name in sensors]
        times.scatter(
            sensors, shown, s=260 if marker == "_" else 40, marker=marker, color="black", label=label, zorder=3
        )
    times.set(ylabel="milliseconds an image; stages overlap", title=f"{rows['all']['ratio']:.3f} times the engine")
    times.set_ylim(top=1.3 * times.get_ylim()[1])
    times.legend(frameon=False, fontsize=8, ncols=3, loc="upper center")
    begun.boxplot(list(starts.values()), tick_labels=list(starts))
    begun.axhline(MOST_START_S, color="tab:red", linewidth=0.8)
    begun.set(ylabel="seconds to the first line", title="a fresh process", ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(config: OverheadConfig) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The rows, and seconds of every start by sensor."""
    bundle, rows, starts = open_bundle(config.bundle), {}, {}
    chosen = {
        sensor: chosen_images(config.data, sensor, config.images // 3 + (place < config.images % 3))
        for place, sensor in enumerate(Sensor)
    }
    for sensor, images in chosen.items():
        seconds = [start_s(config, sensor, images[0].path) for _ in range(config.starts + 1)]
        starts[sensor.value] = seconds[1:]  # the first compiles
        rows[sensor.value] = compared(config, bundle, sensor, images, config.rounds)
    if config.scene is not None:
        rows["scene"] = compared(config, bundle, Sensor.RGB, find_images([str(config.scene)]), config.scene_rounds)
    return with_ratios(rows), starts


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(OverheadConfig, arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # of the runtime, warnings only
    load = os.getloadavg()[0]
    rows, starts = measure(config)
    faults = missed(rows, starts)
    sys.stdout.write(format_table(rows, starts) + "".join(f"limit missed: {fault}\n" for fault in faults))
    record = {
        "schema": "babelrs.overhead/1",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load_before": load},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("onnxruntime", "numpy")}},
        "settings": config.model_dump(mode="json", exclude={"out", "data", "scene", "bundle"}),
        "rows": rows,
        "starts_s": starts,
        "missed_limits": faults,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    plot(rows, starts, config.out.with_suffix(".png"))
    return EXIT_LIMIT_MISSED if faults else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
