"""The plots of the page, as SVG that takes its colours from the page: light and dark from one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from babelrs.sensors import Sensor
from compress.report.canvas import INK, LINE, MUTED, SURFACE, Canvas
from compress.report.cells import ROW_LABELS, SENSOR_LABELS, significant
from compress.report.record import CalibratorResult, RangePoint, Report, Row
from train.run_plots import COLOURS

Axes = Any

_ROW_HEIGHT_IN = 0.34
_MOST_PART_NAMES = 22
_LOSS_TICKS = (-10, -5, -2, 0, 1, 2, 5, 10, 20, 50, 100)  # points
_MARKERS = {Sensor.RGB: "o", Sensor.SAR: "s", Sensor.IR: "^"}


def accuracy_plot(report: Report, sensor: Sensor) -> str:
    """AP50 and mAP of one sensor, two bars a row."""
    rows = [row for row in report.rows if sensor in row.sensors]
    with Canvas(f"accuracy-{sensor}", 0.75 + 1.15 * _ROW_HEIGHT_IN * len(rows)) as canvas:
        axes = canvas.axes
        for offset, (key, label, alpha) in enumerate((("ap50", "AP50", 0.38), ("ap", "mAP (50:95)", 1.0))):
            values = [100 * (getattr(row.sensors[sensor], key) or 0.0) for row in rows]
            places = np.arange(len(rows)) + 0.38 * offset - 0.19
            axes.barh(places, values, 0.34, color=SURFACE)  # no grid shines through
            bars = axes.barh(places, values, 0.34, color=COLOURS[sensor.value], alpha=alpha, label=label)
            axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=7.5)
        _label_rows(axes, [ROW_LABELS[row.name] for row in rows])
        axes.set(title=SENSOR_LABELS[sensor], xlabel="average precision, %")
        axes.margins(x=0.12)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.2)
    return canvas.svg(f"Bars of AP50 and mAP of {SENSOR_LABELS[sensor]} for every row of the table")


def losses_plot(report: Report) -> str:
    """Points that every row lost against float32: a mark for each sensor's mAP and one for H-mAP."""
    before = report.row("float32")
    assert before is not None, "losses are against float32"
    rows = [row for row in report.rows if row is not before]
    losses = [({sensor: _lost(before, row, sensor) for sensor in report.sensors}, _lost(before, row)) for row in rows]
    return _loss_marks(
        "losses", "Lost against float32", [ROW_LABELS[row.name] for row in rows], losses, report.limit.max_hmap_drop
    )


def calibrator_plots(report: Report) -> list[str]:
    """The same for every calibrator that AP was measured of; where there is none, bars of the outputs' error."""
    before, measured = report.row("float32"), [one for one in report.calibrators if one.h_map is not None]
    if before is None or not measured:
        erring = [one for one in report.calibrators if one.error is not None]
        return [_errors_plot(erring)] if erring else []
    losses = [
        (
            {sensor: _points(_ap(before, sensor), (one.ap or {}).get(sensor)) for sensor in report.sensors},
            _points(before.h_map, one.h_map),
        )
        for one in measured
    ]
    names = [one.calibrator for one in measured]
    return [
        _loss_marks("calibrators", "Lost against float32, by calibrator", names, losses, report.limit.max_hmap_drop)
    ]


def ranges_plot(points: Sequence[RangePoint]) -> str:
    """The largest value that INT8 keeps, by sensor, over depth."""
    from matplotlib.ticker import LogLocator

    with Canvas("ranges", 2.9) as canvas:
        axes = canvas.axes
        for sensor in _sensors_of(points):
            axes.plot(_series(points, sensor), ".-", color=COLOURS[sensor.value], lw=1.1, ms=2.5, label=_name(sensor))
        axes.set(yscale="log", ylabel="largest value kept", title="Activation ranges")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(axis="y")
        _label_parts(axes, points)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.2)
    return canvas.svg("Activation ranges of every sensor over the depth of the model, logarithmic")


