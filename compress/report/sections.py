"""The tables of the page, ready for its template: what is shown, and ``report.json``'s own number beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from compress.report.cells import (
    MISSING,
    REFERENCE,
    SENSOR_LABELS,
    Column,
    accuracy_columns,
    cost_columns,
    signed,
    significant,
)
from compress.report.record import CalibratorResult, Part, PartPrecision, RangePoint, Report, Row

PRECISION_LABELS: dict[PartPrecision, str] = {"int8": "INT8", "fp16": "float16", "fp32": "float32"}
_MOST_APART = 8


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        text: As it is shown.
        value: As ``report.json`` has it, in JSON; empty where there is none.
        change: Against float32.
        worse: Whether more was lost than the limit allows for H-mAP.
        best: Whether it is the best of its column.
        path: Where it stands in its row of ``report.json``.
        label: Its column's heading.
    """

    text: str
    value: str
    change: str = ""
    worse: bool = False
    best: bool = False
    path: str = ""
    label: str = ""


@dataclass(frozen=True)
class PartRow:
    """One part: its name, its final state, and for each sensor the error with its colour's strength, 0 to 1."""

    name: str
    part: Part | None
    errors: tuple[tuple[Cell, float], ...]


@dataclass(frozen=True)
class Share:
    """A precision in use: percent of all weights, and number of parts."""

    precision: PartPrecision
    label: str
    percent: float
    num_parts: int


def table_columns(report: Report) -> list[Column]:
    """The columns that any row fills."""
    return [*accuracy_columns(report.sensors), *cost_columns(report.rows, report.sensors)]


def table_rows(report: Report) -> list[tuple[Row, list[Cell]]]:
    """Every row with its numbers, in the order of :func:`table_columns`."""
    columns = table_columns(report)
    return [(row, [_cell(report, column, row) for column in columns]) for row in report.rows]


def _cell(report: Report, column: Column, row: Row) -> Cell:
    value, reference, text = column.value(row), report.row(REFERENCE), column.text(row)
    cost = column.lower_is_better
    return Cell(
        text=text,
        value=_json(value),
        change=_factor(column, row, reference) if cost else column.change(row, reference),
        worse=not cost and column.loss(row, reference) > report.limit.max_hmap_drop,
        best=text == column.best(report.rows),
        path=column.path,
        label=column.label,
    )


def _factor(column: Column, row: Row, reference: Row | None) -> str:
    """Sizes and times relative to float32: a factor says more than a difference."""
    value, before = column.value(row), column.value(reference) if reference else None
    if value is None or not before or row is reference:
        return ""
    return f"\N{MULTIPLICATION SIGN}{value / before:.2f}"


def precision_shares(parts: Sequence[Part]) -> list[Share]:
    """What every precision in use makes of the model."""
    total = max(1, sum(part.num_weights for part in parts))
    shares = []
    for precision, label in PRECISION_LABELS.items():
        weights = [part.num_weights for part in parts if part.precision == precision]
        if weights:
            shares.append(Share(precision, label, 100 * sum(weights) / total, len(weights)))
    return shares


def part_rows(report: Report) -> list[PartRow]:
    """Every part that was measured or decided on, in the order of the computation."""
    decided = {part.name: part for part in report.parts}
    if report.sensitivity is None:
        return [PartRow(part.name, part, ()) for part in report.parts]
    measured = dict(zip(report.sensitivity.parts, report.sensitivity.values, strict=True))
    highest = max((value for row in measured.values() for value in row if value is not None), default=0.0)
    names = [*measured, *(name for name in decided if name not in measured)]
    nothing = (None,) * len(report.sensitivity.sensors)
    return [
        PartRow(name, decided.get(name), tuple(_heat(value, highest) for value in measured.get(name, nothing)))
        for name in names
    ]


def _heat(value: float | None, highest: float) -> tuple[Cell, float]:
    if value is None:
        return Cell(MISSING, ""), 0.0
    return Cell(significant(value, 2), _json(value)), (max(value, 0.0) / highest) ** 0.5 if highest > 0 else 0.0


def ranges_apart(points: Sequence[RangePoint]) -> list[tuple[RangePoint, float]]:
    """The points where the sensors' ranges differ most, and how many times."""
    factors = [
        (point, max(point.amax.values()) / min(point.amax.values()))
        for point in points
        if len(point.amax) > 1 and min(point.amax.values()) > 0
    ]
    return sorted(factors, key=lambda each: -each[1])[:_MOST_APART]


def calibrator_titles(report: Report) -> list[str]:
    """H-mAP and the sensors' mAP, the outputs' error, or both: what any calibrator was measured by."""
    averages = ["H-mAP", *(SENSOR_LABELS[sensor] for sensor in report.sensors)] if _has_accuracy(report) else []
    return averages + (["output error"] if _has_error(report) else [])


def calibrator_rows(report: Report) -> list[tuple[str, list[Cell]]]:
    """Every calibrator with its numbers, in the order of :func:`calibrator_titles`."""
    return [
        (one.calibrator, (_accuracies(report, one) if _has_accuracy(report) else []) + _errors(report, one))
        for one in report.calibrators
    ]


def _accuracies(report: Report, one: CalibratorResult) -> list[Cell]:
    reference = report.row(REFERENCE)
    cells = [_percent(one.h_map, reference.h_map if reference else None, 2)]
    for sensor in report.sensors:
        before = reference.sensors[sensor].ap if reference and sensor in reference.sensors else None
        cells.append(_percent((one.ap or {}).get(sensor), before, 1))
    return cells


def _percent(value: float | None, before: float | None, digits: int) -> Cell:
    if value is None:
        return Cell(MISSING, "")
    change = "" if before is None else signed(100 * (value - before), digits)
    return Cell(f"{100 * value:.{digits}f}", _json(value), change)


def _errors(report: Report, one: CalibratorResult) -> list[Cell]:
    if not _has_error(report):
        return []
    return [Cell(MISSING if one.error is None else significant(one.error, 3), _json(one.error))]


def _has_accuracy(report: Report) -> bool:
    return any(one.h_map is not None for one in report.calibrators)


def _has_error(report: Report) -> bool:
    return any(one.error is not None for one in report.calibrators)


def _json(value: float | None) -> str:
    return "" if value is None else json.dumps(value)
