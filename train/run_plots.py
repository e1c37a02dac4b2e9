"""Pictures of a run's course, from its ``metrics.jsonl`` alone: losses, gradients and their agreement, accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from babelrs.sensors import Sensor

Panel = Callable[[Any, Sequence[Mapping[str, Any]]], None]
"""Draws lines of ``metrics.jsonl`` on matplotlib's axes."""
COLOURS = {"rgb": "tab:blue", "sar": "tab:orange", "ir": "tab:red"}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; one that a kill cut off is left out."""
    lines = []
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def plot_run(lines: Sequence[Mapping[str, Any]], path: Path, more: Sequence[Panel] = ()) -> None:
    """Write one picture with a panel for every quantity that was logged.

    Args:
        lines: Of ``metrics.jsonl``.
        path: Of the picture.
        more: Further panels, which draw the lines of steps.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [line for line in lines if "gradient_norm" in line]
    panels: list[Panel] = [_losses, *more, _gradient_norm]
    panels += [_agreement] if any("agreement" in line for line in steps) else []
    panels += [_loss_scale] if any(line["loss_scale"] != 1 for line in steps) else []
    panels += [_accuracy] if any("h_map" in line for line in lines) else []
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 2.6 * len(panels)), layout="constrained", squeeze=False)
    for panel, axis in zip(panels, axes[:, 0], strict=True):
        panel(axis, lines if panel is _accuracy else steps)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("optimiser step")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_part(axis: Any, lines: Sequence[Mapping[str, Any]], part: str) -> None:
    """A curve for every sensor of what the lines call ``part``."""
    for sensor in Sensor:
        drawn = [(line["step"], line[sensor.value][part]) for line in lines if sensor.value in line]
        if drawn:
            axis.plot(*zip(*drawn, strict=True), color=COLOURS[sensor.value], lw=1, label=sensor.value)
    axis.legend(loc="upper right", fontsize=8)


def _losses(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    plot_part(axis, lines, "total")
    axis.set(ylabel="total loss", yscale="log")


def _gradient_norm(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    axis.plot([line["step"] for line in lines], [line["gradient_norm"] for line in lines], color="black", lw=0.8)
    axis.set(ylabel="gradient norm\nbefore clipping", yscale="log")


def _agreement(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    looked = [line for line in lines if "agreement" in line]
    for pair in sorted(key for key in looked[0]["agreement"] if key.startswith("cosine.")):
        cosines = [line["agreement"].get(pair) for line in looked]
        axis.plot([line["step"] for line in looked], cosines, marker=".", lw=0.8, label=pair[len("cosine.") :])
    axis.axhline(0, color="black", lw=0.6)
    axis.set(ylabel="cosine of the sensors'\nbackbone gradients")
    axis.legend(loc="upper right", fontsize=8)


def _loss_scale(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    axis.step([line["step"] for line in lines], [line["loss_scale"] for line in lines], where="post", lw=0.8)
    skipped = [line for line in lines if line["skipped"]]
    axis.plot(
        [line["step"] for line in skipped], [line["loss_scale"] for line in skipped], "rx", ms=4, label="step skipped"
    )
    axis.set(ylabel="fp16 loss scale", yscale="log")
    axis.legend(loc="upper right", fontsize=8)


def _accuracy(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    measured = [line for line in lines if line.get("h_map") is not None]
    steps = [line["step"] for line in measured]
    axis.plot(steps, [100 * line["h_map"] for line in measured], "k.-", label="H-mAP")
    for sensor in Sensor:
        values = [line["evaluation"]["sensors"].get(sensor.value, {}).get("ap50") for line in measured]
        if any(value is not None for value in values):
            scaled = [float("nan") if value is None else 100 * value for value in values]
            axis.plot(steps, scaled, ".--", color=COLOURS[sensor.value], lw=0.8, label=f"{sensor} AP50")
    axis.set(ylabel="on the eval split, %", ylim=(0, None))
    axis.legend(loc="upper left", fontsize=8)
