"""What a measurement of alignment leaves: ``alignment.json``, and the table on standard output."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babelrs import __version__
from babelrs.sensors import Sensor
from train.alignment.config import NOT_REPEATED, AlignConfig
from train.alignment.features import LabelledImages, Objects
from train.alignment.gradients import GradientCosines, summary
from train.alignment.measures import (
    FORMS,
    SETS,
    ConceptSet,
    Form,
    PairMeasures,
    or_none,
    pair_means,
    to_record,
    what_cannot_be_measured,
)
from train.alignment.resampling import MEAN, WATCHED, Change, Key

SCHEMA = "babelrs.alignment/1"
RESULT, PLOT = "alignment.json", "alignment.png"


@dataclass(frozen=True)
class Result:
    """One side of the comparison, measured.

    Attributes:
        provenance: Where its backbone came from.
        objects: Features by sensor.
        pairs: How near they lie, by pair of sensors.
        gradients: Their detection gradients; none where these were not asked for.
    """

    provenance: dict[str, Any]
    objects: dict[Sensor, Objects]
    pairs: dict[str, PairMeasures]
    gradients: GradientCosines | None


def notes_of(results: Mapping[str, Result]) -> list[str]:
    """What the numbers do not say, in words: what cannot be measured, and where the two sides are not alike."""
    notes = what_cannot_be_measured(results["after"].objects)
    heads = {name: result.gradients.heads for name, result in results.items() if result.gradients is not None}
    if len(set(heads.values())) > 1:
        sides = "; ".join(f"{name}: {words}" for name, words in heads.items())
        notes.append(f"The gradients are of unlike heads ({sides}); new_heads makes them alike.")
    return notes


def write_numbers(
    results: Mapping[str, Result],
    change: Mapping[Key, Change],
    images: Mapping[Sensor, LabelledImages],
    config: AlignConfig,
    folder: Path,
) -> None:
    """Write :data:`RESULT`, aside and renamed.

    Args:
        results: ``before`` and ``after``.
        change: From one to the other.
        images: What was looked at.
        config: Settings; those that name places on this machine are left out.
        folder: Is made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "settings": config.model_dump(mode="json", exclude=NOT_REPEATED),
        "objects": {
            sensor.value: _counts(labelled, results["after"].objects[sensor]) for sensor, labelled in images.items()
        },
        "notes": notes_of(results),
        "change": _changes(change),
        **{name: _record(result) for name, result in results.items()},
    }
    aside = folder / (RESULT + ".part")
    aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(aside, folder / RESULT)


def _counts(labelled: LabelledImages, seen: Objects) -> dict[str, Any]:
    return {
        "images": len(labelled.samples),
        "concepts": dict(sorted(Counter(seen.concepts).items())),
        "left_out": {
            "ignored": labelled.ignored,
            "too_few_of_the_concept": labelled.rare,
            "centre_outside_image": sum(labelled.counts.values()) - len(seen.concepts),
        },
    }


def _changes(change: Mapping[Key, Change]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (pair, concepts, form, name), one in change.items():
        inner = found.setdefault(pair, {}).setdefault(concepts, {}).setdefault(form, {})
        inner[name] = {field: or_none(value) for field, value in vars(one).items()}
    return found


def _record(result: Result) -> dict[str, Any]:
    pairs = {**result.pairs, MEAN: pair_means(result.pairs)}
    return {
        "weights": result.provenance,
        "features": {name: to_record(pair) for name, pair in pairs.items()},
        "gradients": None if result.gradients is None else result.gradients.to_record(),
    }


def format_table(
    results: Mapping[str, Result], change: Mapping[Key, Change], images: Mapping[Sensor, LabelledImages]
) -> str:
    """Before and after side by side, their difference, then what cannot be measured.

    The lines of all concepts are left out where all are shared.
    """
    lines = [
        f"{sensor}: " + ", ".join(f"{concept} {count}" for concept, count in labelled.counts.items())
        for sensor, labelled in images.items()
    ]
    lines += ["", "cosines of concept centroids across two sensors; accuracy: nearest centroid of the other (chance)"]
    lines += _feature_lines(results)
    lines += ["", "after - before, with 95 % intervals over the images"]
    lines += _change_lines(results["after"].pairs, change)
    if all(result.gradients is not None for result in results.values()):
        lines += ["", "cosines of the sensors' detection gradients on the shared backbone"]
        lines += _gradient_lines(results)
    return "\n".join([*lines, *(f"\nnote: {note}" for note in notes_of(results))])


def _feature_lines(results: Mapping[str, Result]) -> list[str]:
    sides = [{**result.pairs, MEAN: pair_means(result.pairs)} for result in results.values()]
    columns = f"{'same':>7}{'differ.':>8}{'margin':>8}{'accuracy':>16}{'gap':>7}"
    lines = [
        " " * len(_row("", "", "")) + "".join(f"{name:^46}" for name in results),
        _row("pair", "concepts", "form") + columns * len(sides),
    ]
    for pair, concepts, form in _rows(sides[0]):
        lines.append(_row(pair, concepts, form) + "".join(_cells(side[pair], concepts, form) for side in sides))
    return lines


def _rows(pairs: Mapping[str, PairMeasures]) -> list[tuple[str, ConceptSet, Form]]:
    """Pair, set and form of each line; ``all`` only where it is another set than ``shared``."""
    return [
        (pair, concepts, form)
        for pair, measured in pairs.items()
        for concepts in SETS
        if concepts == "shared" or measured.concepts["all"] != measured.concepts["shared"]
        for form in FORMS
    ]


def _row(pair: str, concepts: str, form: str) -> str:
    return f"{pair:<9}{concepts:<10}{form:<8}"


def _cells(pair: PairMeasures, concepts: ConceptSet, form: Form) -> str:
    one = pair.closeness[concepts, form]
    guess = f"{_number(one.accuracy)} ({_number(one.chance)})"
    gap = _number(pair.gaps[concepts]) if form == "raw" else ""
    return f"{_number(one.same):>7}{_number(one.different):>8}{_number(one.margin):>8}{guess:>16}{gap:>7}"


def _change_lines(pairs: Mapping[str, PairMeasures], change: Mapping[Key, Change]) -> list[str]:
    lines = [_row("pair", "concepts", "form") + "".join(f"{name:>24}" for name in WATCHED)]
    for pair, concepts, form in _rows({**pairs, MEAN: pair_means(pairs)}):
        cells = []
        for name in WATCHED:
            one = change[pair, concepts, form, name]
            interval = f" [{one.low:.3f}, {one.high:.3f}]" if math.isfinite(one.low) else ""
            cells.append(f"{_number(one.value) + interval:>24}")
        lines.append(_row(pair, concepts, form) + "".join(cells))
    return lines


def _gradient_lines(results: Mapping[str, Result]) -> list[str]:
    sides = {name: result.gradients.cosines for name, result in results.items() if result.gradients is not None}
    lines = [f"{'pair':<9}" + "".join(f"{name + ': mean':>15}{'std':>7}{'negative':>10}" for name in sides)]
    for pair in next(iter(sides.values())):
        cells = []
        for cosines in sides.values():
            one = summary(cosines.get(pair, []))
            share = one["negative_share"]
            percent = "-" if share is None else f"{100 * share:.0f} %"
            cells.append(f"{_optional(one['mean']):>15}{_optional(one['std']):>7}{percent:>10}")
        lines.append(f"{pair:<9}" + "".join(cells))
    return lines


def _optional(value: float | None) -> str:
    return "-" if value is None else _number(value)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
