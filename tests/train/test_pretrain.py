from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from babelrs.errors import run_command
from benchmarks.launching import metrics, start, stop_after, train
from tests.train.builders import write_all_sensors
from tests.train.test_processes import arguments as finetune_arguments
from train.checkpoint import load_checkpoint
from train.finetune import main as finetune
from train.instruct.__main__ import main as write_instructions
from train.pretrain import main
from train.pretrain_files import read_model

MODULE = "train.pretrain"
STEPS = 8
TINY: dict[str, Any] = {
    "name": "tiny", "taps": [1, 2, 3], "tau": 4, "drop_path": 0.2,
    "vision": {"image_px": 32, "patch_px": 8, "width": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0},
    "text": {"width": 24, "depth": 2, "num_heads": 2, "num_kv_heads": 1, "hidden": 32, "max_tokens": 256},
}  # fmt: skip


def arguments(folder: Path, out: str, **changes: Any) -> list[str]:
    """A run of eight steps of four short sequences, logged step by step."""
    content = {
        "out": str(folder / out),
        "steps": STEPS,
        "seed": 2,
        "log_every": 1,
        "save_every": 3,
        "sequences": 4,
        "model": TINY,
        "tokenizer": {"vocabulary": 320},
        "data": {
            "meta": str(folder / "instructions/meta.json"),
            "max_length": 192, "tile_px": 32, "patch_px": 8, "max_tiles": 1, "streams": 2, "pack_buffer": 2,
        },
        "optimizer": {"lr": 1e-3},
        "watch": {"trackers": [], "peak_tflops": 1.0},
        "heldout": {"every": 4, "rows": 9, "shown": 2, "max_tokens": 4, "batch": 4},
        **changes,
    }  # fmt: skip
    file = folder / f"{out}.yaml"
    file.write_text(json.dumps(content))
    return ["--config", str(file)]


def steps(run: Path) -> list[dict[str, Any]]:
    """What was logged of the steps themselves."""
    return [line for line in metrics(run) if "loss" in line]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in steps(run)]


def looks(run: Path) -> list[dict[str, Any]]:
    """What was seen of the rows that are looked at."""
    return [line for line in metrics(run) if "held_out" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    write_all_sensors(folder / "data", "train", count=6)
    assert run_command(write_instructions, ["--data", str(folder / "data"), "--out", str(folder / "instructions")]) == 0
    assert run_command(main, arguments(folder, "one")) == 0
    return folder


def test_the_layers_weights_follow_the_optimiser_s_steps_and_the_loss_falls(folder: Path) -> None:
    lines = steps(folder / "one")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        alpha = min((line["step"] - 1) / 4, 1)
        assert line["layer_weights"] == pytest.approx([alpha / 3, alpha / 3, 1 - alpha + alpha / 3])
        assert line["tokens_per_s"] > 0 and line["mfu"] > 0
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05


def test_a_checkpoint_holds_a_model_that_answers_and_says_where_it_stands(folder: Path) -> None:
    model, tokenizer, record = read_model(folder / "one" / "final")
    assert model.lvsa_step == STEPS and record["step"] == STEPS and record["rows"]["rows"] > 0
    assert str(folder) not in json.dumps(record)
    ids = torch.tensor([tokenizer.encode("What sensor?")])
    assert model.generate(input_ids=ids, max_new_tokens=3).shape[1] > ids.shape[1]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(folder: Path, parallel: str) -> None:
    still = {**TINY, "drop_path": 0.0}
    assert run_command(main, arguments(folder, f"still.{parallel}", model=still)) == 0
    done = train(arguments(folder, parallel, model=still, parallel=parallel), processes=2, module=MODULE)
    assert done.returncode == 0, done.stderr
    one, two = folder / f"still.{parallel}", folder / parallel
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=1e-4)
    assert [line["step"] for line in looks(two)] == [0, 4, 8]
    seen = [[line["held_out"]["loss"] for line in looks(run)] for run in (one, two)]
    np.testing.assert_allclose(seen[1], seen[0], rtol=0, atol=1e-4)
    assert (two / "samples/step-0000008.jsonl").read_bytes() == (one / "samples/step-0000008.jsonl").read_bytes()


def test_rows_are_shown_with_their_answers_while_a_run_learns(folder: Path) -> None:
    one = folder / "one"
    assert [line["step"] for line in looks(one)] == [0, 4, STEPS] and looks(one)[0]["rows_of"] == "training"
    assert set(looks(one)[0]["held_out"]["loss_by_sensor"]) == {"rgb", "sar", "ir"}
    for step in (0, 4, STEPS):
        rows = [json.loads(line) for line in (one / f"samples/step-{step:07d}.jsonl").read_text().splitlines()]
        assert len(rows) == 2 and all(row["question"].startswith("<image>") and row["truth"] for row in rows)
        page = cv2.imread(str(one / f"samples/step-{step:07d}.png"))
        assert page is not None and page.std() > 5


def test_looking_changes_nothing_that_is_learnt(folder: Path) -> None:
    assert run_command(main, arguments(folder, "blind", heldout={"every": 0})) == 0
    assert losses(folder / "blind") == losses(folder / "one") and not looks(folder / "blind")
    assert not (folder / "blind/samples").exists()


