"""The columns of the table of rows: what each shows, in which unit, rounded how; for the page and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from babelrs.sensors import Sensor
from compress.report.record import Row, RowName

ROW_LABELS: dict[RowName, str] = {
    "float32": "float32",
    "float16": "float16",
    "naive": "INT8, ranges of RGB",
    "pooled": "INT8, pooled ranges",
    "per-sensor": "INT8, per sensor",
    "mixed": "INT8 and float, mixed",
}
ROW_NOTES: dict[RowName, str] = {
    "float32": "what was trained",
    "float16": "every part in float16",
    "naive": "calibrated on RGB images only",
    "pooled": "one set of ranges from all sensors",
    "per-sensor": "each sensor's own ranges",
    "mixed": "the most hurtful parts in float",
}
MISSING = "\N{EN DASH}"
REFERENCE: RowName = "float32"
SENSOR_LABELS = {sensor: sensor.value.upper() for sensor in Sensor}


@dataclass(frozen=True)
class Column:
    """One number of a row.

    Attributes:
        path: Keys from the row in ``report.json`` to the number, joined by ``/``.
        group: Heading over several columns.
        title: Heading.
        label: Both in one, for where there is no heading above.
        value: The number as ``report.json`` has it.
        factor: From that to the shown unit.
        digits: Shown after the decimal point.
        lower_is_better: Whether the least is the best.
    """

    path: str
    group: str
    title: str
    label: str
    value: Callable[[Row], float | None]
    factor: float
    digits: int
    lower_is_better: bool = False

    def text(self, row: Row) -> str:
        """The number as it is shown; a dash where there is none."""
        return self.shown(self.value(row))

    def shown(self, value: float | None) -> str:
        """``value`` in the column's unit, rounded."""
        return MISSING if value is None else f"{self.factor * value:.{self.digits}f}"

    def change(self, row: Row, reference: Row | None) -> str:
        """Difference to the reference in the column's unit, signed; empty where there is none to show."""
        value, before = self.value(row), self.value(reference) if reference else None
        if value is None or before is None or row.name == REFERENCE:
            return ""
        return signed(self.factor * (value - before), self.digits)

    def loss(self, row: Row, reference: Row | None) -> float:
        """What the row lost against the reference in the column's unit; 0 where that is unknown."""
        value, before = self.value(row), self.value(reference) if reference else None
        return 0.0 if value is None or before is None else self.factor * (before - value)

    def best(self, rows: Sequence[Row]) -> str:
        """The best number of all rows as it is shown; empty unless two rows differ in it."""
        values = [value for row in rows if (value := self.value(row)) is not None]
        if len({self.shown(value) for value in values}) < 2:
            return ""
        return self.shown(min(values) if self.lower_is_better else max(values))


def signed(number: float, digits: int) -> str:
    """``number`` with its sign, rounded; ``±0`` where nothing is left."""
    text = f"{number:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text if any(digit in "123456789" for digit in text) else "±0"


def significant(number: float, digits: int) -> str:
    """``number`` with that many significant digits, trailing zeros kept, whole from 100 on."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.{digits}g}".rstrip(".")


def accuracy_columns(sensors: Sequence[Sensor]) -> list[Column]:
    """AP50 and mAP of each sensor and of all, then H-mAP; in percent."""
    columns = []
    for sensor in sensors:
        for key, title in (("ap50", "AP50"), ("ap", "mAP")):
            path, group = f"sensors/{sensor.value}/{key}", SENSOR_LABELS[sensor]
            columns.append(Column(path, group, title, f"{group} {title}", _of_sensor(sensor, key), 100, 1))
    columns.append(Column("overall/ap50", "all", "AP50", "all AP50", lambda row: row.overall.ap50, 100, 1))
    columns.append(Column("overall/ap", "all", "mAP", "all mAP", lambda row: row.overall.ap, 100, 1))
    return [*columns, Column("h_map", "", "H-mAP", "H-mAP", lambda row: row.h_map, 100, 2)]


def cost_columns(rows: Sequence[Row], sensors: Sequence[Sensor]) -> list[Column]:
    """Size, MB, and latency by sensor, ms; those that any row has."""
    columns = []
    if any(row.size_bytes is not None for row in rows):
        columns.append(Column("size_bytes", "size", "MB", "MB", lambda row: row.size_bytes, 1e-6, 2, True))
    for sensor in sensors:
        value = _latency(sensor)
        if any(value(row) is not None for row in rows):
            path = f"latency_ms/{sensor.value}"
            title = SENSOR_LABELS[sensor]
            columns.append(Column(path, "latency, ms", title, f"{title} ms", value, 1, 1, True))
    return columns


def _of_sensor(sensor: Sensor, key: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.sensors[sensor], key) if sensor in row.sensors else None


def _latency(sensor: Sensor) -> Callable[[Row], float | None]:
    return lambda row: (row.latency_ms or {}).get(sensor)
