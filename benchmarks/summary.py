"""``python -m benchmarks.summary``: the README's tables of results, made from ``benchmarks/results``."""

from __future__ import annotations

import json
import statistics
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
_ENDS = {"kills": "kills", "full_disks": "full disks", "power_losses": "losses of power"}


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


def onboard_table() -> str:
    """What the runtime costs and what it stands, as measured."""
    overhead, scene, soak = read_result("overhead"), read_result("scene"), read_result("soak")
    crashes, fuzz, flips = read_result("crashes"), read_result("fuzz"), read_result("bit-flips")["bundles"]
    largest = max((run for run in scene["runs"] if run["method"] == "ours"), key=lambda run: run["side_px"])
    ends = ", ".join(f"{len(crashes[name])} {said}" for name, said in _ENDS.items())
    found = sum(len(target["findings"]) for target in fuzz["targets"].values())
    tried = sum(target["executions"] for target in fuzz["targets"].values())
    missed = sum(one["all"]["changed_unnoticed_by_exact"] for one in flips.values())
    rows = [
        (
            f"{overhead['settings']['images']} images to JSON Lines, in times of the engine alone",
            f"{_ratio(overhead):.2f}",
        ),
        ("start to the first line on disk, slowest sensor's median", f"{_start_s(overhead):.2f} s"),
        (
            f"scene of {largest['side_px']:,}² px, RGB, 2 cores",
            f"{largest['wall_s']:.0f} s, {largest['peak_bytes'] / 1e6:.0f} MB",
        ),
        (
            f"memory over {soak['settings']['minutes']:.0f} minutes at full rate",
            f"{soak['mb_a_minute']:.2f} MB a minute",
        ),
        (f"{ends}: images lost, repeated or altered", f"{sum(crashes['differences'].values())}"),
        (
            f"{sum(one['all']['flips'] for one in flips.values()):,} flipped bits in weights: not found by their CRC",
            f"{_unfound(flips)}",
        ),
        ("flips that changed detections and passed the self-test in flight", f"{missed}"),
        (f"{tried:,} damaged files, messages and command lines: crashes, hangs, tracebacks", f"{found}"),
    ]
    return "\n".join(["| on board | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _ratio(overhead: dict[str, Any]) -> float:
    return float(overhead["rows"]["all"]["ratio"])


def _start_s(overhead: dict[str, Any]) -> float:
    return max(statistics.median(seconds) for seconds in overhead["starts_s"].values())


def _unfound(flips: dict[str, Any]) -> int:
    return int(sum(one["all"]["flips"] - one["all"]["crc"] for one in flips.values()))


def _percent(precision: dict[str, float]) -> str:
    return f"{100 * precision['ap50']:.1f} / {100 * precision['ap']:.1f}"


def _batch(training: dict[str, Any]) -> int:
    return sum(training["settings"]["batch"].values())


def main(arguments: list[str]) -> int:
    """Entry point; takes no arguments."""
    if arguments:
        raise BabelRSError(f"Unexpected arguments {arguments}.", "python -m benchmarks.summary takes none.")
    sys.stdout.write(f"{accuracy_table()}\n\n{comparison_table()}\n\n{basics_table()}\n\n{onboard_table()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
