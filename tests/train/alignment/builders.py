"""Features and data sets with several concepts that the sensors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babelrs.sensors import Sensor
from tests.train.builders import dota_line, write_sar, write_text_image
from train.alignment.features import Objects

CAR, SHIP = (12.0, 10.0), (36.0, 14.0)
"""Width and height in pixels."""


def planted(
    seed: int,
    concepts: Mapping[Sensor, Sequence[str]],
    shared: float,
    offset: float = 0.0,
    noise: float = 0.3,
    count: int = 40,
    channels: int = 64,
) -> dict[Sensor, Objects]:
    """Features around a direction for each concept of each sensor: ``shared`` of it is the concept's own everywhere.

    Args:
        seed: Of all draws.
        concepts: By sensor.
        shared: 1: a concept has one direction at all sensors; 0: independent ones.
        offset: Length of a vector that every object of a sensor has on top.
        noise: Length of what every object has on its own.
        count: Objects of a concept; four lie in one image.
        channels: C.
    """
    rng = np.random.default_rng(seed)
    names = sorted({name for group in concepts.values() for name in group})
    common = {name: _unit(rng, channels) for name in names}
    found = {}
    for sensor, group in concepts.items():
        place = offset * _unit(rng, channels)
        rows = []
        for name in group:
            middle = shared * common[name] + (1 - shared) * _unit(rng, channels) + place
            rows.append(middle + noise * rng.normal(size=(count, channels)) / channels**0.5)
        labels = tuple(name for name in group for _ in range(count))
        images = np.tile(np.arange(count) // 4, len(group))
        found[sensor] = Objects(np.concatenate(rows).astype(np.float32), labels, images)
    return found


def _unit(rng: np.random.Generator, channels: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    vector = rng.normal(size=channels)
    return np.asarray(vector / np.linalg.norm(vector))


def write_concepts(root: Path, split: str, count: int = 3, size: tuple[int, int] = (96, 128)) -> None:
    """``count`` images of each sensor with two cars and two ships each, under each data set's own names."""
    places = [(24.0, 20.0, *CAR), (90.0, 24.0, *SHIP), (34.0, 66.0, *SHIP), (100.0, 70.0, *CAR)]
    for sensor, stem, names in ((Sensor.RGB, "r", ("small-vehicle", "ship")), (Sensor.IR, "i", ("Car", "boat"))):
        for index in range(count):
            lines = [dota_line([x, y, w, h, 0.2], names[w == SHIP[0]]) for x, y, w, h in places]
            write_text_image(root, sensor, split, f"{stem}{index}", lines, size)
    images, annotations = [], []
    for index in range(count):
        images.append({"id": index, "file_name": f"s{split}{index}.png", "width": size[1], "height": size[0]})
        for x, y, w, h in places:
            box = [x - w / 2, y - h / 2, w, h]
            row = {"id": len(annotations), "image_id": index, "category_id": int(w == SHIP[0]), "bbox": box}
            annotations.append(row)
    categories = [{"id": 0, "name": "car"}, {"id": 1, "name": "ship"}]
    write_sar(root, split, {"images": images, "annotations": annotations, "categories": categories}, size)
