"""What came out of the pretraining experiment: a record of each run, means over seeds, what the seeds separate."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from train.run_plots import COLOURS

SCHEMA = "babelrs.pretraining-experiment/1"
PAIRS = tuple(".".join(pair) for pair in itertools.combinations(sorted(sensor.value for sensor in Sensor), 2))
"""Pairs of sensors, as gradient cosines are named."""
MEASURES = ("h_map", *(f"{sensor.value} ap50" for sensor in Sensor), *(f"{sensor.value} map" for sensor in Sensor),
            *(f"cosine {pair}" for pair in PAIRS))  # fmt: skip


def record_of(
    arm: str, seed: int, pretraining: Sequence[Mapping[str, Any]], detection: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What one arm and seed gave.

    Args:
        arm: Its name.
        seed: Of both trainings.
        pretraining: Lines of its ``metrics.jsonl``; none without pretraining.
        detection: Lines of the fine-tuning's.

    Raises:
        BabelRSError: The fine-tuning measured nothing.
    """
    evaluations = [line for line in detection if line.get("h_map") is not None]
    if not evaluations:
        raise BabelRSError(f"{arm}, seed {seed}: nothing was measured.", "Set watch.evaluate_every.")
    steps = [line for line in detection if "gradient_norm" in line]
    looks = [line for line in pretraining if "held_out" in line]
    norms = [line["gradient_norm"] for line in steps]
    return {
        "arm": arm,
        "seed": seed,
        "curve": [{"step": e["step"], "h_map": e["h_map"], "sensors": e["evaluation"]["sensors"]} for e in evaluations],
        "cosines": [{"step": line["step"], **line["agreement"]} for line in steps if "agreement" in line],
        "gradient_norm": {"median": statistics.median(norms), "largest": max(norms)},
        "skipped_steps": sum(bool(line["skipped"]) for line in steps),
        "held_out": [{"step": line["step"], **line["held_out"]} for line in looks],
    }


def measures(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that arms are compared by: accuracy at the end, and the mean of the cosines over the course.

    A cosine that was never defined (a sensor without gradient) is left out.
    """
    last = record["curve"][-1]
    found = {"h_map": last["h_map"]}
    for sensor in Sensor:
        mean = last["sensors"][sensor.value]
        found |= {f"{sensor.value} ap50": mean["ap50"], f"{sensor.value} map": mean["ap"]}
    for pair in PAIRS:
        values = [line[f"cosine.{pair}"] for line in record["cosines"] if line[f"cosine.{pair}"] is not None]
        found |= {f"cosine {pair}": statistics.mean(values)} if values else {}
    return found


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of every measure by arm, and the pairs of arms whose seeds separate.

    Two arms are separated in a measure where every seed of one is above every seed of the other, with at least three
    seeds each.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for name, value in measures(record).items():
            values.setdefault(record["arm"], {}).setdefault(name, []).append(value)
    arms = {
        arm: {name: {"mean": statistics.mean(v), "spread": _spread(v), "seeds": len(v)} for name, v in found.items()}
        for arm, found in values.items()
    }
    separated = [
        {"measure": name, "higher": high, "lower": low}
        for name in MEASURES
        for high, low in itertools.permutations(values, 2)
        if _above(values[high].get(name, []), values[low].get(name, []))
    ]
    return {"arms": arms, "separated": separated}


def _above(high: Sequence[float], low: Sequence[float]) -> bool:
    return min(len(high), len(low)) >= 3 and min(high) > max(low)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def format_table(found: Mapping[str, Any]) -> str:
    """Means and spreads by arm, accuracies in percent, and what the seeds separate."""
    arms = found["arms"]
    lines = ["".join([f"{'':<14}", *(f"{arm:>18}" for arm in arms)])]
    for name in MEASURES:
        factor = 1 if name.startswith("cosine") else 100
        cells = [_cell(arm.get(name), factor) for arm in arms.values()]
        lines.append("".join([f"{name:<14}", *cells]))
    lines += [f"{each['measure']}: {each['higher']} above {each['lower']}" for each in found["separated"]]
    return "\n".join([*lines, "" if found["separated"] else "No two arms are separated by their seeds.", ""])


def _cell(value: Mapping[str, float] | None, factor: int) -> str:
    return f"{factor * value['mean']:>10.3f} +-{factor * value['spread']:>5.3f}" if value else f"{'-':>18}"


def plot(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """H-mAP by arm, a dot a seed; H-mAP against steps; cosines of the sensors' gradients by arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = list(dict.fromkeys(record["arm"] for record in records))
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    palette = ("grey", "tab:green", "tab:purple", "tab:brown")
    for index, arm in enumerate(arms):
        mine = [record for record in records if record["arm"] == arm]
        ends = [100 * record["curve"][-1]["h_map"] for record in mine]
        axes[0].plot([index] * len(ends), ends, "o", color=palette[index % len(palette)])
        axes[0].plot([index - 0.2, index + 0.2], [statistics.mean(ends)] * 2, color=palette[index % len(palette)])
        for number, record in enumerate(mine):
            steps, values = zip(*((e["step"], 100 * e["h_map"]) for e in record["curve"]), strict=True)
            label = arm if number == 0 else None
            axes[1].plot(steps, values, color=palette[index % len(palette)], lw=1, label=label)
        for offset, pair in enumerate(PAIRS):
            found = [value for record in mine if (value := measures(record).get(f"cosine {pair}")) is not None]
            place = [index + 0.2 * (offset - 1)] * len(found)
            colour = list(COLOURS.values())[offset]
            axes[2].plot(place, found, "o", ms=4, color=colour, label=pair if index == 0 else None)
    for axis in (axes[0], axes[2]):
        axis.set_xticks(range(len(arms)), arms)
    axes[0].set(title="H-mAP at the end, % (a dot a seed)", ylim=(0, None))
    axes[1].set(title="H-mAP, %", xlabel="fine-tuning step", ylim=(0, None))
    axes[2].set(title="mean cosine of the sensors' gradients")
    axes[2].axhline(0, color="black", lw=0.8)
    for axis in axes[1:]:
        axis.legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
