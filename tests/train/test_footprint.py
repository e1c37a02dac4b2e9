from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from tests.train.builders import random_pixels, tiny_model, write_all_sensors
from tests.train.models.vits import tiny_internvit
from train.cli import load_config
from train.config import FinetuneConfig, ModelConfig
from train.finetune import main as finetune
from train.footprint import Activations, Footprint, forward_flops, main, predict
from train.models.detector import Detector

MIB = 2**20


def vit_model() -> ModelConfig:
    return tiny_model(backbone=tiny_internvit(patch_px=16, image_px=64))


def settings(model: ModelConfig, **changes: Any) -> FinetuneConfig:
    fields: dict[str, Any] = {
        "model": model, "data": {"root": "no such folder"}, "augment": {"crop_px": 128},
        "batch": {"rgb": 1, "sar": 2, "ir": 1}, "precision": "no",
    }  # fmt: skip
    return FinetuneConfig.model_validate({**fields, **changes})


@pytest.fixture(scope="module")
def predicted() -> Footprint:
    return predict(settings(vit_model()))


def test_parameters_are_those_summed_by_hand(predicted: Footprint) -> None:
    width, depth, hidden, channels, taps, levels = 32, 4, 128, 16, 3, 4
    block = 4 * width * width + 4 * width + 2 * width * hidden + hidden + width + 4 * width + 2 * width
    vit = depth * block + width * 3 * 16 * 16 + width + width + (1 + 16) * width
    prior = 9 * 8 * (3 + 8 + 8) + 3 * 2 * 8

    def unit(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel * kernel + 2 * outputs

    residual = unit(16, 8, 3) + unit(8, 16, 3)
    pyramid = levels * (unit(width, channels, 1) + unit(16, 16, 3) + residual)  # lateral, merge, refine
    pyramid += 3 * unit(16, 16, 3)  # down: once to stride 32, twice to 64
    pyramid += unit(8, 16, 1) + unit(8, 16, 3)  # fine maps at strides 8 and 4

    def head(classes: int, outputs: int) -> int:
        return 3 * unit(16, 16, 3) + 16 * classes + classes + 16 * outputs + outputs

    assert predicted.parameters == {
        "backbone": vit + prior,
        "aggregate": 2 * taps * width + levels * taps,
        "pyramid": pyramid,
        "rgb head": head(15, 4 * 17 + 2),
        "sar head": head(6, 4 * 17),
        "ir head": head(5, 4 * 17 + 2),
    }
    assert predicted.largest_block == block and predicted.num_blocks == depth
    assert predicted.trainable == predicted.total == sum(predicted.parameters.values())
    assert predicted.placeholder and predicted.classes == {Sensor.RGB: 15, Sensor.SAR: 6, Sensor.IR: 5}


@pytest.mark.parametrize("sensor", list(Sensor))
def test_flops_are_those_of_the_layers_formulas(predicted: Footprint, sensor: Sensor) -> None:
    """Hooks on a real run: 2 * outputs * inputs per output, and attention's two products of T x T x C."""
    detector = Detector(vit_model(), {s: tuple(map(str, range(n))) for s, n in predicted.classes.items()}).eval()
    counted: list[int] = []

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        counted.append(2 * output.numel() * weight[0].numel())

    for module in detector.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    height, width = detector.config.input_px.of(sensor)
    measured = forward_flops(detector, sensor, height, width)
    tokens = 1 + height // 16 * (width // 16)
    attention = 4 * 2 * 2 * tokens * tokens * 32
    aggregation = 2 * 4 * 3 * (tokens - 1) * 32
    assert measured == sum(counted) + attention + aggregation
    assert predicted.flops[sensor] == measured and predicted.input_px[sensor] == (height, width)


def kept_by_a_real_run(config: FinetuneConfig, images: int) -> int:
    """Bytes of the storages that a real step of a real model keeps, told apart by their address."""
    torch.manual_seed(0)
    detector = Detector(config.model, {s: tuple("abcdef") for s in Sensor}).train()
    own = {t.untyped_storage().data_ptr() for t in [*detector.parameters(), *detector.buffers()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    pixels = {s: random_pixels((images, 128, 128, s.num_channels), 3) for s in Sensor}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            outputs = detector(pixels)
        total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    assert len(outputs) == 3
    return total


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["conv_vit", "internvit_300m"])
def test_activations_are_what_a_real_step_keeps(kind: str, checkpointing: bool, precision: str) -> None:
    model = vit_model() if kind == "internvit_300m" else tiny_model()
    backbone = model.backbone.model_copy(update={"grad_checkpointing": checkpointing})
    config = settings(model.model_copy(update={"backbone": backbone}), precision=precision)
    predicted = predict(config)
    cost = predicted.checkpointed if checkpointing else predicted.plain
    real = kept_by_a_real_run(config, 4)
    assert cost.fixed + 12 * cost.per_image == pytest.approx(real, rel=0.03)
    assert real > MIB
    assert (cost.fixed > 0) == (precision == "bf16") or cost.fixed < 0.02 * real


def test_checkpointing_keeps_less_and_at_its_peak_one_block_more(predicted: Footprint) -> None:
    plain, stored = predicted.plain.per_image, predicted.checkpointed.per_image
    assert stored < predicted.peak_per_image(True) < predicted.peak_per_image(False) == plain
    assert predicted.peak_per_image(True) - stored == (plain - stored) // 4


def example(**changes: Any) -> Footprint:
    fields: dict[str, Any] = {
        "parameters": {"backbone": 90, "rgb head": 10}, "trainable": 80, "buffer_bytes": 40, "largest_block": 7,
        "num_blocks": 5, "flops": {Sensor.RGB: 3_000_000_000}, "input_px": {Sensor.RGB: (64, 96)},
        "plain": Activations(1000, 200), "checkpointed": Activations(500, 100), "checkpointing": False, "crop_px": 64,
        "precision": "bf16", "images": 6, "classes": {Sensor.RGB: 2}, "placeholder": False,
    }  # fmt: skip
    return Footprint(**{**fields, **changes})


@pytest.mark.parametrize(
    ("processes", "sharded", "wanted"),
    [
        (1, False, 440 + 320 + 640 + 440 + 200 + 6000),
        (1, True, 440 + 320 + 640 + 440 + 200 + 6000),
        (4, False, 440 + 320 + 640 + 440 + 320 + 200 + 2000),  # 6 images over 4 processes: 2 at most
        (4, True, (440 + 320 + 640 + 440) // 4 + 2 * 28 + 200 + 2000),
    ],
)
def test_a_process_s_memory_follows_the_stated_formula(processes: int, sharded: bool, wanted: int) -> None:
    assert example().process_bytes(processes, sharded) == wanted
    assert example(checkpointing=True).process_bytes(1, False) == 440 + 320 + 640 + 440 + 200 + 6 * 600


def test_a_dry_run_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all_sensors(tmp_path / "data", "train", count=1)
    before = sorted(tmp_path.rglob("*"))
    model = json.loads(tiny_model().model_dump_json())
    file = tmp_path.parent / f"{tmp_path.name}.yaml"
    file.write_text(json.dumps({"model": model, "data": {"root": str(tmp_path / "data")}, "augment": {"crop_px": 128}}))
    assert run_command(finetune, ["--config", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    for part in ("rgb 1, sar 1, ir 1 (from the data)", "| rgb | 64x96 |", "AdamW moments", "FSDP", "predicted"):
        assert part in printed
    total = sum(p.numel() for p in Detector(tiny_model(), dict.fromkeys(Sensor, ("a",))).parameters())
    assert f"| total | {total / 1e6:.3f} |" in printed


def test_a_dry_run_without_data_says_that_its_classes_are_placeholders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(settings(tiny_model()).model_dump_json())
    assert main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert "placeholders" in printed and f"## {file}" in printed and f"python -m train.footprint {file}" in printed


def test_a_backbone_that_does_not_fit_stops_before_the_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model.backbone.name", "vit_small_patch14_dinov2", "--data.root", str(tmp_path / "nowhere")]
    assert run_command(finetune, [*arguments, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "14 px" in message and "nowhere" not in message


@pytest.mark.parametrize(
    ("name", "low", "high", "gflops"), [("tiny", 1.5, 2.5, 10), ("small", 21, 23, 133), ("large", 304.0, 310.0, 2270)]
)
def test_the_configurations_are_what_they_say(
    name: str, low: float, high: float, gflops: float, repository: Path, tmp_path: Path
) -> None:
    file = str(repository / f"train/configs/{name}.yaml")
    predicted = predict(load_config(FinetuneConfig, ["--config", file, "--data.root", str(tmp_path / "none")]))
    assert low < predicted.parameters["backbone"] / 1e6 < high
    assert predicted.flops[Sensor.RGB] / 1e9 == pytest.approx(gflops, rel=0.02)
    assert 0 < predicted.peak_per_image(True) < predicted.peak_per_image(False)


def test_half_precision_keeps_less_than_single() -> None:
    half, single = (predict(settings(vit_model(), precision=p)).plain.per_image for p in ("fp16", "no"))
    assert 0.4 * single < half < 0.8 * single
