from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from tests.train.builders import CLASSES, tiny_model, write_all_sensors
from train.checkpoint import load_checkpoint
from train.config import FinetuneConfig, OptimizerConfig
from train.data.samples import limited
from train.finetune import main
from train.models.detector import Detector
from train.optimizer import AveragedWeights, learning_rate, make_optimizer


def optimizer_settings(**changes: Any) -> OptimizerConfig:
    fields = {"lr": 0.01, "weight_decay": 0.1, "warmup_steps": 10, "final_lr_share": 0.1, "ema_decay": 0.9}
    return OptimizerConfig.model_validate({**fields, **changes})


def test_the_rate_warms_up_to_its_peak_and_falls_as_a_cosine() -> None:
    config = optimizer_settings()
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[0] == pytest.approx(0.001) and rates[9] == pytest.approx(0.01) == rates[10]
    assert rates[60] == pytest.approx(0.01 * (0.1 + 0.9 * 0.5)) and rates[110] == pytest.approx(0.001)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_a_run_shorter_than_its_warm_up_has_a_rate() -> None:
    assert all(0 < learning_rate(step, 3, optimizer_settings()) <= 0.01 for step in range(3))
    assert learning_rate(0, 5, optimizer_settings(warmup_steps=0)) == pytest.approx(0.01)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    plain, decayed = make_optimizer(model, 0, optimizer_settings()).param_groups
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in plain["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}


def test_averaged_weights_follow_the_recursion() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average, expected = AveragedWeights(model, decay=0.9), 1.0
    for step in range(1, 120):
        with torch.no_grad():
            model.weight.fill_(math.sin(step))
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * math.sin(step)
        assert float(average.weights["weight"]) == pytest.approx(expected, abs=1e-5)  # type: ignore[arg-type]
    assert not any(tensor.requires_grad for tensor in average.weights.values())


def test_averaging_does_not_touch_the_model() -> None:
    detector = Detector(tiny_model(), CLASSES).train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    average = AveragedWeights(detector, 0.5)
    average.update(detector)
    assert detector.training and all(torch.equal(before[n], t) for n, t in detector.state_dict().items())


def test_limits_take_the_first_samples() -> None:
    samples: dict[Sensor, list[Any]] = {Sensor.IR: [1, 2, 3], Sensor.SAR: [4]}
    wanted: dict[Sensor, list[Any]] = {Sensor.IR: [1, 2], Sensor.SAR: [4]}
    assert limited(samples, 2) == wanted and limited(samples, None) == samples


def settings(folder: Path, out: str, **changes: Any) -> list[str]:
    """A run of six steps on CPU, as arguments."""
    content = {
        "out": str(folder / out),
        "steps": 6,
        "seed": 4,
        "log_every": 2,
        "save_every": 4,
        "data": {"root": str(folder / "data"), "sensors": ["rgb", "sar", "ir"], "workers": 0},
        "model": json.loads(tiny_model().model_dump_json()),
        "batch": {"rgb": 1, "sar": 2, "ir": 1},
        "augment": {"crop_px": 128, "scale_min": 0.9, "scale_max": 1.1},
        "optimizer": {"lr": 0.002, "warmup_steps": 2},
        **changes,
    }
    file = folder / f"{out}.yaml"
    file.write_text(json.dumps(content))  # JSON is YAML
    return ["--config", str(file)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_all_sensors(folder / "data", "train", count=3)
    assert run_command(main, settings(folder, "first")) == 0
    return folder


def test_a_run_leaves_a_checkpoint_with_the_classes_of_its_data(run: Path) -> None:
    detector, record = load_checkpoint(run / "first" / "final")
    assert record.classes == {Sensor.RGB: ("ship",), Sensor.SAR: ("vehicle",), Sensor.IR: ("Car",)}
    assert record.model == tiny_model() and record.training["step"] == 6
    assert record.training["settings"]["seed"] == 4 and record.training["images"] == {"rgb": 3, "sar": 3, "ir": 3}
    assert str(run) not in json.dumps(record.training), "paths of a machine do not belong into a checkpoint"
    assert all(torch.isfinite(tensor).all() for tensor in detector.state_dict().values())
    assert load_checkpoint(run / "first" / "last")[1].training["step"] == 6
    assert [path.name for path in (run / "first" / "checkpoints").iterdir()] == ["step-0000006"]


def test_a_run_logs_every_sensor_s_losses(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "first" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 6]
    for line in lines:
        for sensor in Sensor:
            assert math.isfinite(line[sensor.value]["total"]) and line[sensor.value]["total"] > 0
    assert lines[0]["sar"]["direction"] == 0


def test_the_same_seed_gives_the_same_weights_and_another_does_not(run: Path) -> None:
    assert run_command(main, settings(run, "again")) == 0
    assert run_command(main, settings(run, "other", seed=5)) == 0
    first, again, other = (
        load_checkpoint(run / name / "final")[0].state_dict() for name in ("first", "again", "other")
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_a_sensor_without_any_object_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all_sensors(tmp_path / "data", "train", count=1)
    (tmp_path / "data/DroneVehicle/dota_train/annfiles/i0.txt").write_text("")
    assert run_command(main, settings(tmp_path, "empty")) == 2
    assert "ir" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all_sensors(tmp_path / "data", "train", count=1)
    wild = {"lr": 1e30, "warmup_steps": 0, "clip_norm": 1e30}
    assert run_command(main, settings(tmp_path, "wild", optimizer=wild, steps=20)) == 2
    message = capsys.readouterr().err
    assert "not finite at step" in message and "optimizer.lr" in message
    assert not (tmp_path / "wild" / "final").exists()


def test_wrong_taps_start_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = json.loads(tiny_model().model_dump_json())
    model["backbone"]["taps"] = [1, 9]
    assert run_command(main, settings(run, "taps", model=model)) == 2
    assert "taps" in capsys.readouterr().err and not (run / "taps").exists()


def test_an_existing_run_folder_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all_sensors(tmp_path / "data", "train", count=1)
    (tmp_path / "first").mkdir()
    assert run_command(main, settings(tmp_path, "first")) == 2
    assert "first exists already" in capsys.readouterr().err and not any((tmp_path / "first").iterdir())


def test_a_crop_too_small_for_the_pyramid_is_refused() -> None:
    with pytest.raises(ValidationError, match="below twice the coarsest stride 64"):
        FinetuneConfig.model_validate({"augment": {"crop_px": 64}})
