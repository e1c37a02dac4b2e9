"""``python -m benchmarks.quantization``: what each way to quantize costs, over several draws of calibration images.

Makes a bundle for every target and draw with ``compress.quantize`` and keeps what its report says: H-mAP in float32,
float16, INT8 calibrated on RGB alone, on all sensors pooled, on each sensor's own images, and mixed with float16. A
bundle that is there is taken as it is, and a search that was stopped goes on, so the command can be called again.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import sha256_of
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.experiment import Arm, Results, call, options, settings_hash
from benchmarks.seeds import Record
from compress.report.record import ROW_NAMES
from train.checkpoint import WEIGHTS_FILE
from train.cli import load_config, start_logging

SCHEMA = "babelrs.quantization-experiment/1"
REPORT = "report.json"
ROWS = ("float16", "naive", "pooled", "per-sensor")
"""Beside float32 and mixed; float16 also where the target does not compute in it."""


class QuantizationConfig(BaseModel):
    """Quantize one checkpoint for several targets, with several draws of calibration images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path = Field(description="folder of the checkpoint")
    data: Path = Field(description="folder in the SOI-Det layout")
    work: Path = Field(Path("runs/quantization"), description="folder for the bundles")
    targets: tuple[str, ...] = Field(("cpu-x86", "jetson-orin"), min_length=1, description="of compress/targets.yaml")
    draws: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of the draws of calibration images")
    images: int = Field(100, ge=1, description="calibration images drawn of each sensor")
    more: tuple[str, ...] = Field((), description="options for compress.quantize beside these, as name=value")
    jobs: int = Field(2, ge=1, description="bundles at a time, each on one thread")
    out: Path = Field(Path("benchmarks/results/quantization"), description="results go to OUT.json and OUT.png")


def run_arm(config: QuantizationConfig, arm: Arm) -> Record:
    """Make one bundle, or its report where the limit is missed; what it says."""
    out = config.work / arm.folder
    missed = out.with_name(f"{out.name}.report")
    if not out.exists() and not (missed / REPORT).exists():
        try:
            call(
                out.with_name(f"{out.name}.log"), "compress.quantize", "--checkpoint", config.checkpoint, "--out", out,
                "--target", arm.name, "--data.root", config.data, "--calibration.seed", arm.seed,
                "--calibration.images_per_sensor", config.images, "--rows", *ROWS, "--threads", 1,
                *options(config.more),
            )  # fmt: skip
        except BabelRSError:
            if not (missed / REPORT).exists():
                raise
    return record_of(arm, json.loads(((out if out.exists() else missed) / REPORT).read_text()))


def record_of(arm: Arm, report: Mapping[str, Any]) -> Record:
    """What is kept of a bundle's report."""
    rows = {
        row["name"]: {
            "h_map": row["h_map"],
            "size_bytes": row["size_bytes"],
            "sensors": {name: {key: one[key] for key in ("ap50", "ap")} for name, one in row["sensors"].items()},
        }
        for row in report["rows"]
    }
    return {
        "arm": arm.name,
        "seed": arm.seed,
        "measured_by": report["rows"][0]["measured_by"],
        "limit": report["limit"],
        "calibrator": report["chosen_calibrator"],
        "errors": {each["calibrator"]: each["error"] for each in report["calibrators"]},
        "float_parts": [part["name"] for part in report["parts"] if part["precision"] != "int8"],
        "parity": report["parity"],
        "rows": rows,
    }


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """H-mAP and mAP by sensor of every target and row: mean, least and greatest over the draws."""
    found: dict[str, Any] = {}
    for record in records:
        for name, row in record["rows"].items():
            values = found.setdefault(record["arm"], {}).setdefault(name, {})
            values.setdefault("h_map", []).append(row["h_map"])
            for sensor, one in row["sensors"].items():
                values.setdefault(f"{sensor} map", []).append(one["ap"])
                values.setdefault(f"{sensor} ap50", []).append(one["ap50"])
    return {
        arm: {
            name: {
                key: {"mean": statistics.mean(v), "least": min(v), "greatest": max(v), "draws": len(v)}
                for key, v in values.items()
            }
            for name, values in rows.items()
        }
        for arm, rows in found.items()
    }


def format_table(found: Mapping[str, Any]) -> str:
    """Percent by target and row: the mean over the draws, and their range for H-mAP."""
    lines = []
    for arm, rows in found.items():
        lines.append(f"{arm:<13}{'H-mAP':>7}{'least':>8}{'greatest':>9}" + "".join(f"{f'{s} mAP':>9}" for s in Sensor))
        for name in ROW_NAMES:
            if name in rows:
                h_map = rows[name]["h_map"]
                cells = [rows[name].get(f"{sensor} map") for sensor in Sensor]
                shown = "".join(f"{100 * cell['mean']:>9.2f}" if cell else f"{'-':>9}" for cell in cells)
                numbers = (100 * h_map[key] for key in ("mean", "least", "greatest"))
                lines.append("{:<13}{:>7.2f}{:>8.2f}{:>9.2f}".format(name, *numbers) + shown)
    return "\n".join([*lines, ""])


def plot(records: Sequence[Record], path: Path) -> None:
    """H-mAP of every row, a panel a target, a dot a draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = list(dict.fromkeys(record["arm"] for record in records))
    figure, panels = plt.subplots(1, len(arms), figsize=(4.8 * len(arms), 3.4), layout="constrained", squeeze=False)
    for axis, arm in zip(panels[0], arms, strict=True):
        mine = [record for record in records if record["arm"] == arm]
        names = [name for name in ROW_NAMES if any(name in record["rows"] for record in mine)]
        for place, name in enumerate(names):
            values = [100 * record["rows"][name]["h_map"] for record in mine if name in record["rows"]]
            axis.plot([place] * len(values), values, "o", ms=4, color="tab:purple" if name == "mixed" else "tab:grey")
            axis.plot([place - 0.25, place + 0.25], [statistics.mean(values)] * 2, color="black", lw=1)
        exact = [100 * record["rows"]["float32"]["h_map"] for record in mine]
        axis.axhline(statistics.mean(exact) - mine[0]["limit"]["max_hmap_drop"], color="tab:red", lw=0.8, ls="--")
        axis.set_xticks(range(len(names)), names, rotation=20)
        axis.set(title=f"{arm} ({mine[0]['measured_by']})", ylabel="H-mAP, %")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(QuantizationConfig, arguments)
    start_logging()
    decides = settings_hash(sha256_of(config.checkpoint / WEIGHTS_FILE), str(config.images), *config.more)
    results = Results(config.out, SCHEMA, decides, config.targets, summary, plot, {"calibration_images": config.images})
    arms = [Arm(target, draw) for draw in config.draws for target in config.targets]
    records = results.collect(arms, lambda arm: run_arm(config, arm), config.jobs)
    sys.stdout.write(format_table(summary(records)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
