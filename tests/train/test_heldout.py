from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.train.instruct.builders import row, small_config, small_tokenizer, write_meta, write_set
from tests.train.models.vlms import vlm_config
from train.heldout import Answered, HeldOutRow, ask, choose_rows, held_out_losses, scores
from train.instruct.corpus import InstructSet, read_meta
from train.instruct.examples import ExampleMaker
from train.instruct.rows import TURN_END, Row, parse_row
from train.instruct.tiles import normalised
from train.models.csia import CSIA
from train.models.vlm_build import build_vlm, read_vocabulary

SENSORS = ("rgb", "sar", "ir")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[InstructSet]:
    """A set a sensor of ten rows; one row of each is no conversation and one image does not decode."""
    folder = tmp_path_factory.mktemp("held")
    rng = np.random.default_rng(2)
    (folder / "images").mkdir()
    entries = {}
    for sensor in SENSORS:
        rows: list[object] = []
        for number in range(9):
            name = f"{sensor}{number}.png"
            cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (32, 32), dtype=np.uint8))
            given = row(number, "<image>\n" + "how many " * (1 + number % 3), str(number % 4), name)
            rows.append({**given, "sensor": sensor, "tasks": ["counting"]})
        (folder / "images" / f"{sensor}3.png").write_bytes(b"no image")
        entries[sensor] = write_set(folder, sensor, [*map(json.dumps, rows), '{"id": 9}'], length=10)
    return read_meta(write_meta(folder, entries))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[CSIA, ExampleMaker]:
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    torch.manual_seed(3)
    vocabulary = read_vocabulary(tokenizer.get_vocab(), TURN_END, str(tokenizer.pad_token))
    csia = CSIA(build_vlm(vlm_config(drop_path=0.5), vocabulary), chunk=7)
    return csia, ExampleMaker(small_config(tile_px=32, patch_px=8), tokenizer)


def test_rows_are_drawn_evenly_from_all_sets_and_broken_ones_passed_over(sets: list[InstructSet]) -> None:
    held = choose_rows(sets, 30, seed=1)
    assert {sensor: sum(one.sensor == sensor for one in held) for sensor in SENSORS} == dict.fromkeys(SENSORS, 9)
    few = choose_rows(sets, 6, seed=1)
    assert len({(one.item.name, one.number) for one in few}) == len(few) and 4 <= len(few) <= 6
    assert choose_rows(sets, 6, seed=1) == few and choose_rows(sets, 6, seed=2) != few


def test_losses_are_those_of_the_rows_one_by_one(sets: list[InstructSet], model: tuple[CSIA, ExampleMaker]) -> None:
    csia, make = model
    held = choose_rows(sets, 30, seed=0)
    found = held_out_losses(csia.train(), held, make, batch=4, autocast=torch.float32)
    assert csia.training
    sums: dict[str, list[float]] = {sensor: [] for sensor in SENSORS}
    csia.eval()
    for one in held:
        if one.row.images[0].endswith("3.png"):
            continue
        example = make(one.row, one.read)
        labels = torch.from_numpy(example.labels)
        with torch.no_grad():
            ids = torch.from_numpy(example.input_ids)[None]
            logits = csia.vlm(input_ids=ids, pixel_values=normalised(torch.from_numpy(example.tiles))).logits[0]
        losses = functional.cross_entropy(logits[:-1].double(), labels[1:], reduction="none", ignore_index=-100)
        sums[one.sensor] += losses[labels[1:] != -100].tolist()
    for sensor in SENSORS:
        assert found.by_sensor[sensor] == pytest.approx(np.mean(sums[sensor]), abs=1e-5)
    assert found.mean == pytest.approx(np.mean([loss for part in sums.values() for loss in part]), abs=1e-5)


def test_every_usable_row_is_asked_once(sets: list[InstructSet], model: tuple[CSIA, ExampleMaker]) -> None:
    csia, make = model
    held = choose_rows(sets, 30, seed=0)
    answered = ask(csia, make.tokenizer, held, make, max_tokens=2, batch=4, autocast=torch.float32)
    usable = [one for one in held if not one.row.images[0].endswith("3.png")]
    assert [one.held for one in answered] == usable and len(usable) == 24


def said(sensor: str, task: str, truth: str, answer: str) -> Answered:
    given = {**row(0, "q", truth), "sensor": sensor, "tasks": [task]}
    return Answered(HeldOutRow(parse_row(json.dumps(given)), InstructSet("s", Path(), Path()), 0), answer)


def test_scores_and_majorities_are_those_counted_by_hand() -> None:
    answered = [
        said("rgb", "counting", "2", "2"), said("rgb", "counting", "2", "3"), said("rgb", "counting", "0", "0"),
        said("ir", "counting", "5", "2"),
        said("rgb", "sensor", "optical", "Optical"), said("rgb", "sensor", "optical", "infrared"),
        said("ir", "sensor", "infrared", "infrared"),
        said("rgb", "caption", "a", "a"), said("rgb", "referring", "b", "b"),
    ]  # fmt: skip
    found = scores(answered)
    assert {sensor: set(tasks) for sensor, tasks in found.items()} == {
        "rgb": {"counting", "sensor"}, "ir": {"counting", "sensor"}
    }  # fmt: skip
    counting = found["rgb"]["counting"]
    assert (counting.rows, counting.right, counting.majority) == (3, 2, pytest.approx(2 / 3))
    assert found["ir"]["counting"].majority == 1 and found["ir"]["counting"].right == 0
    sensor = found["rgb"]["sensor"]
    assert (sensor.rows, sensor.right, sensor.majority) == (2, 1, pytest.approx(2 / 3))  # of all three
    assert found["ir"]["sensor"].majority == pytest.approx(2 / 3)


def test_a_row_without_sensor_or_task_is_not_scored() -> None:
    bare = HeldOutRow(Row("r", (), (("q", "a"),)), InstructSet("s", Path(), Path()), 0)
    assert (bare.sensor, bare.task) == ("unnamed", "unnamed") and scores([Answered(bare, "a")]) == {}
