"""``python -m benchmarks.evaluation_speed``: how long an evaluation of SOI-Det's size takes, stage by stage.

Synthetic detections and objects, from a seed: images with few objects and images with thousands, detections near the
objects (several on many of them) and false alarms. Nothing is detected; what is timed is what comes after. Writes a
table and a JSON file. Run it on an idle machine; all stages use one thread.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from babelrs.boxes import to_le90
from babelrs.detections import Detections
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from babelrs.metrics import GroundTruth, evaluate_matched, match_pool
from babelrs.pool import Pool, pool_images
from babelrs.sensors import Sensor
from train.cli import load_config
from train.evaluation.report import analyse, write_numbers, write_plots
from train.evaluation.result_files import write_dota

Result = TypeVar("Result")

IMAGE_PX = 800
LIMIT_S, LIMIT_BOXES = 300.0, 1_000_000
"""The project's promise: at this many boxes in minutes, not hours; here five."""


class EvaluationSpeedConfig(BaseModel):
    """Time an evaluation on the CPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[Annotated[int, Field(ge=1)], ...] = Field((2_000, 20_000), description="numbers of images")
    objects_per_image: float = Field(15, gt=0, description="mean; a few images have a hundred times as many")
    detections_per_image: float = Field(50, gt=0, description="mean")
    classes: int = Field(15, ge=1, description="classes")
    seed: int = Field(0, ge=0, description="seed of the boxes")
    out: Path = Field(Path("benchmarks/results/evaluation-speed.json"), description="JSON file to write")


def synthetic(config: EvaluationSpeedConfig, images: int) -> tuple[dict[str, Detections], dict[str, GroundTruth]]:
    """Detections and truth by image, ``images`` of them.

    The number of objects of an image is log-normal, as aerial images are: most have some, a parking lot has thousands.
    """
    rng = np.random.default_rng(config.seed)
    spread = 1.2
    crowd = np.exp(rng.normal(-(spread**2) / 2, spread, images))
    names = tuple(f"class {number}" for number in range(config.classes))
    found, truth = {}, {}
    for image in range(images):
        count = rng.poisson(crowd[image] * config.objects_per_image)
        main = rng.integers(0, config.classes)  # most objects of an image are of one class
        labels = np.where(rng.random(count) < 0.7, main, rng.integers(0, config.classes, count)).astype(np.int32)
        boxes = _objects(rng, count)
        name = f"rgb/{image:06d}.png"
        truth[name] = GroundTruth(boxes, labels, rng.random(count) < 0.05, names, Sensor.RGB)
        total = rng.poisson(config.detections_per_image * (0.3 + 0.7 * crowd[image]))
        found[name] = _detections(rng, boxes, labels, total, names)
    return found, truth


def _objects(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    sides = np.exp(rng.normal(2.9, 0.6, (count, 2))) * [1.5, 0.7]
    return to_le90(
        np.column_stack([rng.uniform(0, IMAGE_PX, (count, 2)), sides, rng.uniform(-np.pi / 2, np.pi / 2, count)])
    )


def _detections(
    rng: np.random.Generator,
    boxes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    total: int,
    names: tuple[str, ...],
) -> Detections:
    """``total`` detections: three in four near an object, the rest anywhere."""
    near = int(0.75 * total) if len(boxes) else 0
    source = rng.integers(0, max(len(boxes), 1), near)
    shaken = boxes[source].astype(np.float64) if near else np.zeros((0, 5))
    shaken += rng.normal(0, 0.12, (near, 5)) * np.column_stack([shaken[:, [2, 3, 2, 3]], np.ones(near)])
    shaken[:, 2:4] = np.maximum(shaken[:, 2:4], 1)
    guesses = np.concatenate([labels[source] if near else labels[:0], rng.integers(0, len(names), total - near)])
    scores = np.concatenate([rng.beta(3, 2, near), rng.beta(1, 5, total - near)])
    rows = np.concatenate([to_le90(shaken), _objects(rng, total - near)])
    return Detections(rows, scores.astype(np.float32), guesses.astype(np.int32), names, Sensor.RGB)


def timed(stages: dict[str, float], name: str, call: Callable[[], Result]) -> Result:
    """The call's result; its wall time goes into ``stages``."""
    begin = time.perf_counter()
    result = call()
    stages[name] = time.perf_counter() - begin
    return result