def ratio_plot(points: Sequence[RangePoint]) -> str:
    """Each sensor's own range over the pooled one: half of it wastes one bit of eight."""
    with Canvas("ratio", 2.9) as canvas:
        axes = canvas.axes
        pooled = np.array([pooled_range(point) for point in points])
        for sensor in _sensors_of(points):
            axes.plot(_series(points, sensor) / pooled, ".-", color=COLOURS[sensor.value], lw=1.1, ms=2.5)
        axes.axhline(1, color=MUTED, lw=0.8, ls=(0, (4, 3)))
        axes.set_yscale("log", base=2)
        lowest = min(-1, int(np.floor(np.log2(min(_ratios(points), default=0.5)))))
        bits = list(range(0, lowest - 1, -1 if lowest > -5 else -2))
        axes.set_yticks([2.0**bit for bit in bits], [_bits_text(-bit) for bit in bits])
        axes.minorticks_off()
        axes.set(title="Own range over the pooled range")
        axes.grid(axis="y")
        _label_parts(axes, points)
    return canvas.svg("Each sensor's own range divided by the pooled range over the depth of the model")


def size_plot(rows: Sequence[Row], final: str | None) -> str:
    """Size of every row's files; the bundle's stands out."""
    sized = [row for row in rows if row.size_bytes is not None]
    with Canvas("size", 0.65 + 0.85 * _ROW_HEIGHT_IN * len(sized)) as canvas:
        axes = canvas.axes
        values = [(row.size_bytes or 0) / 1e6 for row in sized]
        colours = [INK if row.name == final else MUTED for row in sized]
        axes.barh(range(len(sized)), values, 0.5, color=SURFACE)  # no grid shines through
        bars = axes.barh(range(len(sized)), values, 0.5, color=colours)
        for bar, row in zip(bars, sized, strict=True):
            bar.set_alpha(0.9 if row.name == final else 0.4)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=7.5)
        _label_rows(axes, [ROW_LABELS[row.name] for row in sized])
        axes.set(title="Size", xlabel="graphs and weights, MB")
        axes.margins(x=0.12)
    return canvas.svg("Bars of the size of every row's graphs and weights")


def latency_plot(rows: Sequence[Row], sensors: Sequence[Sensor]) -> str:
    """Latency of every row, a bar for each sensor."""
    timed = [row for row in rows if row.latency_ms]
    step = 0.8 / len(sensors)
    with Canvas("latency", 0.75 + 1.4 * _ROW_HEIGHT_IN * len(timed)) as canvas:
        axes = canvas.axes
        for number, sensor in enumerate(sensors):
            values = [(row.latency_ms or {}).get(sensor, 0.0) for row in timed]
            places = np.arange(len(timed)) + step * (number - (len(sensors) - 1) / 2)
            bars = axes.barh(places, values, 0.88 * step, color=COLOURS[sensor.value], label=_name(sensor))
            axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=7)
        _label_rows(axes, [ROW_LABELS[row.name] for row in timed])
        axes.set(title="Latency", xlabel="one inference, ms")
        axes.margins(x=0.12)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.2)
    return canvas.svg("Bars of the latency of every row by sensor")


def pooled_range(point: RangePoint) -> float:
    """The pooled range, or the largest of any sensor where it was not calibrated; NaN instead of 0."""
    value = max(point.amax.values()) if point.pooled is None else point.pooled
    return value if value > 0 else float("nan")


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.invert_yaxis()
    axes.grid(axis="x")


def _label_parts(axes: Axes, points: Sequence[RangePoint]) -> None:
    """A line where a part begins, its name below its middle."""
    starts = [n for n, point in enumerate(points) if n == 0 or point.part != points[n - 1].part]
    ends = [*starts[1:], len(points)]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=LINE, lw=0.6)
    ticks: dict[float, str] = {}
    for start, end in zip(starts, ends, strict=True):
        middle = (start + end - 1) / 2
        if not ticks or middle - max(ticks) >= len(points) / _MOST_PART_NAMES:
            ticks[middle] = ".".join(points[start].part.split(".")[-2:])
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=50, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(points) - 0.5)


