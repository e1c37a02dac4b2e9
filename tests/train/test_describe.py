from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.errors import run_command
from tests.train.builders import write_all_sensors
from tests.train.test_pretrain import arguments
from train import describe
from train.describe import main
from train.instruct.__main__ import main as write_instructions
from train.pretrain import main as pretrain

BOXES = "<ref>ship</ref><box>[[100, 200, 500, 600]]</box> and <box>[[0, 0, 2000, 50]]</box>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("describe")
    write_all_sensors(folder / "data", "train", count=2)
    assert run_command(write_instructions, ["--data", str(folder / "data"), "--out", str(folder / "instructions")]) == 0
    assert run_command(pretrain, arguments(folder, "run", steps=4)) == 0
    return folder / "run"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "port.png"
    cv2.imwrite(str(path), np.full((100, 200), 90, np.uint8))
    return path


def test_every_image_gets_an_answer_and_broken_ones_are_named(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    given = ["--checkpoint", str(run), "--sensor", "ir", "--max-tokens", "3", "--out", str(tmp_path / "out")]
    assert run_command(main, [*given, str(picture), str(broken), str(picture)]) == 2
    out, err = capsys.readouterr()
    assert out.count(f"{picture}: ") == 2 and str(broken) not in out
    assert err.count(str(broken)) >= 1 and "not a PNG" in err
    assert run_command(main, [*given, str(picture)]) == 0


def test_boxes_are_printed_in_pixels_and_drawn_where_they_are(
    run: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe, "answers", lambda *_: [BOXES])
    given = ["--checkpoint", str(run / "final"), "--sensor", "ir", "--out", str(tmp_path / "out"), str(picture)]
    assert run_command(main, given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{picture}: {BOXES}"
    assert lines[1:3] == ["  ship: 20.0 20.0 100.0 60.0", "  box: 0.0 0.0 200.0 5.0"]
    drawn = cv2.imread(lines[3].strip()).astype(int)
    red = (drawn[..., 2] - drawn[..., 0]) > 60
    assert drawn.shape == (100, 200, 3) and red[40, 19:22].any() and red[40, 99:102].any()
    assert red[19:22, 60].any() and red[59:62, 60].any() and not red[40, 30:90].any() and not red[70:].any()


def test_what_is_read_is_what_the_model_was_trained_with(
    run: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        describe, "answers", lambda _, tokenizer, prompts, *more: seen.append((tokenizer, prompts[0])) or [""]
    )
    assert (
        run_command(main, ["--checkpoint", str(run), "--ask", "How many ships?", "--max-tiles", "1", str(picture)]) == 0
    )
    ((tokenizer, prompt),) = seen
    text = tokenizer.decode(prompt.input_ids)
    settings = json.loads((run / "final/pretraining.json").read_text())["settings"]["data"]
    assert text.endswith("How many ships?<|im_end|>\n<|im_start|>assistant\n") and settings["system"] in text
    assert prompt.tiles.shape == (1, 3, settings["tile_px"], settings["tile_px"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--sensor", "sonar"], "sonar"),
        (["--max-tokens", "0"], "--max-tokens 0 is below 1"),
        (["--ask", "<image> what?"], "--ask holds <image>"),
        (["--device", "abacus"], "The device abacus cannot be used"),
        (["--checkpoint", "nowhere"], "nowhere is no pretraining checkpoint"),
    ],
)
def test_wrong_arguments_are_named(
    run: Path, picture: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert run_command(main, ["--checkpoint", str(run), *given, str(picture)]) == 2
    assert message in capsys.readouterr().err