def measure(config: EvaluationSpeedConfig, images: int) -> dict[str, Any]:
    """Seconds of every stage for one set."""
    found, truth = synthetic(config, images)
    before_mb = _peak_mb()
    stages: dict[str, float] = {}
    begin_cpu = time.process_time()
    pool: Pool = timed(stages, "pool", lambda: pool_images(found, truth))[Sensor.RGB]
    matched = timed(stages, "match", lambda: match_pool(pool))
    evaluation = timed(stages, "average precision", lambda: evaluate_matched([matched]))
    report = timed(stages, "sizes, curves, confusion", lambda: analyse(matched, 8))
    with tempfile.TemporaryDirectory() as folder:
        reports = {Sensor.RGB: report}
        timed(stages, "numbers, plots", lambda: _write(evaluation, reports, Path(folder)))
        timed(stages, "DOTA files", lambda: write_dota(pool, Path(folder) / "dota"))
    return {
        "images": images,
        "detections": len(pool.found),
        "objects": len(pool.objects),
        "most_objects_in_an_image": int(np.bincount(pool.objects.images).max()),
        "candidate_pairs": len(matched.candidates.iou),
        "seconds": {name: round(value, 3) for name, value in stages.items()},
        "total_s": round(sum(stages.values()), 3),
        "total_cpu_s": round(time.process_time() - begin_cpu, 3),
        "peak_mb_before": round(before_mb),
        "peak_mb": round(_peak_mb()),
        "ap50": evaluation.overall.ap50,
        "ap": evaluation.overall.ap,
    }


def _write(evaluation: Any, reports: Any, folder: Path) -> None:
    write_numbers(evaluation, reports, {}, folder)
    write_plots(evaluation, reports, folder)


def _peak_mb() -> float:
    """The process's largest resident memory so far, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds, a line a stage, a column a set."""
    lines = [f"{'':<26}" + "".join(f"{row['images']:>12} images" for row in rows)]
    for key in ("detections", "objects", "candidate_pairs"):
        lines.append(f"{key.replace('_', ' '):<26}" + "".join(f"{row[key]:>19}" for row in rows))
    for stage in rows[0]["seconds"]:
        lines.append(f"{stage + ', s':<26}" + "".join(f"{row['seconds'][stage]:>19.2f}" for row in rows))
    lines.append(f"{'all stages, s':<26}" + "".join(f"{row['total_s']:>19.2f}" for row in rows))
    lines.append(f"{'all stages, CPU s':<26}" + "".join(f"{row['total_cpu_s']:>19.2f}" for row in rows))
    lines.append(f"{'largest memory, MB':<26}" + "".join(f"{row['peak_mb']:>19}" for row in rows))
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(EvaluationSpeedConfig, arguments)
    rows = [measure(config, images) for images in sorted(config.images)]
    late = [row for row in rows if row["detections"] <= LIMIT_BOXES * 1.1 and row["total_s"] > LIMIT_S]
    missed = [f"{row['detections']} detections: {row['total_s']:.0f} s, not {LIMIT_S:.0f}" for row in late]
    result = {
        "schema": "babelrs.evaluation-speed/1",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": {"numpy": version("numpy")},
        "settings": config.model_dump(mode="json", exclude={"out"}),
        "threads": 1,
        "load_average": round(os.getloadavg()[0], 1),
        "rows": rows,
        "missed_limits": missed,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(table(rows) + "".join(f"missed: {limit}\n" for limit in missed))
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
