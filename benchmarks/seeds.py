"""What the arms of an experiment gave over several seeds: means, spreads, what the seeds separate, and the pictures."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor

Record = dict[str, Any]
"""Of one arm and seed: ``arm``, ``seed``, ``curve`` with ``step``, ``h_map`` and ``sensors``, and what else it kept."""
ACCURACIES = ("h_map", *(f"{sensor.value} ap50" for sensor in Sensor), *(f"{sensor.value} map" for sensor in Sensor))
LEAST_SEEDS = 3
PALETTE = ("grey", "tab:green", "tab:purple", "tab:brown")


def curve_of(lines: Sequence[Mapping[str, Any]], whose: str) -> list[dict[str, Any]]:
    """The evaluations among the lines of a run's ``metrics.jsonl``.

    Args:
        lines: Of the run.
        whose: Named where there is none.

    Raises:
        BabelRSError: The run measured nothing.
    """
    measured = [line for line in lines if line.get("h_map") is not None]
    if not measured:
        raise BabelRSError(f"{whose}: nothing was measured.", "Set watch.evaluate_every.")
    return [{"step": e["step"], "h_map": e["h_map"], "sensors": e["evaluation"]["sensors"]} for e in measured]


def accuracies(record: Mapping[str, Any]) -> dict[str, float]:
    """What was measured at the end, by the names in ``ACCURACIES``."""
    last = record["curve"][-1]
    found = {"h_map": last["h_map"]}
    for sensor in Sensor:
        mean = last["sensors"][sensor.value]
        found |= {f"{sensor.value} ap50": mean["ap50"], f"{sensor.value} map": mean["ap"]}
    return found


def summary(
    records: Sequence[Mapping[str, Any]], measures: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> dict[str, Any]:
    """Mean and spread of every measure by arm, and the pairs of arms whose seeds separate.

    Two arms are separated in a measure where every seed of one is above every seed of the other, with at least three
    seeds each. ``compared`` says how many pairs could be, and how many of them would be among arms that are all alike:
    with three seeds each, one pair in ten.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for name, value in measures(record).items():
            values.setdefault(record["arm"], {}).setdefault(name, []).append(value)
    arms = {
        arm: {name: {"mean": statistics.mean(v), "spread": _spread(v), "seeds": len(v)} for name, v in found.items()}
        for arm, found in values.items()
    }
    names = dict.fromkeys(name for found in values.values() for name in found)
    separated = [
        {"measure": name, "higher": high, "lower": low}
        for name in names
        for high, low in itertools.permutations(values, 2)
        if _above(values[high].get(name, []), values[low].get(name, []))
    ]
    seeds = [
        (len(one.get(name, [])), len(other.get(name, [])))
        for name in names
        for one, other in itertools.combinations(values.values(), 2)
    ]
    counted = [pair for pair in seeds if min(pair) >= LEAST_SEEDS]
    by_chance = sum(2 / math.comb(sum(pair), pair[0]) for pair in counted)
    return {"arms": arms, "separated": separated, "compared": {"pairs": len(counted), "by_chance": by_chance}}


def _above(high: Sequence[float], low: Sequence[float]) -> bool:
    return min(len(high), len(low)) >= LEAST_SEEDS and min(high) > max(low)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def format_table(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Means and spreads by arm, accuracies in percent, and what the seeds separate."""
    arms = found["arms"]
    lines = ["".join([f"{'':<14}", *(f"{arm:>18}" for arm in arms)])]
    for name in names:
        factor = 100 if name in ACCURACIES else 1
        cells = [_cell(arm.get(name), factor) for arm in arms.values()]
        lines.append("".join([f"{name:<14}", *cells]))
    lines += [f"{each['measure']}: {each['higher']} above {each['lower']}" for each in found["separated"]]
    if not found["separated"]:
        lines.append("No two arms are separated by their seeds.")
    compared = found["compared"]
    chance = f"{compared['by_chance']:.1f} would be if all arms were alike"
    lines.append(f"{len(found['separated'])} of {compared['pairs']} pairs of arms are separated; {chance}.")
    return "\n".join([*lines, ""])


def _cell(value: Mapping[str, float] | None, factor: int) -> str:
    return f"{factor * value['mean']:>10.3f} +-{factor * value['spread']:>5.3f}" if value else f"{'-':>18}"


def by_arm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each arm, in order."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["arm"], []).append(record)
    return found


def draw_ends(axis: Any, records: Sequence[Record]) -> None:
    """H-mAP at the end, in percent: a dot a seed, and the mean."""
    arms = by_arm(records)
    for index, mine in enumerate(arms.values()):
        ends = [100 * record["curve"][-1]["h_map"] for record in mine]
        colour = PALETTE[index % len(PALETTE)]
        axis.plot([index] * len(ends), ends, "o", color=colour)
        axis.plot([index - 0.2, index + 0.2], [statistics.mean(ends)] * 2, color=colour)
    axis.set_xticks(range(len(arms)), list(arms))
    axis.set(title="H-mAP at the end, % (a dot a seed)", ylim=(0, None))


def draw_curves(axis: Any, records: Sequence[Record], against: str) -> None:
    """H-mAP in percent, a line a seed, against what the curves' points call ``against``."""
    for index, (arm, mine) in enumerate(by_arm(records).items()):
        for number, record in enumerate(mine):
            places, values = zip(*((point[against], 100 * point["h_map"]) for point in record["curve"]), strict=True)
            label = arm if number == 0 else None
            axis.plot(places, values, ".-", color=PALETTE[index % len(PALETTE)], lw=1, label=label)
    axis.set(title="H-mAP, %", ylim=(0, None))
    axis.legend(fontsize=8)
