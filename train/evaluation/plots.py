"""The plots of an evaluation. Matplotlib is loaded when the first is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.metrics import RECALL_POINTS
from babelrs.sensors import Sensor
from train.evaluation.confusion import Confusion
from train.evaluation.curves import Calibration, OperatingPoint, PrecisionRecall
from train.evaluation.sizes import SizeResult

COLUMNS = 4
SENSOR_COLOURS = {Sensor.RGB: "tab:blue", Sensor.SAR: "tab:green", Sensor.IR: "tab:red"}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(plt: Any, figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_precision_recall(
    sensor: Sensor, curves: Sequence[PrecisionRecall], point: OperatingPoint, mean_ap50: float, path: Path
) -> None:
    """Precision against recall at IoU 0.5, a line for each class, best first in the legend."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for index, curve in enumerate(sorted(curves, key=lambda one: -one.ap50)):
        style = ("-", "--", ":")[index // 10 % 3]  # ten colours, then they come again
        reached = np.isfinite(curve.score)
        label = f"{curve.name}  {100 * curve.ap50:.1f}"
        (line,) = axes.plot(100 * RECALL_POINTS[reached], 100 * curve.precision[reached], style, label=label)
        if reached.any():
            axes.plot(100 * RECALL_POINTS[reached][-1], 100 * curve.precision[reached][-1], ".", color=line.get_color())
    if math.isfinite(point.precision):
        label = f"all classes: best F1 {point.f1:.2f},\nscore {point.score:.2f}"
        axes.plot(100 * point.recall, 100 * point.precision, "k*", markersize=10, label=label)
    axes.set(
        xlim=(0, 101), ylim=(0, 102), xlabel="recall, %", ylabel="precision (envelope), %",
        title=f"{sensor.value.upper()}: precision and recall at IoU 0.5, mean AP50 {100 * mean_ap50:.1f} %",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", title="class, AP50 %", fontsize=8, frameon=False)
    _save(plt, figure, path)


def plot_sizes(results: Mapping[Sensor, Sequence[SizeResult]], path: Path) -> None:
    """Bars of AP50 and mAP by object size, a panel for each sensor, with the number of objects."""
    plt = _pyplot()
    figure, panels = plt.subplots(
        1, len(results), figsize=(4.6 * len(results), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (sensor, bins) in zip(panels[0], results.items(), strict=True):
        places = np.arange(len(bins))
        for offset, (key, label) in enumerate((("ap50", "AP50"), ("ap", "mAP (50:95)"))):
            values = [100 * getattr(one.precision, key) for one in bins]
            bars = axes.bar(places + 0.4 * offset - 0.2, np.nan_to_num(values), 0.38, label=label)
            axes.bar_label(bars, ["" if math.isnan(value) else f"{value:.1f}" for value in values], fontsize=7)
        axes.set_xticks(places, [f"{one.name}\n{_range(one)}\nn = {one.num_objects}" for one in bins], fontsize=8)
        axes.set(title=sensor.value.upper(), ylim=(0, 108), xlabel="square root of the area, px")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("average precision, %")
    panels[0][-1].legend(frameon=False, loc="upper left")
    figure.suptitle("Average precision by object size (n: objects)")
    _save(plt, figure, path)


def _range(one: SizeResult) -> str:
    if math.isinf(one.highest_px):
        return f"≥ {one.lowest_px:g}"
    return f"{one.lowest_px:g} to {one.highest_px:g}" if one.lowest_px else f"< {one.highest_px:g}"


def plot_false_alarms(
    rates: Sequence[float], recalls: Mapping[Sensor, Sequence[float]], images: Mapping[Sensor, int], path: Path
) -> None:
    """Recall against false alarms an image, logarithmic, a line for each sensor."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for sensor, values in recalls.items():
        label = f"{sensor.value.upper()}, {images[sensor]} images"
        axes.semilogx(rates, 100 * np.array(values), "-", color=SENSOR_COLOURS[sensor], label=label)
    axes.set(
        xlabel="false alarms per image", ylabel="recall of all classes, %", ylim=(0, 102), xlim=(rates[0], rates[-1]),
        title="Recall at fixed false alarms (IoU 0.5)",
    )  # fmt: skip
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    _save(plt, figure, path)


def plot_calibration(
    results: Mapping[Sensor, Calibration], points: Mapping[Sensor, OperatingPoint], path: Path
) -> None:
    """Above, how many detections of a score are right and wrong; below, the share that is right."""
    plt = _pyplot()
    figure, panels = plt.subplots(
        2, len(results), figsize=(4.6 * len(results), 6), sharex=True, squeeze=False, layout="constrained"
    )
    for (above, below), (sensor, one) in zip(panels.T, results.items(), strict=True):
        middle, width = (one.edges[1:] + one.edges[:-1]) / 2, np.diff(one.edges)
        above.bar(middle, one.wrong, width, color="tab:red", alpha=0.55, label="false alarms")
        above.bar(middle, one.right, width, color="tab:green", alpha=0.55, label="true positives")
        above.set(title=f"{sensor.value.upper()}: calibration error {one.error:.3f}")
        above.set_yscale("symlog", linthresh=1)
        total = one.right + one.wrong
        some = total > 0
        below.bar(middle[some], 100 * one.right[some] / total[some], width[some], color="tab:gray", alpha=0.7)
        below.plot([0, 1], [0, 100], "k--", linewidth=1, label="calibrated")
        below.set(xlabel="score", ylim=(0, 102), xlim=(0, 1))
        for axes in (above, below):
            axes.axvline(points[sensor].score, color="k", linestyle=":", linewidth=1.2, label="best F1")
    panels[0][0].set_ylabel("detections (logarithmic)")
    panels[1][0].set_ylabel("right at IoU 0.5, %")
    panels[0][-1].legend(frameon=False, fontsize=8)
    panels[1][-1].legend(frameon=False, fontsize=8, loc="upper left")
    _save(plt, figure, path)


def plot_confusion(sensor: Sensor, result: Confusion, path: Path) -> None:
    """The table as a picture: counts, coloured by their share of the row."""
    plt = _pyplot()
    count = len(result.classes)
    side = max(4.5, 0.62 * (count + 1) + 2)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    totals = result.table.sum(axis=1, keepdims=True)
    share = np.divide(100 * result.table, totals, out=np.zeros(result.table.shape), where=totals > 0)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(result.table > 0):
        colour = "white" if share[row, column] > 60 else "black"
        axes.text(
            column, row, f"{result.table[row, column]}", ha="center", va="center", fontsize=8, color=colour
        )  # fmt: skip
    axes.set_xticks(range(count + 1), [*result.classes, "missed"], rotation=45, ha="right")
    axes.set_yticks(range(count + 1), [*result.classes, "nothing there"])
    axes.axhline(count - 0.5, color="black", linewidth=1)
    axes.axvline(count - 0.5, color="black", linewidth=1)
    axes.set(xlabel="detected as", ylabel="true class")
    axes.set_title(f"{sensor.value.upper()}: confusion, score from {result.score:.2f}, IoU 0.5", fontsize=10)
    figure.colorbar(picture, label="share of the row, %", shrink=0.8)
    _save(plt, figure, path)


def plot_sheet(pictures: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str], title: str, path: Path) -> None:
    """Pictures in rows of four, each under its caption."""
    plt = _pyplot()
    columns = min(COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(max(6.5, 2.9 * columns), 3.3 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axes in panels.flat:
        axes.axis("off")
    for axes, picture, caption in zip(panels.flat, pictures, captions, strict=False):
        axes.imshow(picture)
        axes.set_title(caption, fontsize=8)
    figure.suptitle(title, fontsize=9, wrap=True)
    _save(plt, figure, path)
