from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from babelrs.errors import BabelRSError, run_command
from benchmarks.launching import losses, metrics, start, stop_after, train
from tests.train.builders import write_all_sensors
from tests.train.test_processes import arguments
from train.checkpoint import load_checkpoint
from train.finetune import main
from train.interruption import EXIT_INTERRUPTED
from train.training_state import check_unchanged

STEPS = 60
MODEL_DROPS_PATHS = {"stem_widths": [8, 8, 12, 16, 16], "stem_blocks": [0, 0, 1, 0, 0], "width": 16, "depth": 3,
                     "num_heads": 2, "taps": [1, 3], "drop_path": 0.3}  # fmt: skip


def run_arguments(folder: Path, out: str) -> list[str]:
    """A run with stochastic depth, so that the state of the random generator matters."""
    model = {"backbone": MODEL_DROPS_PATHS, "pyramid_channels": 16, "head_channels": 16}
    return arguments(folder, out, steps=STEPS, save_every=7, model=model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_all_sensors(folder / "data", "train", count=4)
    done = train(run_arguments(folder, "whole"))
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_course(folder: Path, out: str) -> None:
    whole, resumed = losses(folder / "whole"), losses(folder / out)
    assert list(resumed) == list(range(1, STEPS + 1))
    assert resumed == whole
    first, second = (load_checkpoint(folder / name / "final")[0].state_dict() for name in ("whole", out))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_run_killed_at_a_random_step_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    step = random.SystemRandom().randint(8, STEPS - 25)
    print(f"killed at step {step}")
    process = start(run_arguments(folder, "killed"))
    stop_after(process, folder / "killed", step, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (folder / "killed" / "final").exists()
    done = train([*run_arguments(folder, "killed"), "--resume"])
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert_same_course(folder, "killed")


def test_ctrl_c_saves_says_how_to_go_on_and_the_run_goes_on(folder: Path) -> None:
    process = start(run_arguments(folder, "interrupted"))
    stop_after(process, folder / "interrupted", 10, signal.SIGINT)
    assert process.returncode == EXIT_INTERRUPTED
    assert "--resume" in process.communicate()[1]
    saved = load_checkpoint(folder / "interrupted" / "last")[1].training["step"]
    assert saved == metrics(folder / "interrupted")[-1]["step"], "the step it was in is kept"
    done = train([*run_arguments(folder, "interrupted"), "--resume"])
    assert done.returncode == 0, done.stderr
    assert_same_course(folder, "interrupted")


def test_a_resume_with_other_settings_names_them_and_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in (folder / "whole").rglob("*"))
    changes = ["--optimizer.lr", "0.1", "--batch.sar", "2", "--data.workers", "1", "--resume"]
    assert run_command(main, [*run_arguments(folder, "whole"), *changes]) == 2
    message = capsys.readouterr().err
    assert "optimizer.lr: 0.0005 before, 0.1 now" in message and "batch.sar: 4 before, 2 now" in message
    assert "workers" not in message and "--init" in message
    assert sorted(path.name for path in (folder / "whole").rglob("*")) == before


def test_settings_that_change_no_result_may_change() -> None:
    check_unchanged({"save_every": 5, "data": {"workers": 0, "root": "a"}}, {"save_every": 6, "data": {"workers": 2}})
    with pytest.raises(BabelRSError, match="steps: 5 before, 6 now"):
        check_unchanged({"steps": 5}, {"steps": 6})


def test_a_resume_with_other_data_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = folder / "data/DroneVehicle/dota_train/annfiles/i0.txt"
    before = text.read_text()
    text.write_text(before.replace("1", "2", 1))
    try:
        assert run_command(main, [*run_arguments(folder, "whole"), "--resume"]) == 2
    finally:
        text.write_text(before)
    assert "training data are not those" in capsys.readouterr().err


def test_a_folder_without_a_run_cannot_be_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    assert run_command(main, [*run_arguments(tmp_path, "none"), "--resume"]) == 2
    assert "holds no run to continue" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_damaged_state_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "whole", folder / "damaged", symlinks=True)
    settings = json.loads((folder / "damaged/config.json").read_text())
    (folder / "damaged/config.json").write_text(json.dumps({**settings, "out": str(folder / "damaged")}))
    (folder / "damaged/last/training.safetensors").write_bytes(b"nothing")
    assert run_command(main, [*run_arguments(folder, "damaged"), "--resume"]) == 2
    assert "training state in" in capsys.readouterr().err
