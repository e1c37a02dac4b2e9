"""``python -m benchmarks.accuracy``: what a bundle finds through the engine code that flies, against the annotations.

Writes a table, a JSON and a plot of AP per sensor.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import open_bundle, verify_files
from babelrs.errors import run_command
from babelrs.metrics import evaluate
from compress.measure import measure
from runtime.engines import open_engine
from train.cli import load_config, start_logging
from train.data.soi_det import Split, read_split


class AccuracyConfig(BaseModel):
    """Measure a bundle on labelled images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path = Field(description="bundle folder or archive")
    data: Path = Field(description="folder in the SOI-Det layout")
    split: Split = Field("eval", description="split to measure on")
    out: Path = Field(Path("benchmarks/results/accuracy"), description="results go to OUT.json and OUT.png")
    threads: int = Field(0, ge=0, description="engine threads; 0: the engine's choice")


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of AP50 and mAP per sensor, with H-mAP as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sensors = result["sensors"]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for offset, (key, label) in enumerate((("ap50", "AP50"), ("ap", "mAP (50:95)"))):
        positions = [index + 0.38 * offset for index in range(len(sensors))]
        bars = axes.bar(positions, [100 * sensors[name][key] for name in sensors], 0.36, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.axhline(
        100 * result["h_map"], color="black", linestyle="--", linewidth=1, label=f"H-mAP {100 * result['h_map']:.1f}"
    )
    axes.set_xticks([index + 0.19 for index in range(len(sensors))], [name.upper() for name in sensors])
    axes.set_ylabel("%")
    axes.set_ylim(0, 105)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(AccuracyConfig, arguments)
    start_logging()
    bundle = open_bundle(config.bundle)
    verify_files(bundle)
    samples = read_split(config.data, list(bundle.manifest.sensors), config.split)
    manifest = bundle.manifest
    engines = partial(open_engine, bundle, name="auto", threads=config.threads)
    scored, infer_ms = measure(engines, manifest.sensors, samples)
    evaluation = evaluate(scored.found, scored.truth)
    record = {
        "schema": "babelrs.accuracy/1",
        "bundle": {"name": manifest.name, "target": manifest.target, "digest": bundle.digest},
        "data": config.data.name,
        "split": config.split,
        "images": {sensor.value: len(group) for sensor, group in samples.items()},
        "median_infer_ms": {sensor.value: round(value, 2) for sensor, value in infer_ms.items()},
        "training": dict(manifest.training),
        **evaluation.to_dict(),
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    plot(record, config.out.with_suffix(".png"))
    sys.stdout.write(evaluation.format_table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
