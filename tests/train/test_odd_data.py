"""Training on data that are not as one would wish: of mixed sizes and depths, with objects at and beyond the edges."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from benchmarks.launching import losses
from tests.train.builders import TEXT_FOLDERS, dota_line, write_all_sensors, write_text_image
from tests.train.test_processes import arguments
from train.checkpoint import load_checkpoint
from train.finetune import main


def write_deep(root: Path, stem: str, size: tuple[int, int], values: tuple[int, int]) -> None:
    """A 16-bit infrared image of raw counts between ``values``, with one car."""
    write_text_image(root, Sensor.IR, "train", stem, [dota_line([30, 30, 20, 10, 0.3], "Car")], size)
    image = root / TEXT_FOLDERS[Sensor.IR, "train"][0] / f"{stem}.png"
    counts = np.random.default_rng(1).integers(*values, size, dtype=np.uint16)
    cv2.imwrite(str(image), counts)


def test_images_of_mixed_size_and_depth_train_together(tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    write_deep(tmp_path / "data", "deep", (61, 97), (6743, 7077))
    write_deep(tmp_path / "data", "wide", (300, 40), (0, 65535))
    assert run_command(main, arguments(tmp_path, "mixed", steps=4)) == 0
    found = losses(tmp_path / "mixed")
    assert len(found) == 4 and all(math.isfinite(value) for line in found.values() for value in line)


def test_objects_over_and_beyond_the_edge_do_no_harm(tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    lines = [dota_line(box, "Car") for box in ([0, 0, 30, 12, 0.4], [79, 71, 24, 12, 1.2], [500, -300, 30, 12, 0.4])]
    write_text_image(tmp_path / "data", Sensor.IR, "train", "edge", lines, (72, 80))
    assert run_command(main, arguments(tmp_path, "edges", steps=4)) == 0
    assert len(losses(tmp_path / "edges")) == 4


def test_a_box_without_area_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    text = tmp_path / "data/DroneVehicle/dota_train/annfiles/i0.txt"
    text.write_text("5 5 5 5 5 5 5 5 Car 0\n")
    assert run_command(main, arguments(tmp_path, "flat", steps=4)) == 2
    assert "i0.txt:1: the box has no area" in capsys.readouterr().err and not (tmp_path / "flat").exists()


def test_images_of_one_name_in_two_sensors_stay_apart(tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    write_all_sensors(tmp_path / "data", "eval", count=1)
    for split in ("train", "eval"):
        for sensor, name in ((Sensor.RGB, "ship"), (Sensor.IR, "Car")):
            box = dota_line([40, 36, 24, 12, 0.4], name)
            write_text_image(tmp_path / "data", sensor, split, "same", [box], (72, 80))
    watch = {"trackers": [], "evaluate_every": 4}
    assert run_command(main, arguments(tmp_path, "names", steps=4, watch=watch)) == 0
    metrics = load_checkpoint(tmp_path / "names" / "last")[1].metrics
    assert {name: part["num_images"] for name, part in metrics["sensors"].items()} == {"rgb": 2, "sar": 1, "ir": 2}


def test_deterministic_runs_are_bit_equal(tmp_path: Path) -> None:
    write_all_sensors(tmp_path / "data", "train", count=2)
    try:
        for name in ("first", "second"):
            settings = arguments(tmp_path, name, steps=3, deterministic=True)
            assert run_command(main, settings) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
