from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from compress.calibration import CalibrationConfig, CalibrationSet, as_seen_by, choose_samples, read_calibration
from tests.compress.tiny_data import write_data
from train.data.soi_det import read_split

INPUT_PX = dict.fromkeys(Sensor, (64, 64))


def read(root: Path, **changes: object) -> CalibrationSet:
    config = CalibrationConfig.model_validate({"images_per_sensor": 3, **changes})
    measured = read_split(root, list(Sensor), "eval")
    return read_calibration(config, root, DEFAULT_PROFILES, INPUT_PX, measured)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def test_images_are_named_with_the_hash_of_their_file(root: Path) -> None:
    found = read(root)
    learnt = read_split(root, list(Sensor), "train")
    by_name = {sample.path.name: sample.path for group in learnt.values() for sample in group}
    assert {sensor: len(images) for sensor, images in found.images.items()} == dict.fromkeys(Sensor, 3)
    for sensor, images in found.images.items():
        for image in images:
            assert image.sha256 == hashlib.sha256(by_name[image.name].read_bytes()).hexdigest()
            assert image.pixels.shape == (64, 64, sensor.num_channels)
    first = found.images[Sensor.IR][0]
    assert found.to_dict()["ir"][0] == {"file": first.name, "sha256": first.sha256}


def test_a_seed_draws_the_same_images_and_tiles(root: Path) -> None:
    first, again, other = read(root), read(root), read(root, seed=1)
    assert first.to_dict() == again.to_dict() != other.to_dict()
    for sensor in Sensor:
        for a, b in zip(first.images[sensor], again.images[sensor], strict=True):
            np.testing.assert_array_equal(a.pixels, b.pixels)


def test_nothing_is_drawn_twice(root: Path) -> None:
    samples = read_split(root, [Sensor.IR], "train")[Sensor.IR]
    drawn = choose_samples(samples, 100, 5, Sensor.IR)
    assert sorted(sample.path for sample in drawn) == sorted(sample.path for sample in samples)


def test_an_image_that_is_measured_on_is_found_under_another_name(root: Path) -> None:
    held_out = read_split(root, [Sensor.IR], "eval")[Sensor.IR][0].path
    taken = read_split(root, [Sensor.IR], "train")[Sensor.IR][0].path
    shutil.copy(held_out, taken)
    with pytest.raises(BabelRSError, match=rf"ir: {taken.name} is measured on too, as .*{held_out.name}"):
        read(root, images_per_sensor=4)


def test_black_images_are_left_out_and_nothing_but_black_is_refused(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [sample.path for sample in read_split(root, [Sensor.IR], "train")[Sensor.IR]]
    cv2.imwrite(str(paths[0]), np.zeros((72, 80), np.uint8))
    with caplog.at_level(logging.WARNING):
        assert len(read(root, images_per_sensor=4).images[Sensor.IR]) == 3
    assert "left out 1 images of one single value" in caplog.text and paths[0].name in caplog.text
    for path in paths:
        cv2.imwrite(str(path), np.full((72, 80), 200, np.uint8))
    with pytest.raises(BabelRSError, match="ir: all 4 images drawn are of one single value"):
        read(root, images_per_sensor=4)


def test_few_images_are_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(root)
    assert "sar: only 3 calibration images" in caplog.text


def test_another_sensor_s_bands_and_size_are_taken() -> None:
    colour = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    grey = as_seen_by(colour, 1)
    np.testing.assert_array_equal(grey[..., 0], colour[..., 1])  # the middle of three neighbours is their mean
    np.testing.assert_array_equal(as_seen_by(grey, 3), np.stack([grey[..., 0]] * 3, -1))
    placed = as_seen_by(colour, 3, (2, 6))
    np.testing.assert_array_equal(placed[:, :, :4], colour[:, :2])
    assert placed.shape == (2, 2, 6, 3) and not placed[:, :, 4:].any()
    np.testing.assert_array_equal(as_seen_by(colour, 3, (3, 4)), colour)
