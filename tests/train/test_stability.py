from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from benchmarks.launching import metrics
from tests.train.builders import CLASSES, random_detector, random_pixels, tiny_model, write_all_sensors
from tests.train.test_processes import arguments
from train.checkpoint import load_checkpoint
from train.finetune import main
from train.models.detector import Detector
from train.stability import LossGuard, first_non_finite, gradient_agreement, non_finite_gradient


def test_norms_and_cosines_are_those_of_the_gradients_apart() -> None:
    torch.manual_seed(0)
    shared = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    inputs = {sensor: torch.randn(4, 5) for sensor in Sensor}
    targets = {sensor: torch.randn(4, 3) for sensor in Sensor}

    def loss(sensor: Sensor) -> torch.Tensor:
        return (shared(inputs[sensor]) - targets[sensor]).square().mean()

    vectors = {}
    for sensor in Sensor:
        shared.zero_grad()
        loss(sensor).backward()
        vectors[sensor] = np.concatenate([p.grad.double().numpy().ravel() for p in shared.parameters()])  # type: ignore[union-attr]
    found = gradient_agreement({sensor: loss(sensor) for sensor in Sensor}, list(shared.parameters()), scale=256.0)
    for sensor, vector in vectors.items():
        assert found[f"norm.{sensor}"] == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    for first, second in (("ir", "rgb"), ("ir", "sar"), ("rgb", "sar")):
        a, b = vectors[Sensor.parse(first)], vectors[Sensor.parse(second)]
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert found[f"cosine.{first}.{second}"] == pytest.approx(expected, abs=1e-5)


def test_looking_at_the_gradients_leaves_the_step_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    loss = layer(torch.ones(1, 2)).square().sum()
    gradient_agreement({Sensor.IR: loss, Sensor.RGB: 2 * loss}, list(layer.parameters()))
    assert layer.weight.grad is None
    loss.backward()
    assert layer.weight.grad is not None


def test_the_guard_notices_what_is_not_finite_at_once_and_what_is_too_large_after_a_while() -> None:
    guard = LossGuard(10.0, memory_steps=5)
    assert guard.exploded({Sensor.IR: math.nan, Sensor.SAR: 1.0}) == [Sensor.IR]
    for _ in range(4):
        assert guard.exploded({Sensor.IR: 1e6, Sensor.SAR: 2.0}) == []
    assert guard.exploded({Sensor.IR: 1e6, Sensor.SAR: 30.0}) == [Sensor.SAR]
    assert guard.exploded({Sensor.IR: 2e6, Sensor.SAR: 2.0}) == [], "the explosion is not part of the mean"


def test_the_layer_where_nan_begins_is_named_and_statistics_stay() -> None:
    detector = random_detector(tiny_model(), seed=1).train()
    pixels = {Sensor.IR: random_pixels((2, 64, 64, 1), 0)}

    def forward() -> object:
        return detector(pixels)

    before = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    assert first_non_finite(detector, forward) == ""
    block = detector.backbone.transformer_blocks[1]
    handle = block.mlp.fc1.register_forward_hook(lambda module, inputs, output: output * math.inf)
    assert first_non_finite(detector, forward) == "output of backbone.blocks.1.mlp.fc1 (Linear)"
    handle.remove()
    with torch.no_grad():
        detector.heads["ir"].classify.bias[0] = math.nan
    assert first_non_finite(detector, forward) == "parameter heads.ir.classify.bias"
    assert all(torch.equal(before[name], buffer) for name, buffer in detector.named_buffers())


def test_a_gradient_that_is_not_finite_is_named_nearest_to_the_loss() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    assert non_finite_gradient(model) == ""
    for layer in model:
        layer.weight.grad.fill_(math.nan)
    assert non_finite_gradient(model) == "gradient of 1.weight"


def test_a_run_that_explodes_says_where_and_keeps_the_weights_from_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    wild = {"lr": 1e30, "warmup_steps": 0, "clip_norm": 1e30}
    assert run_command(main, arguments(tmp_path, "wild", optimizer=wild)) == 2
    message = capsys.readouterr().err
    assert "not finite at step" in message and "it began in" in message
    assert "output of backbone" in message or "parameter backbone" in message
    assert any(name in message for name in ("rgb/r0.png", "rgb/r1.png")) and "sar/strain0.png" in message
    detector, _ = load_checkpoint(tmp_path / "wild" / "stopped")
    assert isinstance(detector, Detector) and not (tmp_path / "wild" / "final").exists()


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_every_precision_trains_and_reports_its_scale_and_cosines(tmp_path: Path, precision: str) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    settings = arguments(tmp_path, precision, precision=precision, watch={"cosine_every": 5, "trackers": []})
    assert run_command(main, settings) == 0
    lines = metrics(tmp_path / precision)
    assert all((line["loss_scale"] > 1) == (precision == "fp16") for line in lines)
    looked = [line for line in lines if "agreement" in line]
    assert [line["step"] for line in looked] == [1, 6, 11, 16]
    for line in looked:
        assert all(-1 <= line["agreement"][f"cosine.{pair}"] <= 1 for pair in ("ir.rgb", "ir.sar", "rgb.sar"))
    assert sum(line["skipped"] for line in lines) < 10
    assert all(math.isfinite(line["gradient_norm"]) for line in lines if not line["skipped"])


def test_trackers_and_the_folder_s_files(tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    write_all_sensors(tmp_path / "data", "eval", count=2)
    watch = {"trackers": ["tensorboard"], "evaluate_every": 10}
    assert run_command(main, arguments(tmp_path, "tracked", watch=watch)) == 0
    run = tmp_path / "tracked"
    assert list(run.rglob("events.out.tfevents*"))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert json.loads((run / "config.json").read_text())["seed"] == 3
    measured = [line["h_map"] for line in metrics(run) if "h_map" in line]
    assert len(measured) == 2
    best = load_checkpoint(run / "best")[1]
    assert best.metrics["h_map"] == max(measured) and best.classes.keys() == CLASSES.keys()
