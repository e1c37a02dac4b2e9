"""The picture of a measurement of alignment. Matplotlib is loaded when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train.alignment.measures import FORMS, ConceptSet, Form, centroid_cosines, pair_means
from train.alignment.report import Result

COLOURS = {"before": "tab:gray", "after": "tab:blue"}
INCHES_PER_CENTROID = 0.24
NUMBERS_UP_TO = 12
"""Centroids up to which the cosines stand in their cells."""


def plot_alignment(results: Mapping[str, Result], path: Path) -> None:
    """Cosine matrices of the centroids, raw and centred; margins and accuracies; cosines of the gradients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    keys, _ = centroid_cosines(results["after"].objects, "raw")
    side = min(14.0, max(4.5, 2.2 + INCHES_PER_CENTROID * len(keys)))
    figure, axes = plt.subplots(
        3, 2, figsize=(2.3 * side, 2 * side + 4), layout="constrained", height_ratios=(side, side, 4)
    )
    for row, form in enumerate(FORMS):
        for axis, (name, result) in zip(axes[row], results.items(), strict=True):
            picture = _matrix(axis, result, form)
            axis.set_title(f"{name}: cosines of centroids, {_words(form)}", fontsize=9)
        figure.colorbar(picture, ax=list(axes[row]), shrink=0.8, label="cosine")
    _closeness(axes[2, 0], results)
    _gradients(axes[2, 1], results)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _words(form: Form) -> str:
    return "as they are" if form == "raw" else "each sensor's mean subtracted"


def _matrix(axis: Any, result: Result, form: Form) -> Any:
    """Sensors of one concept stand side by side; a line ends each concept."""
    keys, cosines = centroid_cosines(result.objects, form)
    picture = axis.imshow(cosines, cmap="coolwarm", vmin=-1, vmax=1)
    labels = [f"{concept} ({sensor})" for sensor, concept in keys]
    axis.set_xticks(range(len(keys)), labels, rotation=90, fontsize=7)
    axis.set_yticks(range(len(keys)), labels, fontsize=7)
    for place in range(1, len(keys)):
        if keys[place][1] != keys[place - 1][1]:
            axis.axhline(place - 0.5, color="black", lw=0.6)
            axis.axvline(place - 0.5, color="black", lw=0.6)
    if len(keys) <= NUMBERS_UP_TO:
        for row, column in np.argwhere(np.isfinite(cosines)):
            axis.text(column, row, f"{cosines[row, column]:.2f}", ha="center", va="center", fontsize=6)
    return picture


def _closeness(axis: Any, results: Mapping[str, Result]) -> None:
    """Margins and accuracies over shared concepts, mean over the pairs of sensors, with chance as a line."""
    groups: list[tuple[ConceptSet, Form]] = [("shared", form) for form in FORMS]
    labels = [f"{what}, {form}" for what in ("margin", "accuracy") for form in FORMS]
    width = 0.8 / len(results)
    for index, (name, result) in enumerate(results.items()):
        found = pair_means(result.pairs).closeness
        values = [found[key].margin for key in groups] + [found[key].accuracy for key in groups]
        places = np.arange(len(values)) + (index - (len(results) - 1) / 2) * width
        axis.bar(places, np.nan_to_num(values), width, color=COLOURS.get(name), label=name)
        for place, value in zip(places, values, strict=True):
            if not math.isfinite(value):
                axis.text(place, 0, "none", ha="center", va="bottom", fontsize=6, rotation=90)
    chances = [found[key].chance for key in groups]
    for place, chance in enumerate(chances, start=len(groups)):
        label = "chance" if place == len(groups) else None
        axis.plot([place - 0.45, place + 0.45], [chance, chance], "k--", lw=1, label=label)
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_title("shared concepts, mean over the pairs of sensors", fontsize=9)
    axis.legend(fontsize=8, frameon=False)


def _gradients(axis: Any, results: Mapping[str, Result]) -> None:
    """A box for each pair and side over the batches, with every batch as a dot."""
    measured = {name: result.gradients for name, result in results.items() if result.gradients is not None}
    if not measured:
        axis.axis("off")
        axis.text(0.5, 0.5, "gradients were not measured (batches 0)", ha="center", va="center", fontsize=9)
        return
    pairs = list(next(iter(measured.values())).cosines)
    width = 0.8 / len(measured)
    for index, (name, gradients) in enumerate(measured.items()):
        values = [[value for value in gradients.cosines.get(pair, []) if math.isfinite(value)] for pair in pairs]
        places = np.arange(len(pairs)) + (index - (len(measured) - 1) / 2) * width
        colour = COLOURS.get(name)
        boxes = axis.boxplot(values, positions=places, widths=0.8 * width, patch_artist=True, showfliers=False)
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.5)
        for place, drawn in zip(places, values, strict=True):
            axis.plot([place] * len(drawn), drawn, ".", color="black", ms=3)
        axis.bar([0], [0], color=colour, alpha=0.5, label=f"{name} (heads: {gradients.heads})")
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xticks(range(len(pairs)), pairs)
    axis.set_ylabel("cosine")
    axis.set_title("detection gradients on the shared backbone, batch by batch", fontsize=9)
    axis.legend(fontsize=7, frameon=False)
