"""``python -m benchmarks.roofline --bundle B``: predicted time of a bundle's graphs on devices that are not here.

Counts each sensor's operations and bytes and holds them against every target's public peaks and bandwidth: the time
below which no engine can be, and the time at the shares of both that the target says one may count on, its kernels'
starts added. Nothing is measured. Writes a table, ``OUT.json`` and ``OUT.png``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from babelrs.bundle import open_bundle, verify_files
from babelrs.errors import run_command
from benchmarks.prediction import Prediction, predictions
from benchmarks.roofline_plot import plot
from compress.targets import Target, find_target, read_targets
from train.cli import load_config

SCHEMA = "babelrs.roofline/1"
FIGURES = (
    *("bandwidth_gb_s", "peak_tops_int8", "peak_tflops_fp16", "peak_gflops_fp32"),
    *("bandwidth_share", "peak_share", "kernel_us"),
)
"""What of a target the prediction stands on."""


class RooflineConfig(BaseModel):
    """Predict the time of a bundle's graphs on other devices; nothing is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: Path = Field(description="bundle folder or .babelrs file")
    target: tuple[str, ...] = Field((), description="targets, one after the other or with commas; default: all")
    targets_file: Path | None = Field(None, description="YAML file with targets of your own")
    out: Path = Field(Path("benchmarks/results/roofline"), description="results go to OUT.json and OUT.png")

    @field_validator("target")
    @classmethod
    def _split(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for given in names for name in given.split(",") if name)


def format_table(found: Sequence[Prediction]) -> str:
    """A line for every target, sensor and batch; times a batch in milliseconds."""
    return "\n".join([*_HEADER, *_lines(found)]) + "\n"


_HEADER = (
    f"{'':<41}{'MB moved':>18}{'MB of':>9}{'predicted floor, ms, by':>25}{'':>12}" + f"{'predicted':>11}" * 2,
    f"{'target':<18}{'sensor':<7}{'batch':>6} {'GFLOP':>9}{'fused':>9}{'not':>9}{'weights':>9}{'bandwidth':>13}"
    f"{'arithmetic':>12}{'bound':>12}{'ms':>11}{'images/s':>11}",
)


def _lines(found: Sequence[Prediction]) -> Iterator[str]:
    for each in found:
        cost = each.cost
        sizes = "".join(f"{b / 1e6:>9.1f}" for b in (cost.moved_bytes, cost.unfused_bytes, cost.weight_bytes))
        yield (
            f"{each.target.name:<18}{each.sensor.value:<7}{each.batch:>6} {each.operations / 1e9:>9.2f}{sizes}"
            f"{each.bandwidth_ms:>13.3f}{each.arithmetic_ms:>12.3f}{each.bound:>12}{each.planned_ms:>11.3f}"
            f"{1e3 * each.batch / each.planned_ms:>11.0f}"
        )


def chosen(names: Sequence[str], targets: Mapping[str, Target]) -> list[Target]:
    """The named targets, each once; all where none is named."""
    return list({found.name: found for found in (find_target(name, targets) for name in names or targets)}.values())


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(RooflineConfig, arguments)
    targets = chosen(config.target, read_targets(config.targets_file))
    bundle = open_bundle(config.bundle)
    verify_files(bundle)
    manifest = bundle.manifest
    found = predictions(bundle, targets)
    record = {
        "schema": SCHEMA,
        "predicted": True,  # counted on paper: nothing was run
        "bundle": {"name": manifest.name, "target": manifest.target, "sha256": bundle.digest},
        "targets": {t.name: {"description": t.description, **t.model_dump(include=set(FIGURES))} for t in targets},
        "rows": [each.record() for each in found],
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    plot(found, manifest.name, config.out.with_suffix(".png"))
    precisions = ", ".join(sorted({entry.precision for entry in manifest.sensors.values()}))
    sys.stdout.write(f"Predicted, not measured: {manifest.name}, {precisions}, made for {manifest.target}.\n")
    sys.stdout.write(format_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
