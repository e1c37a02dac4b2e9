"""Teachers and settings for small distillations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babelrs.sensors import Sensor
from tests.train.builders import random_detector, save_tiny, tiny_backbone, tiny_model
from train.config import ModelConfig

CLASSES: dict[Sensor, tuple[str, ...]] = {Sensor.RGB: ("ship",), Sensor.SAR: ("vehicle",), Sensor.IR: ("Car",)}
"""Of the data that ``write_all_sensors`` writes."""


def teacher_model(**changes: Any) -> ModelConfig:
    """Wider, deeper and with finer tokens than the tiny student's."""
    backbone = tiny_backbone(
        width=24, depth=4, num_heads=3, taps=(1, 2, 4), stem_widths=(8, 8, 12, 16), stem_blocks=(0, 0, 1, 0)
    )
    return tiny_model(**{"backbone": backbone, **changes})


def write_teacher(
    folder: Path, classes: dict[Sensor, tuple[str, ...]] = CLASSES, model: ModelConfig | None = None, seed: int = 1
) -> Path:
    """A teacher of random weights that sees something at many points."""
    detector = random_detector(model or teacher_model(), seed, classes)
    for head in detector.heads.values():
        head.classify.bias.data += 3
    save_tiny(folder, detector, training={"seed": 3, "step": 7})
    return folder
