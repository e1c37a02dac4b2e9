"""One thread: these models are so small that more would only wait for each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from babelrs.errors import run_command
from tests.compress.tiny_data import draw_data
from tests.train.builders import tiny_backbone, tiny_model
from train.finetune import main as finetune

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of all sensors in the SOI-Det layout."""
    return draw_data(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that finds what is drawn: what rounding does to a random model says little about real ones."""
    folder = tmp_path_factory.mktemp("trained")
    inputs = {"rgb": (64, 96), "sar": (64, 96), "ir": (64, 96)}
    model = tiny_model(backbone=tiny_backbone(width=32), pyramid_channels=24, head_channels=24, input_px=inputs)
    settings = {
        "out": str(folder / "run"), "steps": 150, "seed": 1, "log_every": 100, "save_every": 1000,
        "model": model.model_dump(mode="json"), "data": {"root": str(drawn), "workers": 0, "cache": True},
        "batch": {"rgb": 2, "sar": 2, "ir": 2}, "watch": {"trackers": []},
        "augment": {
            "crop_px": 128, "scale_min": 0.9, "scale_max": 1.2, "rotate_free": 0.3, "brightness": 0.1, "contrast": 0.1,
        },
        "optimizer": {"lr": 3e-3, "warmup_steps": 20, "ema_decay": 0.95},
    }  # fmt: skip
    file = folder / "settings.yaml"
    file.write_text(json.dumps(settings))
    assert run_command(finetune, ["--config", str(file)]) == 0
    return folder / "run" / "final"
