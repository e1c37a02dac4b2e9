"""The roofline plot: what a device could attain at an arithmetic intensity, and where a bundle's graphs lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prediction import Prediction, planned_ms
from train.run_plots import COLOURS

MOST_COLUMNS = 4
SHADES = {"int8": "black", "fp16": "0.45", "fp32": "0.68"}
"""Roofs by precision."""
MARKER_SIZES = {"rgb": 11, "sar": 7.5, "ir": 4}
"""One inside the other: the sensors' graphs differ little."""
LEAST_INTENSITY, MOST_INTENSITY = 0.3, 6e3


def plot(found: Sequence[Prediction], title: str, path: Path) -> None:
    """A panel for every target: roofs by precision, graphs as points at their predicted rate, kernels behind them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(each.target.name for each in found))
    columns = min(MOST_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.8 + 3.6 * columns, 1 + 3.2 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        _panel(axis, [each for each in found if each.target.name == name])
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(names) - columns) : len(names)]:
        axis.tick_params(labelbottom=True)  # nothing below
    figure.suptitle(f"Predicted, not measured: {title}")
    figure.supxlabel("operations for a byte moved", fontsize=10)
    figure.supylabel("operations a second", fontsize=10)
    spare = axes.flat[-1] if len(names) < rows * columns else None
    place: dict[str, Any] = {"loc": "center"} if spare is not None else {"loc": "outside right center"}
    (spare or figure).legend(handles=_legend(found), frameon=False, fontsize=8, **place)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, found: Sequence[Prediction]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator

    _roofs(axis, found)
    _kernels(axis, max(found, key=lambda each: (-each.batch, each.planned_ms)))
    for each in found:
        intensity = each.operations / each.cost.moved_bytes
        floor, planned = (1e3 * each.operations / time for time in (each.floor_ms, each.planned_ms))
        colour, size = COLOURS[each.sensor.value], MARKER_SIZES[each.sensor.value]
        marker = "o" if each.batch == 1 else "s"
        axis.plot([intensity] * 2, [floor, planned], color=colour, lw=0.8)
        axis.plot(intensity, floor, marker, mfc="white", mec=colour, ms=size, mew=1)
        axis.plot(intensity, planned, marker, color=colour, ms=size, mew=0)
    for line, each in enumerate(sorted(found, key=lambda each: each.batch)):
        digits = 2 if each.planned_ms < 10 else 1 if each.planned_ms < 100 else 0
        text = f"{each.sensor} {each.planned_ms:.{digits}f} ms" + (f" for {each.batch}" if each.batch > 1 else "")
        axis.text(0.03, 0.96 - 0.055 * line, text, transform=axis.transAxes, fontsize=7, va="top",
                  color=COLOURS[each.sensor.value])  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(LEAST_INTENSITY, MOST_INTENSITY))
    axis.set_title(found[0].target.name, fontsize=10)
    axis.yaxis.set_major_locator(LogLocator(numticks=12))
    axis.yaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _roofs(axis: Any, found: Sequence[Prediction]) -> None:
    target = found[0].target
    intensities = np.logspace(np.log10(LEAST_INTENSITY), np.log10(MOST_INTENSITY), 300)
    memory = intensities * target.bandwidth_gb_s * 1e9
    for precision in target.precisions:
        peak, shade = target.peak(precision), SHADES[precision]
        axis.plot(intensities, np.minimum(memory, peak), color=shade, lw=1.2)
        planned = np.minimum(memory * target.bandwidth_share, peak * target.peak_share)
        axis.plot(intensities, planned, "--", color=shade, lw=0.9)
        axis.annotate(
            precision, (MOST_INTENSITY, peak), (-3, 3), textcoords="offset points", ha="right", fontsize=7,
            bbox={"fc": "white", "ec": "none", "pad": 0.3},
        )  # fmt: skip
    least = 1e3 * min(each.operations / each.planned_ms for each in found)
    axis.set_ylim(min(memory[0], least) / 2, 4 * max(map(target.peak, target.precisions)))


def _kernels(axis: Any, prediction: Prediction) -> None:
    """The kernels of one graph, as large as their share of its time."""
    for kernel in prediction.cost.kernels:
        count, time = sum(kernel.operations.values()), planned_ms(kernel, prediction.target)
        if count:
            share = time / prediction.planned_ms
            rate = 1e3 * count / time
            axis.scatter(count / kernel.moved_bytes, rate, s=800 * share, color="tab:green", alpha=0.3, lw=0)


def _legend(found: Sequence[Prediction]) -> list[Any]:
    from matplotlib.lines import Line2D

    sensors = dict.fromkeys(each.sensor.value for each in found)
    marks = [
        Line2D([], [], color="black", label="roofs, from public figures"),
        Line2D([], [], color="black", ls="--", label="the shares to count on"),
        *(
            Line2D([], [], color=COLOURS[name], marker="o", ms=MARKER_SIZES[name], ls="", label=f"{name}, predicted")
            for name in sensors
        ),
        Line2D([], [], color="gray", marker="o", mfc="white", ls="", label="the same, predicted floor"),
        Line2D([], [], color="tab:green", marker="o", alpha=0.3, ls="", label="slowest graph's kernels, by time"),
    ]
    if any(each.batch > 1 for each in found):
        marks.append(Line2D([], [], color="gray", marker="s", ls="", label="the target's best batch"))
    return marks
