"""What came out of the pretraining experiment: a record of each run, and their picture."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from babelrs.sensors import Sensor
from benchmarks.seeds import ACCURACIES, Record, accuracies, by_arm, curve_of, draw_curves, draw_ends
from train.run_plots import COLOURS

SCHEMA = "babelrs.pretraining-experiment/1"
PAIRS = tuple(".".join(pair) for pair in itertools.combinations(sorted(sensor.value for sensor in Sensor), 2))
"""Pairs of sensors, as gradient cosines are named."""
MEASURES = (*ACCURACIES, *(f"cosine {pair}" for pair in PAIRS))


def record_of(
    arm: str, seed: int, pretraining: Sequence[Mapping[str, Any]], detection: Sequence[Mapping[str, Any]]
) -> Record:
    """What one arm and seed gave.

    Args:
        arm: Its name.
        seed: Of both trainings.
        pretraining: Lines of its ``metrics.jsonl``; none without pretraining.
        detection: Lines of the fine-tuning's.

    Raises:
        BabelRSError: The fine-tuning measured nothing.
    """
    steps = [line for line in detection if "gradient_norm" in line]
    looks = [line for line in pretraining if "held_out" in line]
    norms = [line["gradient_norm"] for line in steps]
    return {
        "arm": arm,
        "seed": seed,
        "curve": curve_of(detection, f"{arm}, seed {seed}"),
        "cosines": [{"step": line["step"], **line["agreement"]} for line in steps if "agreement" in line],
        "gradient_norm": {"median": statistics.median(norms), "largest": max(norms)},
        "skipped_steps": sum(bool(line["skipped"]) for line in steps),
        "held_out": [{"step": line["step"], **line["held_out"]} for line in looks],
    }


def measures(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that arms are compared by: accuracy at the end, and the mean of the cosines over the course.

    A cosine that was never defined (a sensor without gradient) is left out.
    """
    found = accuracies(record)
    for pair in PAIRS:
        values = [line[f"cosine.{pair}"] for line in record["cosines"] if line[f"cosine.{pair}"] is not None]
        found |= {f"cosine {pair}": statistics.mean(values)} if values else {}
    return found


def plot(records: Sequence[Record], path: Path) -> None:
    """H-mAP by arm, a dot a seed; H-mAP against steps; cosines of the sensors' gradients by arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    draw_ends(axes[0], records)
    draw_curves(axes[1], records, "step")
    axes[1].set_xlabel("fine-tuning step")
    _draw_cosines(axes[2], records)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_cosines(axis: Any, records: Sequence[Record]) -> None:
    arms = by_arm(records)
    for index, mine in enumerate(arms.values()):
        for offset, pair in enumerate(PAIRS):
            found = [value for record in mine if (value := measures(record).get(f"cosine {pair}")) is not None]
            place = [index + 0.2 * (offset - 1)] * len(found)
            colour = list(COLOURS.values())[offset]
            axis.plot(place, found, "o", ms=4, color=colour, label=pair if index == 0 else None)
    axis.set_xticks(range(len(arms)), list(arms))
    axis.set(title="mean cosine of the sensors' gradients")
    axis.axhline(0, color="black", lw=0.8)
    axis.legend(fontsize=8)
