"""A pretraining of some four minutes on one thread learns to see: what it says of scenes that it did not learn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from benchmarks.launching import metrics
from train.data.soi_det import Split, read_split
from train.instruct.__main__ import main as write_instructions
from train.pretrain import main
from train.simulate import main as simulate

STEPS = 1500
MODEL: dict[str, Any] = {
    "name": "tiny", "merge": "lvsa", "tau": 200, "taps": [1, 2, 3, 4],
    "vision": {"image_px": 128, "patch_px": 16, "width": 96, "depth": 4, "num_heads": 3, "mlp_ratio": 3.0},
    "text": {"width": 128, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "hidden": 320, "max_tokens": 512},
}  # fmt: skip
TASKS = ("counting", "classification", "sensor")
CONCEPTS = "car: vehicle\ntruck: vehicle\n"


def instructions(scenes: Path, split: Split, out: Path, turns: int) -> Path:
    """Questions about the scenes that hold something: of empty ones every count is 0, and so is the best guess."""
    concepts = scenes / "concepts.yaml"
    concepts.write_text(CONCEPTS)
    given = ["--data", str(scenes), "--split", split, "--out", str(out), "--samples", "4", "--turns", str(turns)]
    given += ["--tasks", ",".join(TASKS), "--absent-share", "0.35", "--concepts", str(concepts)]
    assert run_command(write_instructions, given) == 0
    for sensor, samples in read_split(scenes, list(Sensor), split).items():
        full = {sample.path.name for sample in samples if sample.names}
        file = out / f"{sensor}.jsonl"
        rows = [row for row in file.read_text().splitlines() if Path(json.loads(row)["image"]).name in full]
        file.write_text("\n".join(rows) + "\n")
    meta = json.loads((out / "meta.json").read_text())
    for values in meta.values():
        del values["length"]
    (out / "meta.json").write_text(json.dumps(meta))
    return out / "meta.json"


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What was measured on held-out scenes before the first step and after the last."""
    folder = tmp_path_factory.mktemp("pretraining")
    scenes = folder / "scenes"
    given = ["--out", str(scenes), "--train-scenes", "600", "--eval-scenes", "80", "--size", "128"]
    assert run_command(simulate, [*given, "--gsd", "0.2", "--seed", "3"]) == 0
    settings = {
        "out": str(folder / "run"),
        "steps": STEPS,
        "seed": 0,
        "sequences": 2,
        "log_every": 100,
        "save_every": STEPS,
        "model": MODEL,
        "tokenizer": {"vocabulary": 400},
        "data": {
            "meta": str(instructions(scenes, "train", folder / "learnt", 3)),
            "max_length": 512, "tile_px": 128, "patch_px": 16, "max_tiles": 1, "streams": 1, "system": "Answer.",
        },
        "optimizer": {"lr": 1e-3, "warmup_share": 0.05},
        "heldout": {
            "meta": str(instructions(scenes, "eval", folder / "held-out", 1)),
            "every": STEPS, "rows": 600, "max_tokens": 8, "batch": 32, "shown": 4,
        },
        "watch": {"trackers": []},
    }  # fmt: skip
    file = folder / "pretrain.yaml"
    file.write_text(json.dumps(settings))
    assert run_command(main, ["--config", str(file)]) == 0
    found = [line["held_out"] for line in metrics(folder / "run") if "held_out" in line]
    yield found[0], found[-1]


def test_the_loss_of_held_out_answers_falls_by_half(looks: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = looks
    assert after["loss"] <= before["loss"] / 2
    assert all(after["loss_by_sensor"][sensor] <= before["loss_by_sensor"][sensor] / 2 for sensor in before["answers"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sensor", list(Sensor))
def test_answers_about_held_out_scenes_beat_the_majority_answer(
    looks: tuple[dict[str, Any], dict[str, Any]], sensor: Sensor, task: str
) -> None:
    score = looks[1]["answers"][sensor.value][task]
    assert score["rows"] >= 50
    assert score["right"] > score["majority"]
