"""``python -m benchmarks.nms``: rotated suppression from 100 to 100,000 boxes, against OpenCV and shapely.

Writes a table, ``OUT.json`` and a log-log plot ``OUT.png``. Run it on an idle machine. Every method has one thread and
the same boxes, all of one class: OpenCV's rotated suppression knows no classes. Times are medians of whole calls from
Python; what OpenCV takes as lists is made beforehand. Exit code 1 says that a stated limit was missed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.boxes import rotated_merge, rotated_nms
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from benchmarks.basics import overlap_errors
from benchmarks.suppression import DETECTIONS_PER_OBJECT, METHODS, Floats, Indices, detections
from train.cli import load_config

Result = TypeVar("Result")
log = logging.getLogger("benchmarks.nms")

LARGEST_IOU_ERROR = 1e-6
SMALLEST_SPEEDUP, SPEEDUP_FROM_BOXES = 20.0, 2_000
HARBOUR_BOXES, HARBOUR_LIMIT_MS = 10_000, 20.0


class NmsConfig(BaseModel):
    """Measure rotated non-maximum suppression on the CPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    counts: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000), description="numbers of boxes"
    )
    scenes: tuple[Literal["sea", "city", "harbour"], ...] = Field(("sea", "city", "harbour"), description="densities")
    iou_threshold: float = Field(0.3, ge=0, le=1, description="overlap above which a box falls")
    repeats: int = Field(15, ge=1, description="calls a median is taken of")
    budget_s: float = Field(10, gt=0, description="seconds after which no more calls are made for a median")
    limit_s: float = Field(180, gt=0, description="a method whose next call would take longer, by N squared, stops")
    threads: int = Field(2, ge=1, description="threads of the extra column")
    classes: int = Field(18, ge=1, description="classes of the extra column")
    pairs: int = Field(125_000, ge=0, description="pairs of each of eight kinds for the check of the overlap; 0: none")
    seed: int = Field(0, ge=0, description="seed of the boxes")
    out: Path = Field(Path("benchmarks/results/nms"), description="results go to OUT.json and OUT.png")


def timed_ms(call: Callable[[], Result], repeats: int, budget_s: float) -> tuple[float, int, Result]:
    """Median time of a call in milliseconds, the number of calls it is the median of, and the last one's result."""
    times: list[float] = []
    while True:
        begin = time.perf_counter()
        result = call()
        times.append(1e3 * (time.perf_counter() - begin))
        if len(times) == repeats or sum(times) > 1e3 * budget_s:
            return statistics.median(times), len(times), result


def agreement(found: Indices, reference: Indices) -> float:
    """Share of the boxes kept by either that both keep."""
    return len(np.intersect1d(found, reference)) / max(1, len(np.union1d(found, reference)))


