from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from train.cli import load_config
from train.config import FinetuneConfig
from train.evaluate import EvaluateConfig
from train.pretrain_config import PretrainConfig


def faults_of(arguments: list[str], kind: type[BaseModel] = FinetuneConfig) -> list[str]:
    with pytest.raises(BabelRSError) as caught:
        load_config(kind, arguments)
    assert caught.value.exit_code == 2 and caught.value.remedy
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines() if line.startswith("  - ")]


def write_yaml(folder: Path, content: object) -> str:
    path = folder / "settings.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_options_override_the_file_and_the_file_overrides_the_defaults(tmp_path: Path) -> None:
    defaults = FinetuneConfig()
    steps, lr = defaults.steps + 11, defaults.optimizer.lr * 3
    file = write_yaml(tmp_path, {"steps": steps, "seed": 5, "optimizer": {"lr": lr, "clip_norm": 3.5}})
    config = load_config(FinetuneConfig, ["--config", file, "--seed", "7", "--optimizer.clip_norm=4.5"])
    assert (config.steps, config.seed) == (steps, 7)
    assert (config.optimizer.lr, config.optimizer.clip_norm) == (lr, 4.5)
    assert config.log_every == defaults.log_every and config.optimizer.weight_decay == defaults.optimizer.weight_decay


def test_lists_take_their_values_one_after_the_other() -> None:
    config = load_config(
        FinetuneConfig,
        ["--data.sensors", "sar", "ir", "--model.input-px.rgb", "96", "64", "--model.backbone.taps", "1", "2", "3"],
    )
    assert config.data.sensors == (Sensor.SAR, Sensor.IR)
    assert config.model.input_px.rgb == (96, 64) and config.model.backbone.taps == (1, 2, 3)


def test_a_list_may_hold_one_value() -> None:
    config = load_config(EvaluateConfig, ["--checkpoint", "c", "--data.sensors", "ir"])
    assert config.data.sensors == (Sensor.IR,)
    assert load_config(FinetuneConfig, ["--model.backbone.taps", "2"]).model.backbone.taps == (2,)


class _Optional(BaseModel):
    names: tuple[str, ...] | None = ("all",)


@pytest.mark.parametrize(("given", "wanted"), [(["a"], ("a",)), (["a", "b"], ("a", "b")), (["none"], None)])
def test_a_list_that_may_be_unset_holds_one_value_or_several_or_none(given: list[str], wanted: object) -> None:
    assert load_config(_Optional, ["--names", *given]).names == wanted


@pytest.mark.parametrize(("given", "wanted"), [(["true"], True), ([], True), (["false"], False)])
def test_switches_take_true_false_or_nothing(given: list[str], wanted: bool) -> None:
    for switch in ("--augment.flip", "--model.backbone.grad_checkpointing"):
        config = load_config(FinetuneConfig, [switch, *given, "--seed", "3"])
        found = config.augment.flip if "flip" in switch else config.model.backbone.grad_checkpointing
        assert found is wanted and config.seed == 3


def test_a_switch_is_turned_off_as_help_shows_it() -> None:
    config = load_config(FinetuneConfig, ["--augment.no-flip", "--model.backbone.no-grad-checkpointing"])
    assert config.augment.flip is False and config.model.backbone.grad_checkpointing is False
    assert faults_of(["--no-steps"])[0].startswith("no_steps:")  # no switch


def test_negative_numbers_and_paths_are_values() -> None:
    assert load_config(FinetuneConfig, ["--out", "some/where"]).out == Path("some/where")
    assert faults_of(["--seed", "-3"])[0].startswith("seed:")


def test_none_unsets_an_optional_setting(tmp_path: Path) -> None:
    file = write_yaml(tmp_path, {"data": {"images_per_sensor": 5}})
    config = load_config(FinetuneConfig, ["--config", file, "--data.images_per_sensor", "none"])
    assert config.data.images_per_sensor is None


def test_the_settings_that_a_run_writes_can_be_given_to_the_next(tmp_path: Path) -> None:
    config = load_config(FinetuneConfig, ["--seed", "9", "--data.sensors", "rgb", "sar", "--precision", "no"])
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert load_config(FinetuneConfig, ["--config", str(tmp_path / "config.json")]) == config


def test_the_word_no_in_a_file_is_a_precision(tmp_path: Path) -> None:
    """YAML reads a bare ``no`` as a boolean."""
    file = write_yaml(tmp_path, "precision: no\n")
    assert load_config(FinetuneConfig, ["--config", file]).precision == "no"
    tiny = ["--data.meta", "m.json", "--data.tile_px", "128", "--data.patch_px", "16"]
    assert load_config(PretrainConfig, ["--config", file, *tiny]).precision == "no"


def test_all_faults_of_file_and_options_are_listed_at_once(tmp_path: Path) -> None:
    file = write_yaml(
        tmp_path,
        {"stepz": 1, "steps": 0, "model": {"backbone": {"wide": 1, "width": 7}}, "data": {"sensors": ["rgb", "lidar"]}},
    )
    faults = faults_of(["--config", file, "--optimizer.lr", "fast", "--augment.crop_px", "33", "--precision", "int4"])
    for part in (
        "stepz: ", "steps: ", "model.backbone.wide: ", "model.backbone.width: ", "data.sensors.1: ", "optimizer.lr: ",
        "augment.crop_px: ", "precision: ",
    ):  # fmt: skip
        assert sum(fault.startswith(part) for fault in faults) == 1, (part, faults)
    assert len(faults) == 8
    for value in ("'lidar'", "'fast'", "'33'", "'int4'"):
        assert any(value in fault for fault in faults), value