def test_held_out_rows_are_those_of_their_own_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = json.loads((folder / "instructions/meta.json").read_text())
    name = next(iter(meta))
    (folder / "instructions/held.json").write_text(json.dumps({name: meta[name]}))
    given = ["--heldout.meta", str(folder / "instructions/held.json")]
    assert run_command(main, [*arguments(folder, "held"), *given]) == 0
    line = looks(folder / "held")[-1]
    assert line["rows_of"] == "held-out" and set(line["held_out"]["loss_by_sensor"]) == {name.split("_")[0]}
    assert str(folder) not in (folder / "held/final/pretraining.json").read_text()
    assert run_command(main, [*arguments(folder, "lost"), "--heldout.meta", str(folder / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err and not (folder / "lost").exists()


def test_a_step_in_parts_is_the_same_step(folder: Path) -> None:
    still = {**TINY, "drop_path": 0.0}
    assert run_command(main, arguments(folder, "whole", model=still)) == 0
    assert run_command(main, arguments(folder, "parts", model=still, accumulation=4)) == 0
    np.testing.assert_allclose(losses(folder / "parts"), losses(folder / "whole"), rtol=0, atol=1e-5)


def test_a_run_killed_at_a_random_step_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    steps = 24
    assert train(arguments(folder, "whole24", steps=steps), module=MODULE).returncode == 0
    step = random.SystemRandom().randint(4, 12)
    print(f"killed at step {step}")
    process = start(arguments(folder, "killed", steps=steps), module=MODULE)
    stop_after(process, folder / "killed", step, signal.SIGKILL)
    done = train([*arguments(folder, "killed", steps=steps), "--resume"], module=MODULE)
    assert done.returncode == 0, done.stderr
    assert losses(folder / "killed") == losses(folder / "whole24") and len(losses(folder / "killed")) == steps


def test_changed_settings_are_named_and_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, [*arguments(folder, "one"), "--resume", "--model.tau", "5", "--seed", "3"]) == 2
    message = capsys.readouterr().err
    assert "model.tau: 4 before, 5 now" in message and "seed: 2 before, 3 now" in message


def test_detection_begins_with_the_backbone_that_was_aligned(folder: Path) -> None:
    """The settings' own backbone is of another kind and gives way to the one that is handed over."""
    stem = {"stem_widths": [8, 8, 12], "stem_blocks": [0, 0, 0]}
    model = {"backbone": {"name": "conv_vit", "width": 99, **stem}, "pyramid_channels": 16, "head_channels": 16}
    still = {"lr": 1e-12, "warmup_steps": 0, "weight_decay": 0.0}
    given = finetune_arguments(folder, "detector", model=model, steps=1, optimizer=still)
    assert run_command(finetune, [*given, "--backbone", str(folder / "one")]) == 0
    detector = load_checkpoint(folder / "detector" / "final")[0]
    vlm, _, _ = read_model(folder / "one" / "final")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps, _ = vlm.model.tapped(images)
        found = detector.backbone(images).taps
    for tap, expected in zip(found, taps, strict=True):
        torch.testing.assert_close(tap[:, 1:], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(detector.aggregate.weights, torch.full_like(detector.aggregate.weights, 1 / 3))


def test_a_folder_without_a_backbone_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(finetune, [*finetune_arguments(folder, "no"), "--backbone", str(folder / "data")]) == 2
    assert f"{folder / 'data'} holds no backbone of a pretraining run" in capsys.readouterr().err


def test_wrong_settings_are_listed_and_nothing_is_started(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**TINY, "tau": 99}
    assert run_command(main, arguments(folder, "wrong", model=wrong)) == 2
    assert "tau 99 is beyond the run's 8 steps" in capsys.readouterr().err and not (folder / "wrong").exists()
    assert run_command(main, arguments(folder, "uneven", sequences=3, accumulation=2)) == 2
    assert "3 sequences are no multiple" in capsys.readouterr().err and not (folder / "uneven").exists()


def test_missing_images_and_broken_rows_are_named_before_anything_is_started(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = json.loads((folder / "instructions/meta.json").read_text())
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A ship."}]
    lost = [{"id": n, "image": f"lost{n}.png", "conversations": talk} for n in range(2)]
    (folder / "instructions/lost.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lost) + "{}\n")
    content = {**meta, "lost": {**next(iter(meta.values())), "annotation": "lost.jsonl", "length": 3}}
    (folder / "instructions/with-lost.json").write_text(json.dumps(content))
    given = [*arguments(folder, "lost"), "--data.meta", str(folder / "instructions/with-lost.json")]
    strict = ["--data.max-broken-share", "0", "--steps", "1", "--model.tau", "0"]
    assert run_command(main, [*given, *strict]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("lost0.png", "lost1.png", "lost, row 2: no conversation"))
    assert not (folder / "lost").exists()
    run_command(main, [*given, *strict, "--data.scan-rows", "3"])  # the sets have more: found while reading, if at all
    assert (folder / "lost").exists()
    assert run_command(main, [*given, "--steps", "1", "--model.tau", "0", "--out", str(folder / "few")]) == 0


def test_the_list_of_broken_rows_outlives_a_resume(folder: Path) -> None:
    meta = json.loads((folder / "instructions/meta.json").read_text())
    broken = folder / "instructions/broken.jsonl"
    broken.write_text('{"id": "no conversation"}\n')
    first = next(iter(meta.values()))
    content = {**meta, "broken": {**first, "annotation": "broken.jsonl", "length": 1}}
    (folder / "instructions/with-broken.json").write_text(json.dumps(content))
    given = [*arguments(folder, "listed"), "--data.meta", str(folder / "instructions/with-broken.json")]
    assert run_command(main, given) == 0
    file = folder / "listed/broken/rows.0.jsonl"
    before = file.read_bytes()
    assert b"no conversation" in before
    assert run_command(main, [*given, "--resume"]) == 0
    assert file.read_bytes() == before
