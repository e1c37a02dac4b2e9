from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from tests.train.builders import CLASSES, random_detector, save_tiny, tiny_backbone, tiny_model, write_all_sensors
from tests.train.test_processes import arguments
from train.checkpoint import load_checkpoint
from train.finetune import main
from train.models.detector import Detector
from train.starting_weights import start_from


def test_all_that_fits_is_taken_and_heads_of_other_classes_are_new(tmp_path: Path) -> None:
    given = random_detector(tiny_model(), seed=1)
    save_tiny(tmp_path / "given", given)
    torch.manual_seed(5)
    own = Detector(tiny_model(), {**CLASSES, Sensor.IR: ("Car", "Truck")})
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    start_from(own, tmp_path / "given")
    wanted = given.state_dict()
    for name, tensor in own.state_dict().items():
        expected = before[name] if name.startswith("heads.ir.") else wanted[name]
        assert torch.equal(tensor, expected), name


def test_a_sensor_that_the_checkpoint_lacks_gets_a_new_head(tmp_path: Path) -> None:
    classes = {Sensor.RGB: CLASSES[Sensor.RGB]}
    save_tiny(tmp_path / "given", random_detector(tiny_model(), 1, classes))
    own = Detector(tiny_model(), CLASSES)
    start_from(own, tmp_path / "given")
    assert set(own.heads) == {"rgb", "sar", "ir"}


def test_a_checkpoint_of_another_backbone_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    save_tiny(tmp_path / "given", random_detector(tiny_model(backbone=tiny_backbone(width=24, num_heads=3)), seed=1))
    settings = arguments(tmp_path, "run", init=str(tmp_path / "given"), steps=2)
    assert run_command(main, settings) == 2
    message = capsys.readouterr().err
    assert (
        "of another model" in message
        and "backbone.project.weight: there (24, 16, 1, 1), here (16, 16, 1, 1)" in message
    )
    assert not (tmp_path / "run").exists()


def test_a_run_begins_with_the_checkpoint_s_weights(tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    classes = {Sensor.RGB: ("ship",), Sensor.SAR: ("vehicle",), Sensor.IR: ("Car",)}
    given = random_detector(tiny_model(), 1, classes, spread=0.05)
    save_tiny(tmp_path / "given", given)
    still = {"lr": 1e-12, "warmup_steps": 0, "weight_decay": 0.0}
    assert run_command(main, arguments(tmp_path, "run", init=str(tmp_path / "given"), steps=2, optimizer=still)) == 0
    own, record = load_checkpoint(tmp_path / "run" / "final")
    torch.testing.assert_close(own.state_dict()["aggregate.weights"], given.state_dict()["aggregate.weights"])
    assert str(tmp_path) not in json.dumps(record.training)