def measure_row(config: NmsConfig, scene: str, count: int, last: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """All methods on one set of boxes; ``last`` holds and gets the count and time of each method's last call."""
    boxes, scores = detections(scene, count, config.seed)
    reference = rotated_nms(boxes, scores, np.zeros(count, np.int64), config.iou_threshold)
    row: dict[str, Any] = {"scene": scene, "boxes": count, "kept": len(reference), "ms": {}, "calls": {}, "agree": {}}
    for name, prepare in METHODS.items():
        before, milliseconds = last.get(name, (count, 0.0))
        if milliseconds * (count / before) ** 2 > 1e3 * config.limit_s:
            row["ms"][name] = None
            continue
        call = prepare(boxes, scores, config.iou_threshold)
        row["ms"][name], row["calls"][name], kept = timed_ms(call, config.repeats, config.budget_s)
        row["agree"][name] = agreement(kept, reference)
        last[name] = count, row["ms"][name]
    row["ms"].update(_variants(config, boxes, scores))
    return row


def _variants(config: NmsConfig, boxes: Floats, scores: Floats) -> dict[str, float]:
    """Milliseconds of what the rivals do not have: threads, classes, merging."""
    one, many = np.zeros(len(boxes), np.int64), np.arange(len(boxes)) % config.classes
    threshold, threads = config.iou_threshold, config.threads
    calls: dict[str, Callable[[], object]] = {
        "babelrs, threads": lambda: rotated_nms(boxes, scores, one, threshold, threads=threads),
        "babelrs, classes": lambda: rotated_nms(boxes, scores, many, threshold),
        "babelrs, merge": lambda: rotated_merge(boxes, scores, one, threshold),
    }
    return {name: timed_ms(call, config.repeats, config.budget_s)[0] for name, call in calls.items()}


def missed_limits(rows: list[dict[str, Any]], errors: dict[str, float]) -> list[str]:
    """What the project promises of suppression and these measurements do not show, in words."""
    missed = [f"IoU of {kind} pairs is {e:.1e} off shapely's" for kind, e in errors.items() if e > LARGEST_IOU_ERROR]
    for row in rows:
        place, own = f"{row['boxes']} boxes, {row['scene']}", row["ms"]["babelrs"]
        for rival in ("opencv", "shapely"):
            other = row["ms"][rival]
            if row["boxes"] >= SPEEDUP_FROM_BOXES and other is not None and other < SMALLEST_SPEEDUP * own:
                missed.append(f"{place}: {other / own:.1f} times faster than {rival}, not {SMALLEST_SPEEDUP:.0f}")
        if (row["scene"], row["boxes"]) == ("harbour", HARBOUR_BOXES) and own > HARBOUR_LIMIT_MS:
            missed.append(f"{place}: {own:.1f} ms, not {HARBOUR_LIMIT_MS:.0f}")
    return missed


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds, a line per set of boxes; after the rivals' times, how many times faster babelrs is."""
    columns = ["babelrs", "opencv", "shapely", "babelrs, threads", "babelrs, classes", "babelrs, merge"]
    lines = [f"{'scene':<8} {'boxes':>7} {'kept':>6} " + " ".join(f"{name + ' ms':>20}" for name in columns)]
    for row in rows:
        cells = [_cell(row["ms"][name], row["ms"]["babelrs"], name in ("opencv", "shapely")) for name in columns]
        lines.append(f"{row['scene']:<8} {row['boxes']:>7} {row['kept']:>6} " + " ".join(f"{c:>20}" for c in cells))
    return "\n".join(lines) + "\n"


def _cell(milliseconds: float | None, own: float, rival: bool) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.3g}" + (f" ({milliseconds / own:.0f}x)" if rival else "")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time against the number of boxes, both logarithmic, a panel for each scene."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    figure, panels = plt.subplots(
        1, len(scenes), figsize=(4 * len(scenes), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, scene in zip(panels[0], scenes, strict=True):
        for name in METHODS:
            points = [(r["boxes"], r["ms"][name]) for r in rows if r["scene"] == scene and r["ms"][name] is not None]
            axes.loglog(*zip(*points, strict=True), "o-", markersize=3, label=name)
        axes.set(title=scene, xlabel="boxes")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("median time of a call, ms")
    panels[0][0].legend(title="one thread, one class")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(NmsConfig, arguments)
    rows = []
    for scene in config.scenes:
        last: dict[str, tuple[int, float]] = {}
        for count in config.counts:
            rows.append(measure_row(config, scene, count, last))
            log.info("%s, %d boxes: %s ms", scene, count, rows[-1]["ms"])
    errors = overlap_errors(config.pairs) if config.pairs else {}
    missed = missed_limits(rows, errors)
    result = {
        "schema": "babelrs.nms/1",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("numpy", "opencv-python-headless", "shapely")},
        "settings": config.model_dump(mode="json") | {"detections_per_object": DETECTIONS_PER_OBJECT},
        "rows": rows,
        "iou_error_against_shapely": {"pairs_per_kind": config.pairs, **errors},
        "missed_limits": missed,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, config.out.with_suffix(".png"))
    sys.stdout.write(table(rows))
    sys.stdout.write(f"largest error of the IoU against shapely: {max(errors.values(), default=0):.1e}\n")
    sys.stdout.write("".join(f"missed: {limit}\n" for limit in missed))
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