INTERNVIT = ["--model.backbone.name", "internvit_300m"]
TIMM = ["--model.backbone.name", "vit_tiny_patch16_224"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--augment.scale_min", "2", "--augment.scale_max", "1"], ["scale_min"]),
        (["--model.strides", "8", "24"], ["strides", "double"]),
        (["--model.input_px.ir", "500", "640"], ["500", "32"]),
        (["--model.backbone.width", "30", "--model.backbone.num_heads", "4"], ["30", "4"]),
        (["--model.backbone.stem_blocks", "0", "0"], ["stem_blocks"]),
        (["--data.sensors", "sar", "ir", "--batch.sar", "0"], ["sar"]),
        (["--model.strides", "12", "24"], ["strides", "powers of two"]),
        (["--model.backbone.patch_px", "16"], ["conv_vit", "patch_px"]),
        (["--model.backbone.pretrained"], ["pretrained", "conv_vit"]),
        ([*TIMM, "--model.backbone.pretrained", "--model.backbone.weights", "w.pt"], ["weights", "pretrained"]),
        ([*TIMM, "--model.backbone.weights", "nowhere.safetensors"], ["nowhere.safetensors does not exist"]),
        ([*TIMM, "--model.backbone.patch_px", "14"], ["14 px", "power of two", "rgb input (640, 640)"]),
        (
            [*TIMM, "--model.backbone.patch_px", "64", "--model.input_px.ir", "480", "640"],
            ["ir input (480, 640)", "64"],
        ),
        ([*TIMM, "--model.backbone.patch_px", "64", "--augment.crop_px", "160"], ["crop_px 160", "64"]),
        ([*TIMM, "--model.backbone.patch_px", "16", "--model.strides", "32", "64"], ["strides", "start at 16"]),
        (INTERNVIT, ["14 px", "power of two"]),
        (
            [*INTERNVIT, "--model.backbone.patch_px", "16", "--model.backbone.image_px", "450"],
            ["image_px 450", "16"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_faults(arguments: list[str], words: list[str]) -> None:
    faults = faults_of(arguments)
    assert any(all(word in fault for word in words) for fault in faults), faults


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steps", "5"], "'steps'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config"], "config"),
        (["--config", "a.yaml", "b.yaml"], "config"),
        (["--steps", "5", "--steps.x", "1"], "steps"),
        (["--steps"], "steps"),
        (["--steps", "1", "2"], "steps"),
        (["--seed", "none"], "seed"),
    ],
)
def test_arguments_that_are_no_settings_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(BabelRSError, match=words):
        load_config(FinetuneConfig, arguments)


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "just words", "a: [1", "a: 1\n  b: 2", "5"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BabelRSError, match=re.escape(str(tmp_path / "settings.yaml"))):
        load_config(FinetuneConfig, ["--config", write_yaml(tmp_path, content)])


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(FinetuneConfig, ["--config", write_yaml(tmp_path, "# nothing\n")]) == FinetuneConfig()


def test_missing_required_settings_are_faults() -> None:
    (fault,) = faults_of([], EvaluateConfig)
    assert "checkpoint" in fault


def leaves(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Name, description and default of every setting, sections opened."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description or "", field.default


def squeezed(text: str) -> str:
    """Letters, digits, points and dashes only: a table's borders and line breaks do not count."""
    return re.sub(r"[^a-z0-9.-]", "", text.lower().replace("_", "-"))


@pytest.mark.parametrize("kind", [FinetuneConfig, EvaluateConfig])
def test_help_shows_every_field_with_description_and_default(
    kind: type[BaseModel], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")  # one column
    with pytest.raises(SystemExit) as left:
        load_config(kind, ["--help"])
    assert left.value.code == 0
    shown = squeezed(capsys.readouterr().out)
    assert "config" in shown
    settings = list(leaves(kind))
    assert len(settings) > 5
    for name, description, default in settings:
        assert f"--{squeezed(name)}" in shown, name
        assert description, f"{name} has no description"
        assert squeezed(description).replace(".", "") in shown.replace(".", ""), name
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"default{squeezed(str(default))}" in shown, name


def run_finetune(arguments: list[str], repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.finetune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository, timeout=120)


def test_the_command_lists_wrong_settings_starts_nothing_and_exits_with_2(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_finetune(["--out", str(out), "--steps", "0", "--model.backbone.wide", "3"], repository)
    assert done.returncode == 2 and not out.exists() and done.stdout == ""
    assert "steps:" in done.stderr and "model.backbone.wide:" in done.stderr and "Traceback" not in done.stderr


def test_the_command_lists_all_annotation_faults_before_the_first_step_and_exits_with_2(
    repository: Path, tmp_path: Path
) -> None:
    from tests.train.builders import write_text_image

    _, text = write_text_image(tmp_path / "data", Sensor.IR, "train", "a", ["nan 1 2 3 4 5 6 7 Car 0", "1 2"])
    out = tmp_path / "run"
    done = run_finetune(
        ["--out", str(out), "--data.root", str(tmp_path / "data"), "--data.sensors", "ir", "sar"], repository
    )
    assert done.returncode == 2 and not out.exists() and "Traceback" not in done.stderr
    for part in (f"{text}:1", f"{text}:2", "after_merge_train.json"):
        assert part in done.stderr


def test_the_command_prints_help_and_exits_with_0(repository: Path) -> None:
    done = run_finetune(["--help"], repository)
    assert done.returncode == 0 and "--optimizer.lr" in done.stdout


def test_records_of_settings_are_plain_json() -> None:
    assert json.loads(FinetuneConfig().model_dump_json())["data"]["sensors"] == ["rgb", "sar", "ir"]
