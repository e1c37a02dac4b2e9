from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.source import load_source
from compress.targets import Target, read_targets
from tests.train.builders import random_detector, random_pixels, save_tiny, tiny_model
from train.models.detector import SensorDetector


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "c"
    save_tiny(folder, random_detector(tiny_model(), 4))
    return folder


def target(**changes: Any) -> Target:
    return read_targets()["jetson-orin"].model_copy(update=changes)


def test_all_sensors_are_served_where_none_are_named(saved: Path) -> None:
    detector, checkpoint = load_source(saved, target(), None)
    assert set(checkpoint.classes) == set(Sensor) and set(detector.heads) == {"rgb", "sar", "ir"}


def test_sensors_that_are_not_asked_for_leave_no_head_behind(saved: Path) -> None:
    detector, checkpoint = load_source(saved, target(), [Sensor.IR])
    whole, _ = load_source(saved, target(), None)
    assert list(checkpoint.classes) == list(checkpoint.profiles) == [Sensor.IR]
    assert {name.split(".")[1] for name in detector.state_dict() if name.startswith("heads.")} == {"ir"}
    pixels = random_pixels((1, 64, 64, 1), 3)
    with torch.inference_mode():
        for mine, theirs in zip(
            SensorDetector(detector, Sensor.IR, 24)(pixels), SensorDetector(whole, Sensor.IR, 24)(pixels), strict=True
        ):
            assert torch.equal(mine, theirs)


def test_the_targets_input_sizes_replace_the_checkpoints(saved: Path) -> None:
    detector, checkpoint = load_source(saved, target(input_px={Sensor.RGB: (128, 64)}), None)
    for model in (checkpoint.model, detector.config):
        assert model.input_px.of(Sensor.RGB) == (128, 64)
        assert model.input_px.of(Sensor.SAR) == tiny_model().input_px.of(Sensor.SAR)


def test_an_input_size_that_is_no_whole_number_of_tokens_is_refused(saved: Path) -> None:
    with pytest.raises(BabelRSError, match=r"jetson-orin: .*ir input \(100, 64\) is not a multiple of 32"):
        load_source(saved, target(input_px={Sensor.IR: (100, 64)}), None)


def test_a_sensor_that_the_checkpoint_lacks_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "c", random_detector(tiny_model(), 5, {Sensor.SAR: ("vehicle",)}))
    with pytest.raises(BabelRSError, match=r"does not serve rgb, ir\. It serves sar"):
        load_source(tmp_path / "c", target(), [Sensor.RGB, Sensor.SAR, Sensor.IR])
