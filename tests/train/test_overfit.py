"""The detector can learn: a few real images of every sensor are found again after a short training on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from babelrs.sensors import Sensor
from train.checkpoint import load_checkpoint
from train.config import FinetuneConfig
from train.data.samples import Sample
from train.data.soi_det import read_split
from train.evaluate import evaluate_samples
from train.trainer import Trainer

IMAGES_PER_SENSOR = 8

SETTINGS = {
    "steps": 600,
    "seed": 1,
    "log_every": 100,
    "save_every": 10_000,
    "data": {"workers": 0},
    "model": {
        "backbone": {
            "stem_widths": [16, 32, 48, 64, 96],
            "stem_blocks": [0, 0, 1, 1, 0],
            "width": 96,
            "depth": 3,
            "num_heads": 3,
            "taps": [1, 2, 3],
            "drop_path": 0.0,
        },
        "pyramid_channels": 48,
        "head_channels": 48,
        "input_px": {"rgb": [640, 640], "sar": [608, 512], "ir": [512, 640]},
    },
    "batch": {"rgb": 3, "sar": 2, "ir": 6},
    "augment": {
        "crop_px": 256,
        "scale_min": 1.0,
        "scale_max": 1.0,
        "flip": False,
        "rotate": False,
        "rotate_free": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
    },
    "optimizer": {"lr": 3e-3, "warmup_steps": 20, "ema_decay": 0.98, "weight_decay": 0.0},
}


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """``count`` images with objects, evenly spread over the split."""
    usable = [sample for sample in samples if len(sample.names) and not sample.ignore.all()]
    return usable[:: len(usable) // count][:count]


@pytest.mark.realdata
def test_eight_real_images_of_every_sensor_are_learned_by_heart(shared_data: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    config = FinetuneConfig.model_validate({**SETTINGS, "out": tmp_path})
    samples = {
        sensor: spread(group, IMAGES_PER_SENSOR)
        for sensor, group in read_split(shared_data / "soi-mini", list(Sensor), "train").items()
    }
    assert Trainer(config, samples, Accelerator(cpu=True)).run()
    result = evaluate_samples(*load_checkpoint(tmp_path / "final"), samples)
    print(result.format_table())
    for sensor, precision in result.sensors.items():
        assert precision.ap50 >= 0.9, f"{sensor}: AP50 {precision.ap50:.3f}\n{result.format_table()}"
