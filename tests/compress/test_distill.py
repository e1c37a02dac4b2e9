from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from babelrs.bundle import sha256_of
from babelrs.errors import run_command
from babelrs.sensors import Sensor
from benchmarks.launching import losses, metrics, start, stop_after, train
from compress.distill import main
from tests.compress.distillation_builders import CLASSES, teacher_model, write_teacher
from tests.train.builders import tiny_model, write_all_sensors
from tests.train.models.vits import tiny_internvit
from tests.train.test_processes import arguments
from train import finetune
from train.checkpoint import WEIGHTS_FILE, load_checkpoint

MODULE = "compress.distill"


def run_arguments(folder: Path, out: str, **changes: Any) -> list[str]:
    """A distillation of 20 steps that logs each of them; its weights begin to move after the fifth."""
    settings = {"teacher": str(folder / "teacher"), "distill": {"gap_start_steps": 5, "gap_decay": 0.8}}
    return arguments(folder, out, **{**settings, "batch": {"rgb": 2, "sar": 2, "ir": 2}, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    write_all_sensors(folder / "data", "train", count=4)
    write_teacher(folder / "teacher")
    done = train(run_arguments(folder, "whole", save_every=7), module=MODULE)
    assert done.returncode == 0, done.stderr
    return folder


def gap_weights(run: Path) -> list[list[float]]:
    return [[line[sensor.value]["gap_weight"] for sensor in Sensor] for line in metrics(run)]


def test_the_student_comes_nearer_to_its_teacher(folder: Path) -> None:
    settings = {"steps": 80, "optimizer": {"lr": 5e-3, "warmup_steps": 4}, "batch": {"rgb": 1, "sar": 1, "ir": 1}}
    assert run_command(main, run_arguments(folder, "long", **settings)) == 0
    lines = metrics(folder / "long")
    for sensor in Sensor:
        for part in ("feature_gap", "box_gap", "gap"):
            first, last = (sum(line[sensor.value][part] for line in part_of) for part_of in (lines[:10], lines[-10:]))
            assert last < 0.9 * first, f"{part} of {sensor}: {first:.3f} to {last:.3f}"
    weights = gap_weights(folder / "long")
    assert weights[0] == [1, 1, 1] and weights[-1] != [1, 1, 1]
    assert all(sum(row) / 3 == pytest.approx(1) and 0.5 <= min(row) and max(row) <= 2 for row in weights)
    assert (folder / "long" / "course.png").stat().st_size > 10_000


def test_the_student_is_an_ordinary_checkpoint_that_names_its_teacher(folder: Path) -> None:
    detector, record = load_checkpoint(folder / "whole" / "final")
    assert record.classes == CLASSES and record.model == tiny_model()
    assert not any("projections" in name for name in detector.state_dict())
    training = record.training
    assert training["command"] == "python -m compress.distill" and training["step"] == 20
    assert training["teacher"] == {
        "sha256": sha256_of(folder / "teacher" / WEIGHTS_FILE),
        "training": {"seed": 3, "step": 7},
    }
    assert training["settings"]["distill"]["gap_decay"] == 0.8 and "teacher" not in training["settings"]
    assert str(folder) not in json.dumps(training), "paths of a machine do not belong into a checkpoint"


def test_a_killed_run_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    process = start(run_arguments(folder, "killed", save_every=7), module=MODULE)
    stop_after(process, folder / "killed", 9, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (folder / "killed" / "final").exists()
    done = train([*run_arguments(folder, "killed", save_every=7), "--resume"], module=MODULE)
    assert done.returncode == 0 and "going on from step" in done.stderr, done.stderr
    assert losses(folder / "killed") == losses(folder / "whole") and len(losses(folder / "whole")) == 20
    assert gap_weights(folder / "killed") == gap_weights(folder / "whole")
    first, second = (load_checkpoint(folder / name / "final")[0].state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_resume_with_another_teacher_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_teacher(folder / "another", seed=2)
    given = ["--resume", "--teacher", str(folder / "another")]
    assert run_command(main, [*run_arguments(folder, "whole", save_every=7), *given]) == 2
    assert "The run began with a teacher of SHA-256" in capsys.readouterr().err


def test_a_resume_as_plain_fine_tuning_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = arguments(folder, "whole", save_every=7, batch={"rgb": 2, "sar": 2, "ir": 2})
    assert run_command(finetune.main, [*plain, "--resume"]) == 2
    assert "distill.gap_decay: 0.8 before, None now" in capsys.readouterr().err


def test_a_student_begins_as_the_same_seed_without_a_teacher_does(folder: Path) -> None:
    assert run_command(main, run_arguments(folder, "taught", steps=1)) == 0
    plain = arguments(folder, "plain", steps=1, batch={"rgb": 2, "sar": 2, "ir": 2})
    assert run_command(finetune.main, plain) == 0
    taught, alone = (metrics(folder / name)[0] for name in ("taught", "plain"))
    for sensor in Sensor:
        assert taught[sensor.value]["detection"] == alone[sensor.value]["total"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_and_weights_of_one(folder: Path, parallel: str) -> None:
    done = train(run_arguments(folder, parallel, parallel=parallel), processes=2, module=MODULE)
    assert done.returncode == 0, done.stderr
    one, two = losses(folder / "whole"), losses(folder / parallel)
    assert list(one) == list(two) == list(range(1, 21))
    for steps, rtol in ((range(1, 11), 1e-4), (range(11, 21), 1e-3)):  # rounding grows from step to step
        np.testing.assert_allclose([two[step] for step in steps], [one[step] for step in steps], rtol=rtol)
    np.testing.assert_allclose(gap_weights(folder / parallel), gap_weights(folder / "whole"), rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_distils(folder: Path, precision: str) -> None:
    assert run_command(main, run_arguments(folder, precision, precision=precision, steps=8)) == 0
    single, half = metrics(folder / "whole")[0], metrics(folder / precision)[0]
    for sensor in Sensor:
        assert half[sensor.value]["gap"] == pytest.approx(single[sensor.value]["gap"], rel=0.05)


def refused(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    """What a run with these settings is refused with; nothing is left of it."""
    assert run_command(main, run_arguments(folder, "refused", **changes)) == 2
    assert not (folder / "refused").exists()
    return capsys.readouterr().err


def test_other_classes_are_refused_with_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = {**CLASSES, Sensor.RGB: ("car", "ship"), Sensor.IR: ("Bus",)}
    write_teacher(folder / "other", classes)
    message = refused(folder, capsys, teacher=str(folder / "other"))
    assert "rgb: the teacher's are car, ship, the data's ship" in message and "(2)" in message
    assert "ir: the teacher's are Bus, the data's Car" in message and "sar:" not in message


def test_a_sensor_that_the_teacher_does_not_serve_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_teacher(folder / "one", {Sensor.RGB: ("ship",)})
    assert "the teacher serves rgb, not sar, ir" in refused(folder, capsys, teacher=str(folder / "one"))


def test_all_that_does_not_fit_the_teacher_is_said_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = tiny_internvit(patch_px=16, image_px=64)
    write_teacher(folder / "strides", {Sensor.RGB: ("ship",)}, teacher_model(backbone=backbone, strides=(16, 32, 64)))
    message = refused(folder, capsys, teacher=str(folder / "strides"))
    assert "strides (16, 32, 64), the student's on (8, 16, 32, 64)" in message and "not sar, ir" in message
    assert "distill.class_weight, distill.box_weight, distill.direction_weight to 0" in message


def test_wrong_settings_are_listed_with_a_teacher_that_is_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(folder, capsys, teacher=str(folder), steps=0, distill={"temperature": 4, "least_score": 1})
    assert "teacher: " in message and "is not a checkpoint" in message and "(4)" in message
    assert "steps: " in message and "distill.temperature" in message and "distill.least_score" in message


def test_gaps_that_weigh_nothing_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = dict.fromkeys(("feature_weight", "class_weight", "box_weight", "direction_weight"), 0)
    assert "nothing is taken from the teacher" in refused(folder, capsys, distill=none)


def test_a_dry_run_says_what_the_teacher_costs_and_trains_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, [*run_arguments(folder, "dry"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    count = sum(p.numel() for p in load_checkpoint(folder / "teacher")[0].parameters())
    assert f"The teacher adds {count / 1e6:.3f} million parameters" in printed and "every 128 px crop" in printed
    assert "AdamW moments" in printed and not (folder / "dry").exists()
