"""Mosaics: four crops side by side as one training image, so that a small set shows more objects in more company.

Source: YOLOv4, Bochkovskiy et al. 2020, section 3.3. Each part is a crop of its own, so every object is judged by what
is visible of it in its part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.data.augment import Crop

NARROWEST_SHARE = 0.3
"""The narrowest part's share of the image's side."""


def draw_windows(side: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Four windows x, y, width, height that tile a square of ``side`` pixels around a random point."""
    x, y = (int(value) for value in rng.uniform(NARROWEST_SHARE, 1 - NARROWEST_SHARE, 2) * side)
    return [(0, 0, x, y), (x, 0, side - x, y), (0, y, x, side - y), (x, y, side - x, side - y)]


def join(parts: Sequence[Crop], windows: Sequence[tuple[int, int, int, int]]) -> Crop:
    """Crops of the windows' sizes as one; ``kept`` are indices into the parts' samples, one after the other."""
    side = max(x + width for x, _, width, _ in windows)
    pixels = np.zeros((side, side, parts[0].pixels.shape[2]), np.uint8)
    boxes, ignored = [], []
    for part, (x, y, width, height) in zip(parts, windows, strict=True):
        pixels[y : y + height, x : x + width] = part.pixels
        shift = np.array([x, y, 0, 0, 0], np.float32)
        boxes.append(part.boxes + shift)
        ignored.append(part.ignore_boxes + shift)
    kept = np.concatenate([part.kept for part in parts])
    return Crop(pixels, np.concatenate(boxes), kept, np.concatenate(ignored))
