"""``python -m benchmarks.summary``: the README's tables of results, made from ``benchmarks/results``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor

RESULTS = Path(__file__).resolve().parent / "results"
ACCURACY = {
    "accuracy-soi-mini": "real images (soi-mini), {images} held out",
    "accuracy-demo": "simulated scenes, demo bundle, {images} held out",
}


def read_result(name: str) -> dict[str, Any]:
    """The JSON of ``benchmarks/results/NAME.json``.

    Raises:
        BabelRSError: It is missing or no JSON.
    """
    path = RESULTS / f"{name}.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BabelRSError(f"{path}: {error}.", "Run the benchmark that writes it.") from None
    return record


def accuracy_table() -> str:
    """AP50 and mAP in percent per sensor, and H-mAP, of the measured bundles."""
    lines = ["| AP50 / mAP, % | RGB | SAR | infrared | H-mAP | trained |", "|---|---|---|---|---|---|"]
    for name, title in ACCURACY.items():
        record = read_result(name)
        cells = [_percent(record["sensors"][sensor.value]) for sensor in Sensor]
        training = record["training"]
        images = sum(record["images"].values())
        budget = f"{training['step']} steps of {_batch(training)} crops, {sum(training['images'].values())} images"
        row = [title.format(images=images), *cells, f"{100 * record['h_map']:.1f}", budget]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def comparison_table() -> str:
    """Ours and the baseline's AP50 and H-mAP in percent, and the slowest sensor's graph."""
    record = read_result("comparison")
    rows, latency = record["rows"], record["latency_ms"]
    times = {"baseline": latency["baseline"], "ours": max(v for name, v in latency.items() if name != "baseline")}
    lines = ["| AP50, % | RGB | SAR | infrared | H-mAP | graph, 2 threads |", "|---|---|---|---|---|---|"]
    for side, title in (("ours", "ours (`nano`)"), ("baseline", "YOLO11n-OBB")):
        cells = [f"{100 * rows[name][side]:.1f}" for name in (*(sensor.value for sensor in Sensor), "h_map")]
        lines.append(f"| {' | '.join([title, *cells, f'{times[side]:.0f} ms'])} |")
    return "\n".join(lines)


def basics_table() -> str:
    """Start-up, simulator and overlap, as measured."""
    record = read_result("basics")
    seconds, errors = record["simulate_s"], record["iou_error_against_shapely"]
    worst = max(value for kind, value in errors.items() if kind != "pairs_per_kind")
    pairs = errors["pairs_per_kind"] * (len(errors) - 1)
    rows = [
        ("`babelrs-run --help`, median start", f"{record['help_start_s']['median']:.2f} s"),
        (
            f"simulator, {seconds['scenes']} scenes of 640x640 with all three sensors, {seconds['workers']} processes",
            f"{seconds['rgb,sar,ir']:.0f} s",
        ),
        (f"rotated overlap against shapely, largest error of {pairs:,} pairs", f"{worst:.0e}"),
    ]
    return "\n".join(["| measured | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _percent(precision: dict[str, float]) -> str:
    return f"{100 * precision['ap50']:.1f} / {100 * precision['ap']:.1f}"


def _batch(training: dict[str, Any]) -> int:
    return sum(training["settings"]["batch"].values())


def main(arguments: list[str]) -> int:
    """Entry point; takes no arguments."""
    if arguments:
        raise BabelRSError(f"Unexpected arguments {arguments}.", "python -m benchmarks.summary takes none.")
    sys.stdout.write(f"{accuracy_table()}\n\n{comparison_table()}\n\n{basics_table()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
