"""``python -m benchmarks.scene``: whole scenes of growing size: time a pixel, time beside the engine's own, memory.

Makes GeoTIFFs of simulated content, runs each in a process of its own, and the same model and tiles under SAHI where
that is installed. Writes a table, ``OUT.json`` and ``OUT.png``. Exit code 1 says that a stated limit was missed. Run it
on an idle machine.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.scene_file import simulated_parts, write_scene
from train.cli import load_config
from train.run_plots import COLOURS

log = logging.getLogger("benchmarks.scene")

MOST_OVERHEAD, MOST_PEAK_BYTES, MOST_SPREAD = 1.10, 1.5e9, 0.10


class SceneConfig(BaseModel):
    """Measure whole scenes, RGB, with one engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sizes: tuple[Annotated[int, Field(ge=512)], ...] = Field((2048, 5120, 10240, 20480), description="sides, pixels")
    sahi_sizes: tuple[int, ...] = Field((2048, 5120), description="those of them that SAHI gets too")
    bundle: Path = Field(Path("runtime/demo"), description="bundle to run")
    overlap: float = Field(0.2, ge=0, lt=1, description="share of a tile that neighbours share")
    batch: int = Field(4, ge=1, description="tiles a run of the engine")
    threads: int = Field(2, ge=1, description="CPU threads of the engine")
    parts: int = Field(6, ge=1, description="different simulated scenes that the files are made of")
    seed: int = Field(0, ge=0, description="seed of the scenes and their order")
    folder: Path = Field(Path("out/scenes"), description="where the files go; those that are there are used again")
    out: Path = Field(Path("benchmarks/results/scene"), description="results go to OUT.json and OUT.png")


def scene_file(config: SceneConfig, side: int) -> Path:
    """The file of one size, made if it is not there; written aside, so that it is whole if it is there."""
    path = config.folder / f"scene-{side}-{config.parts}-{config.seed}.tif"
    if not path.exists():
        config.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.tif")
        write_scene(partial, side, simulated_parts(config.parts, config.seed), config.seed)
        os.replace(partial, path)
    return path


def run(config: SceneConfig, method: str, side: int) -> dict[str, Any]:
    """One run in a new process.

    Raises:
        BabelRSError: It failed.
    """
    options = {"bundle": config.bundle, "threads": config.threads, "batch": config.batch, "overlap": config.overlap}
    command = [sys.executable, "-m", "benchmarks.scene_run", method, str(scene_file(config, side))]
    command += [item for name, value in options.items() for item in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BabelRSError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}", "See the message above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    row = {"method": method, "side_px": side, **found}
    row["us_per_px"] = 1e6 * row["wall_s"] / side**2
    row["over_engine"] = row["wall_s"] / row["engine_s"]
    log.info("%s", row)
    return row


def measure(config: SceneConfig) -> tuple[list[dict[str, Any]], str | None]:
    """All rows, and why SAHI is not among them."""
    rows = [run(config, "ours", side) for side in config.sizes]
    if not config.sahi_sizes:
        return rows, "not asked for"
    if importlib.util.find_spec("sahi") is None:
        return rows, "sahi is not installed (pip install sahi)"
    return rows + [run(config, "sahi", side) for side in config.sahi_sizes if side in config.sizes], None


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Which stated limits were missed, in words."""
    mine = [row for row in rows if row["method"] == "ours"]
    pace, found = [row["us_per_px"] for row in mine], []
    spread = max(pace) / min(pace) - 1
    if mine[-1]["over_engine"] > MOST_OVERHEAD:
        found.append(f"the largest scene took {mine[-1]['over_engine']:.3f} times the engine's time; {MOST_OVERHEAD}")
    if spread > MOST_SPREAD:
        found.append(f"the time a pixel varies by {spread:.0%} over the sizes; {MOST_SPREAD:.0%}")
    peak = max(row["peak_bytes"] for row in mine)
    if peak > MOST_PEAK_BYTES:
        found.append(f"{peak / 1e9:.2f} GB at the peak; {MOST_PEAK_BYTES / 1e9} GB")
    return found


def format_table(rows: list[dict[str, Any]], without: str | None) -> str:
    """One line a run."""
    lines = ["method   side px    tiles   wall s  engine s   ratio  us/px   peak MB  detections"]
    for row in rows:
        times = f"{row['wall_s']:>9.1f}{row['engine_s']:>10.1f}{row['over_engine']:>8.3f}{row['us_per_px']:>7.3f}"
        lines.append(
            f"{row['method']:<8}{row['side_px']:>8}{row['tiles']:>9}{times}"
            f"{row['peak_bytes'] / 1e6:>10.0f}{row['detections']:>12}"
        )
    return "\n".join([*lines, *([f"SAHI: {without}"] if without else [])]) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time a pixel, and peak memory, over the side of the scene."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (pace, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for method, colour, name in (("ours", COLOURS[Sensor.RGB.value], "babelrs"), ("sahi", "0.5", "SAHI, same engine")):
        mine = [row for row in rows if row["method"] == method]
        if mine:
            sides = [row["side_px"] for row in mine]
            pace.plot(sides, [row["us_per_px"] for row in mine], "o-", color=colour, label=name)
            memory.plot(sides, [row["peak_bytes"] / 1e6 for row in mine], "o-", color=colour, label=name)
    own = [row for row in rows if row["method"] == "ours"]
    engine = [1e6 * row["engine_s"] / row["side_px"] ** 2 for row in own]
    pace.plot([row["side_px"] for row in own], engine, "--", color="black", label="engine alone")
    for axis, label in ((pace, "microseconds a pixel"), (memory, "peak memory, MB")):
        axis.set(xlabel="side of the scene, pixels", ylabel=label, xscale="log")
        axis.set_ylim(bottom=0)
        axis.set_xticks([row["side_px"] for row in own], [f"{row['side_px']:,}" for row in own])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    pace.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(SceneConfig, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    rows, without = measure(config)
    faults = missed(rows)
    sys.stdout.write(format_table(rows, without) + "".join(f"limit missed: {fault}\n" for fault in faults))
    machine = {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    settings = config.model_dump(mode="json", exclude={"out", "folder"})
    record = {"schema": "babelrs.scene/1", "machine": machine, "settings": settings, "runs": rows}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps({**record, "without_sahi": without}, indent=1) + "\n")
    plot(rows, config.out.with_suffix(".png"))
    return EXIT_LIMIT_MISSED if faults else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