def _loss_marks(
    name: str, title: str, labels: Sequence[str], losses: Sequence[tuple[Mapping[Sensor, float], float]], limit: float
) -> str:
    """Marks of points lost (fractions times 100), a line for each label; NaN is left out."""
    everything = [value for parts, whole in losses for value in (*parts.values(), whole) if np.isfinite(value)]
    with Canvas(name, 0.95 + 0.95 * _ROW_HEIGHT_IN * len(labels)) as canvas:
        axes = canvas.axes
        sensors = [sensor for sensor in Sensor if any(sensor in parts for parts, _ in losses)]
        for number, sensor in enumerate(sensors):
            places = np.arange(len(labels)) + 0.2 * (number - (len(sensors) - 1) / 2)
            values = [parts.get(sensor, float("nan")) for parts, _ in losses]
            style: Any = {"color": COLOURS[sensor.value], "ms": 4.5, "mew": 0, "label": f"{_name(sensor)} mAP"}
            axes.plot(values, places, _MARKERS[sensor], **style)
        axes.plot([whole for _, whole in losses], np.arange(len(labels)), "D", color=INK, ms=5, mew=0, label="H-mAP")
        axes.axvspan(min([*everything, 0.0]) - 1e3, limit, color=LINE, alpha=0.35, lw=0)
        axes.axvline(limit, color=INK, lw=0.9, ls=(0, (4, 3)))
        _scale_losses(axes, everything, limit)
        axes.set_ylim(-0.5, len(labels) - 0.5)
        _label_rows(axes, labels)
        axes.set_title(title)
        canvas.figure.legend(loc="outside lower right", ncols=4, columnspacing=1.0, handletextpad=0.1)
    return canvas.svg(f"{title}: points of mAP by sensor and of H-mAP, with the limit of {limit:g}")


def _scale_losses(axes: Axes, losses: Sequence[float], limit: float) -> None:
    """Linear near the limit, logarithmic beyond where one row lost far more than is allowed."""
    low, high = min([*losses, 0.0]), max([*losses, 1.2 * limit, 0.1])
    far = high > 8 * max(limit, 0.1)
    if far:
        linear = max(2 * limit, 0.2)
        axes.set_xscale("symlog", linthresh=linear, linscale=1.2)
        ticks = [tick for tick in sorted({limit, *_LOSS_TICKS}) if low - 0.3 <= tick <= 1.3 * high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlim(low - 0.12 * (limit + abs(low)), 1.25 * high if far else high + 0.08 * (high - low))
    axes.set_xlabel("points lost; dashed: the limit" + ("; logarithmic far right of it" if far else ""))


def _errors_plot(calibrators: Sequence[CalibratorResult]) -> str:
    with Canvas("calibrators", 0.65 + 0.85 * _ROW_HEIGHT_IN * len(calibrators)) as canvas:
        errors = [one.error or 0.0 for one in calibrators]
        bars = canvas.axes.barh(range(len(calibrators)), errors, 0.5, color=MUTED, alpha=0.6)
        canvas.axes.bar_label(bars, [significant(error, 3) for error in errors], padding=3, fontsize=7.5)
        _label_rows(canvas.axes, [one.calibrator for one in calibrators])
        canvas.axes.set(title="Calibrators", xlabel="error of the outputs")
        canvas.axes.margins(x=0.14)
    return canvas.svg("Bars of the outputs' error by calibrator")


def _sensors_of(points: Sequence[RangePoint]) -> list[Sensor]:
    return [sensor for sensor in Sensor if any(sensor in point.amax for point in points)]


def _series(points: Sequence[RangePoint], sensor: Sensor) -> Any:
    """``(P,)`` the sensor's ranges; NaN where it has none or one of 0, which no logarithm shows."""
    return np.array([point.amax.get(sensor) or float("nan") for point in points])


def _ratios(points: Sequence[RangePoint]) -> list[float]:
    values = [amax / pooled_range(point) for point in points for amax in point.amax.values() if amax > 0]
    return [value for value in values if np.isfinite(value)]


def _bits_text(bits: int) -> str:
    if bits == 0:
        return "1"
    return f"1/{2**bits}: {bits} bit{'s' if bits > 1 else ''} lost"


def _name(sensor: Sensor) -> str:
    return SENSOR_LABELS[sensor]


def _ap(row: Row, sensor: Sensor) -> float | None:
    return row.sensors[sensor].ap if sensor in row.sensors else None


def _lost(before: Row, row: Row, sensor: Sensor | None = None) -> float:
    return _points(before.h_map, row.h_map) if sensor is None else _points(_ap(before, sensor), _ap(row, sensor))


def _points(before: float | None, after: float | None) -> float:
    return float("nan") if before is None or after is None else 100 * (before - after)
