"""``python -m benchmarks.comparison``: our detector against a baseline trained on the same images for as many epochs.

Takes the run folders of ``train.finetune`` (one for each seed; trained with ``watch.evaluate_every``), what
``benchmarks.baseline curve`` wrote, and what ``benchmarks.latency`` wrote for the graphs of both sides. Writes a table,
``OUT.json`` and ``OUT.png``: H-mAP and AP50 per sensor against epochs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from babelrs.sensors import Sensor
from train.cli import load_config
from train.run_plots import COLOURS, read_metrics


class ComparisonConfig(BaseModel):
    """Put our curve beside a baseline's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: tuple[Path, ...] = Field(min_length=1, description="run folders, one for each seed")
    latency: Path = Field(
        Path("benchmarks/results/latency-comparison.json"),
        description="JSON of benchmarks.latency: a graph named baseline, all others ours",
    )
    baseline: Path = Field(
        Path("benchmarks/results/baseline-yolo11n-obb.json"), description="JSON of benchmarks.baseline curve"
    )
    out: Path = Field(Path("benchmarks/results/comparison"), description="results go to OUT.json and OUT.png")


def our_curve(run: Path) -> list[dict[str, Any]]:
    """Accuracy of a run's averaged weights against epochs: images drawn over images there are.

    Raises:
        BabelRSError: The run holds no evaluation.
    """
    settings = json.loads((run / "config.json").read_text())
    record = json.loads((run / "last" / "checkpoint.json").read_text())["training"]
    drawn = sum(settings["batch"][sensor] for sensor in record["images"])
    images = sum(record["images"].values())
    points = [
        {"epochs": line["step"] * drawn / images, "h_map": line["h_map"], "sensors": line["evaluation"]["sensors"]}
        for line in read_metrics(run / "metrics.jsonl")
        if line.get("h_map") is not None
    ]
    if not points:
        raise BabelRSError(f"{run} holds no evaluation.", "Train with --watch.evaluate_every.")
    return points


def verdict(ours: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Ours (mean and spread over seeds) and the baseline's at the end of training: H-mAP and every sensor's AP50."""
    rows = {}
    for name in ("h_map", *(sensor.value for sensor in Sensor)):
        values = [_value(point, name) for point in ours]
        rows[name] = {
            "ours": statistics.mean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "baseline": _value(baseline, name),
        }
    return rows


def _value(point: Mapping[str, Any], name: str) -> float:
    return float(point["h_map"] if name == "h_map" else point["sensors"][name]["ap50"])


def format_table(rows: Mapping[str, Mapping[str, float]], latency_ms: Mapping[str, float]) -> str:
    """Percent at the end of training, and the engine's time for an image."""
    lines = [f"{'':<12}{'ours':>8}{'+-':>7}{'baseline':>10}"]
    for name, row in rows.items():
        label = "H-mAP" if name == "h_map" else f"{name} AP50"
        lines.append(f"{label:<12}{100 * row['ours']:>8.1f}{100 * row['spread']:>7.1f}{100 * row['baseline']:>10.1f}")
    return "\n".join([*lines, *(f"{name:<12}{value:>8.1f} ms" for name, value in latency_ms.items())]) + "\n"


def plot(curves: Sequence[Sequence[Mapping[str, Any]]], baseline: Sequence[Mapping[str, Any]], path: Path) -> None:
    """H-mAP and AP50 per sensor against epochs: ours solid, one line a seed, the baseline dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ("h_map", *(sensor.value for sensor in Sensor))
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3.2), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        colour = COLOURS.get(name, "black")
        for index, curve in enumerate(curves):
            values = [100 * _value(point, name) for point in curve]
            axis.plot([p["epochs"] for p in curve], values, color=colour, lw=1, label=None if index else "ours")
        values = [100 * _value(point, name) for point in baseline]
        axis.plot([p["epochs"] for p in baseline], values, "--", color="grey", marker=".", label="baseline")
        title = "H-mAP, %" if name == "h_map" else f"AP50 {name}, %"
        axis.set(title=title, xlabel="epochs", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``. Exits with 1 where the baseline is better or faster anywhere."""
    config = load_config(ComparisonConfig, arguments)
    baseline, timed = (json.loads(path.read_text()) for path in (config.baseline, config.latency))
    curves = [our_curve(run) for run in config.runs]
    rows = verdict([curve[-1] for curve in curves], baseline["curve"][-1])
    latency = {name: float(value) for name, value in timed["median_ms"].items()}
    sys.stdout.write(format_table(rows, latency))
    record = {"schema": "babelrs.comparison/1", "rows": rows, "latency_ms": latency, "ours": curves}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    plot(curves, baseline["curve"], config.out.with_suffix(".png"))
    better = all(row["ours"] > row["baseline"] for row in rows.values())
    faster = all(value <= latency["baseline"] for name, value in latency.items() if name != "baseline")
    return EXIT_DONE if better and faster else EXIT_LIMIT_MISSED


if __name__ == "__main__":
    sys.exit(run_command(main))
