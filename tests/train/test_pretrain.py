from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

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
        **changes,
    }  # fmt: skip
    file = folder / f"{out}.yaml"
    file.write_text(json.dumps(content))
    return ["--config", str(file)]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    write_all_sensors(folder / "data", "train", count=6)
    assert run_command(write_instructions, ["--data", str(folder / "data"), "--out", str(folder / "instructions")]) == 0
    assert run_command(main, arguments(folder, "one")) == 0
    return folder


def test_the_layers_weights_follow_the_optimiser_s_steps_and_the_loss_falls(folder: Path) -> None:
    lines = metrics(folder / "one")
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
    np.testing.assert_allclose(losses(folder / parallel), losses(folder / f"still.{parallel}"), rtol=0, atol=1e-4)


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
    weights = folder / "one/final/backbone"
    settings = json.loads((weights / "backbone.json").read_text())["backbone"]
    model = {
        "backbone": {**settings, "weights": str(weights), "stem_widths": [8, 8, 12], "stem_blocks": [0, 0, 0]},
        "pyramid_channels": 16, "head_channels": 16,
    }  # fmt: skip
    still = {"lr": 1e-12, "warmup_steps": 0, "weight_decay": 0.0}
    given = finetune_arguments(folder, "detector", model=model, steps=1, optimizer=still)
    assert run_command(finetune, given) == 0
    detector = load_checkpoint(folder / "detector" / "final")[0]
    vlm, _, _ = read_model(folder / "one" / "final")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps, _ = vlm.model.tapped(images)
        found = detector.backbone(images).taps
    for tap, expected in zip(found, taps, strict=True):
        torch.testing.assert_close(tap[:, 1:], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(detector.aggregate.weights, torch.full_like(detector.aggregate.weights, 1 / 3))


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
