from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import run_command
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from benchmarks.distillation import ALONE, TAUGHT, Arm, main, record_of, verdict
from benchmarks.seeds import accuracies, summary
from tests.compress.distillation_builders import CLASSES, write_teacher
from tests.train.builders import tiny_model, write_all_sensors
from train.checkpoint import Checkpoint

STUDENT = Checkpoint(
    tiny_model(),
    CLASSES,
    {sensor: DEFAULT_PROFILES[sensor] for sensor in CLASSES},
    {"images": {"rgb": 30, "sar": 10, "ir": 60}, "settings": {"batch": {"rgb": 2, "sar": 1, "ir": 4}}},
)


def lines(end: float) -> list[dict[str, Any]]:
    sensors = {
        name: {"ap50": end, "ap75": 0.0, "ap": end / place} for place, name in enumerate(("rgb", "sar", "ir"), 1)
    }
    step = {"gradient_norm": 1.0, "steps_per_s": 2.0, **{name: {"total": 3.0} for name in sensors}}
    return [
        {"step": 50, **step},
        {"step": 50, "h_map": end / 2, "evaluation": {"sensors": sensors}},
        {"step": 100, **step, "steps_per_s": 1.5},
        {"step": 100, "h_map": end, "evaluation": {"sensors": sensors}},
    ]


def records(**ends: list[float]) -> list[dict[str, Any]]:
    return [
        record_of(Arm(arm, s), lines(end), STUDENT) for arm, all_ends in ends.items() for s, end in enumerate(all_ends)
    ]


def test_a_record_counts_epochs_over_all_images() -> None:
    (record,) = records(alone=[0.2])
    assert [point["epochs"] for point in record["curve"]] == [3.5, 7.0]
    assert record["steps_per_s"] == 1.5 and record["at_the_end"] == {n: {"total": 3.0} for n in ("rgb", "sar", "ir")}


@pytest.mark.parametrize(
    ("alone", "taught", "said"),
    [
        ([0.10, 0.12, 0.11], [0.15, 0.13, 0.14], "+3.00 points, the seeds separate them: taught is above"),
        ([0.10, 0.14, 0.11], [0.15, 0.13, 0.14], "+2.33 points, the seeds do not separate them"),
        ([0.15, 0.16, 0.17], [0.12, 0.13, 0.14], "-3.00 points, the seeds separate them: alone is above"),
    ],
)
def test_the_verdict_is_that_of_the_seeds(alone: list[float], taught: list[float], said: str) -> None:
    assert {ALONE, TAUGHT} == {"alone", "taught"}
    text = verdict(summary(records(alone=alone, taught=taught), accuracies))
    assert said in text and "Weakest sensor (ir)" in text


def small_experiment(folder: Path) -> list[str]:
    settings = {
        "steps": 2, "save_every": 2, "log_every": 1, "data": {"workers": 0}, "augment": {"crop_px": 128},
        "model": json.loads(tiny_model().model_dump_json()), "batch": {"rgb": 1, "sar": 1, "ir": 1},
        "optimizer": {"warmup_steps": 0}, "watch": {"evaluate_every": 2, "trackers": []},
    }  # fmt: skip
    (folder / "settings.yaml").write_text(json.dumps(settings))
    for split in ("train", "eval"):
        write_all_sensors(folder / "data", split, count=2)
    write_teacher(folder / "teacher")
    return [
        "--data", str(folder / "data"), "--work", str(folder / "work"), "--teacher", str(folder / "teacher"),
        "--settings", str(folder / "settings.yaml"), "--seeds", "0", "--jobs", "1", "--out", str(folder / "result"),
        "--distill", "distill.gap_start_steps=1",
    ]  # fmt: skip


def test_both_arms_run_to_the_end_and_finished_ones_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = small_experiment(tmp_path)
    assert run_command(main, given) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    alone, taught = content["records"]
    assert (alone["arm"], taught["arm"]) == (ALONE, TAUGHT) and len(content["teacher"]["sha256"]) == 64
    for sensor in Sensor:
        assert "gap" not in alone["at_the_end"][sensor.value] and taught["at_the_end"][sensor.value]["gap"] > 0
    assert (tmp_path / "result.png").exists() and str(tmp_path) not in json.dumps(content)
    assert "H-mAP with a teacher" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert run_command(main, given) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    write_teacher(tmp_path / "teacher", seed=5)
    assert run_command(main, given) == 2
    assert "results of other settings" in capsys.readouterr().err
