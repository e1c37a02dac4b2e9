from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from babelrs.boxes import to_corners
from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from tests.train.builders import CLASSES, dota_line, write_all_sensors, write_text_image
from train.config import AugmentConfig, BatchConfig, DataConfig
from train.data.batches import Batch, CropDataset, Draw, RatioSampler, make_loader
from train.data.soi_det import read_split

SIZES = {Sensor.RGB: 7, Sensor.SAR: 5, Sensor.IR: 3}
COUNTS = {Sensor.RGB: 2, Sensor.SAR: 4, Sensor.IR: 1}
AUGMENT = AugmentConfig.model_validate({"crop_px": 64, "scale_min": 0.8, "scale_max": 1.2, "min_visible": 0.3})
BATCH = BatchConfig.model_validate({"rgb": 1, "sar": 2, "ir": 1})


def draws(steps: int = 30, seed: int = 5, first_step: int = 0) -> list[list[Draw]]:
    return list(RatioSampler(SIZES, COUNTS, steps, seed, first_step))


def test_every_batch_has_the_sensors_in_the_asked_ratio() -> None:
    for batch in draws():
        assert Counter(draw.sensor for draw in batch) == COUNTS


@pytest.mark.parametrize("sensor", list(Sensor))
def test_each_epoch_of_a_sensor_visits_each_sample_once_in_another_order(sensor: Sensor) -> None:
    visited = [draw.index for batch in draws(60) for draw in batch if draw.sensor is sensor]
    size = SIZES[sensor]
    epochs = [tuple(visited[start : start + size]) for start in range(0, len(visited) - size + 1, size)]
    assert len(epochs) >= 8 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_no_two_images_share_a_seed() -> None:
    seeds = [draw.seed for batch in draws(40) for draw in batch]
    assert len(set(seeds)) == len(seeds)


def test_the_seed_decides_order_and_augmentation() -> None:
    assert draws() == draws() and draws(seed=6) != draws()
    assert [[d.index for d in batch] for batch in draws(seed=6)] != [[d.index for d in batch] for batch in draws()]


@pytest.mark.parametrize("first_step", [1, 7, 29, 30])
def test_a_later_start_continues_the_same_sequence(first_step: int) -> None:
    late = RatioSampler(SIZES, COUNTS, 30, 5, first_step)
    assert list(late) == draws()[first_step:] and len(late) == 30 - first_step


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CropDataset:
    root = tmp_path_factory.mktemp("release")
    write_all_sensors(root, "train", count=3)
    return make_dataset(root)


def make_dataset(root: Path, cache: bool = True) -> CropDataset:
    samples = read_split(root, list(Sensor), "train")
    profiles = {sensor: DEFAULT_PROFILES[sensor] for sensor in samples}
    return CropDataset(samples, CLASSES, profiles, AUGMENT, cache)


def load(dataset: CropDataset, workers: int, first_step: int = 0, seed: int = 1) -> list[Batch]:
    data = DataConfig.model_validate({"workers": workers})
    return list(make_loader(dataset, BATCH, data, steps=4, seed=seed, first_step=first_step))


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.pixels.keys() == second.pixels.keys()
    for sensor, images in first.pixels.items():
        torch.testing.assert_close(images, second.pixels[sensor], rtol=0, atol=0)
        for one, other in zip(first.targets[sensor], second.targets[sensor], strict=True):
            for name in ("boxes", "labels", "ignore_boxes"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_batches_do_not_depend_on_the_number_of_workers(dataset: CropDataset) -> None:
    plain, spread = load(dataset, 0), load(dataset, 2)
    assert len(plain) == len(spread) == 4
    for first, second in zip(plain, spread, strict=True):
        assert_equal(first, second)


def test_batches_continue_where_a_run_left_off_and_differ_with_the_seed(dataset: CropDataset) -> None:
    whole = load(dataset, 0)
    for first, second in zip(whole[2:], load(dataset, 0, first_step=2), strict=True):
        assert_equal(first, second)
    other = load(dataset, 0, seed=2)
    assert any(not torch.equal(a.pixels[Sensor.RGB], b.pixels[Sensor.RGB]) for a, b in zip(whole, other, strict=True))


def test_caching_does_not_change_a_batch(dataset: CropDataset, tmp_path: Path) -> None:
    write_all_sensors(tmp_path, "train", count=3)
    for first, second in zip(load(make_dataset(tmp_path, cache=False), 0), load(dataset, 0), strict=True):
        assert_equal(first, second)


def test_batches_have_the_shapes_and_types_that_the_model_takes(dataset: CropDataset) -> None:
    for batch in load(dataset, 0):
        for sensor, count in ((Sensor.RGB, 1), (Sensor.SAR, 2), (Sensor.IR, 1)):
            assert batch.pixels[sensor].shape == (count, 64, 64, sensor.num_channels)
            assert batch.pixels[sensor].dtype == torch.uint8 and len(batch.targets[sensor]) == count
            for target in batch.targets[sensor]:
                assert target.boxes.dtype == torch.float32 and target.labels.dtype == torch.long
                assert target.boxes.shape == (len(target.labels), 5) and target.ignore_boxes.shape[1] == 5


def test_labels_stay_with_their_boxes(tmp_path: Path) -> None:
    """Each class has its own size, so that a label on another object's box would show."""
    lengths = {"Bicycle": 8.0, "Car": 16.0, "Person": 24.0}
    rng = np.random.default_rng(0)
    for index in range(4):
        names = rng.permutation(list(lengths))
        lines = [
            dota_line([12 + 26 * k, 20 + 20 * k, lengths[n], 5, 0.3], n, int(k == index % 3))
            for k, n in enumerate(names)
        ]
        write_text_image(tmp_path, Sensor.IR, "train", f"i{index}", lines, (80, 80))
    samples = read_split(tmp_path, [Sensor.IR], "train")
    config = AUGMENT.model_copy(update={"scale_min": 1.0, "scale_max": 1.0, "min_visible": 0.2})
    profiles = {Sensor.IR: DEFAULT_PROFILES[Sensor.IR]}
    dataset = CropDataset(samples, {Sensor.IR: CLASSES[Sensor.IR]}, profiles, config, True)
    seen: Counter[str] = Counter()
    for batch in islice(RatioSampler({Sensor.IR: 4}, {Sensor.IR: 2}, 20, 0), 20):
        for draw in batch:
            target = dataset[draw].targets
            for box, label in zip(target.boxes.numpy(), target.labels.tolist(), strict=True):
                name = CLASSES[Sensor.IR][label]
                assert abs(box[2] - lengths[name]) < 0.01
                seen[name] += 1
            assert np.isfinite(to_corners(target.boxes.numpy())).all()
    assert min(seen[name] for name in lengths) > 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_run_with_a_message_that_names_it(tmp_path: Path, workers: int) -> None:
    write_all_sensors(tmp_path, "train", count=1)
    image = tmp_path / "DroneVehicle/dota_train/png_images/i0.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(BabelRSError) as caught:
        load(make_dataset(tmp_path), workers)
    assert str(image) in str(caught.value) and "Traceback" not in str(caught.value)
