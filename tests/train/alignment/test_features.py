from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
import torch
from torch import nn
from torch.nn import functional

from babelrs.boxes import to_corners
from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from tests.train.builders import random_detector, tiny_model
from train.alignment.features import LabelledImages, label_images, mean_tap, object_features, tokens_in_boxes
from train.alignment.sources import Subject
from train.data.samples import Sample
from train.instruct.concepts import CONCEPTS
from train.models.backbone import Features
from train.models.detector import normalise

STRIDE = 8


class Patches(nn.Module):
    """Stands for a backbone: every token is its patch's mean pixel, tapped once, and once three times as large."""

    prefix_tokens, stride = 1, STRIDE

    def forward(self, images: torch.Tensor) -> Features:
        maps = functional.avg_pool2d(images, STRIDE)
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([torch.full_like(tokens[:, :1], 1e6), tokens], 1)  # a class token that must not be seen
        return Features((tokens, 3 * tokens), (int(maps.shape[2]), int(maps.shape[3])), {})


def subject(backbone: nn.Module, **changes: Any) -> Subject:
    sizes = {"input_px": {"rgb": (64, 64), "sar": (64, 64), "ir": (64, 64)}, "tile_overlap": 0.25, **changes}
    detector = random_detector(tiny_model(**sizes), seed=0)
    detector.backbone = backbone  # type: ignore[assignment]
    return Subject(detector, dict(DEFAULT_PROFILES), False, {})


def sample(path: Path, boxes: Any, names: tuple[str, ...], sensor: Sensor = Sensor.RGB, ignore: Any = None) -> Sample:
    array = np.array(boxes, np.float32).reshape(-1, 5)
    return Sample(path, sensor, array, names, np.zeros(len(array), bool) if ignore is None else np.array(ignore))


def write_image(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A random RGB image; returned as the model sees it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels[..., ::-1])
    return pixels


def test_tokens_are_those_whose_centres_shapely_finds_in_the_box_and_the_box_s_own() -> None:
    rng = np.random.default_rng(7)
    grid, stride = (9, 13), 16
    centres = rng.uniform(0, 1, (300, 2)) * (13 * stride, 9 * stride)
    long = rng.uniform(1, 120, (300, 2))
    sides = np.sort(long, 1)[:, ::-1]
    boxes = np.column_stack([centres, sides, rng.uniform(-np.pi / 2, np.pi / 2, 300)]).astype(np.float32)
    found = tokens_in_boxes(boxes, grid, stride).reshape(-1, *grid)
    for box, mask in zip(boxes, found, strict=True):
        polygon = shapely.Polygon(to_corners(box[None])[0])
        for row in range(grid[0]):
            for column in range(grid[1]):
                point = shapely.Point((column + 0.5) * stride, (row + 0.5) * stride)
                if polygon.exterior.distance(point) < 1e-3:
                    continue
                own = (row, column) == (int(box[1] // stride), int(box[0] // stride))
                assert mask[row, column] == (polygon.contains(point) or own), (box, row, column)
    assert found.any((1, 2)).all() and (found.sum((1, 2)) == 1).sum() > 10 and found.sum((1, 2)).max() > 20


def test_a_small_box_has_the_token_in_which_its_centre_lies() -> None:
    boxes = np.array([[17.0, 2.0, 3.0, 2.0, 0.3], [32.0, 24.0, 1.0, 1.0, 0.0]], np.float32)
    found = tokens_in_boxes(boxes, (3, 4), 8)
    assert np.flatnonzero(found[0]).tolist() == [2]
    assert np.flatnonzero(found[1]).tolist() == [11], "the last token where the centre is on the far edge"


def test_objects_of_a_large_image_are_the_means_of_their_tokens_whatever_the_tile(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "large.png", 112, 160)
    rng = np.random.default_rng(3)
    count = 40
    boxes = np.column_stack([
        rng.uniform(8, 152, count), rng.uniform(8, 104, count), rng.uniform(9, 11, count), rng.uniform(6, 9, count),
        rng.uniform(-1.5, 1.5, count),
    ]).astype(np.float32)  # fmt: skip
    names = tuple(f"class {index:02d}" for index in range(count))
    labelled = LabelledImages([sample(tmp_path / "large.png", boxes, names)], dict.fromkeys(names, 1))
    seen = object_features(subject(Patches()), {Sensor.RGB: labelled}, torch.device("cpu"), batch_size=4)[Sensor.RGB]
    assert sorted(seen.concepts) == sorted(names) and not seen.images.any()
    whole = normalise(torch.from_numpy(pixels)[None])[0].double().numpy()
    tokens = 2 * whole.reshape(3, 14, 8, 20, 8).mean((2, 4))  # mean of the taps 1 x and 3 x
    for box, name in zip(boxes, names, strict=True):
        polygon = shapely.Polygon(to_corners(box[None])[0])
        inside = {(int(box[1] // 8), int(box[0] // 8))}
        inside |= {
            (y, x) for y in range(14) for x in range(20) if polygon.contains(shapely.Point(8 * x + 4, 8 * y + 4))
        }
        wanted = np.mean([tokens[:, y, x] for y, x in inside], 0)
        np.testing.assert_allclose(seen.features[seen.concepts.index(name)], wanted, atol=1e-4)


def test_tokens_beyond_the_image_are_nobody_s(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "small.png", 24, 16)
    reaching = [[12.0, 20.0, 60.0, 60.0, 0.0]]
    labelled = LabelledImages([sample(tmp_path / "small.png", reaching, ("car",))], {"car": 1})
    seen = object_features(subject(Patches()), {Sensor.RGB: labelled}, torch.device("cpu"), batch_size=1)[Sensor.RGB]
    wanted = 2 * normalise(torch.from_numpy(pixels)[None])[0].numpy().mean((1, 2))
    np.testing.assert_allclose(seen.features[0], wanted, atol=1e-4)


def test_images_are_told_apart_and_centres_outside_are_left_out(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / f"{index}.png", 64, 64, index)
    inside, outside = [30.0, 30.0, 8.0, 8.0, 0.0], [90.0, 30.0, 60.0, 8.0, 0.0]
    images = [
        sample(tmp_path / "0.png", [inside, outside], ("car", "car")),
        sample(tmp_path / "1.png", [outside], ("car",)),
        sample(tmp_path / "2.png", [inside, inside], ("car", "ship")),
    ]
    labelled = {Sensor.RGB: LabelledImages(images, {"car": 4, "ship": 1})}
    seen = object_features(subject(Patches()), labelled, torch.device("cpu"), batch_size=2)[Sensor.RGB]
    assert seen.images.tolist() == [0, 2, 2] and seen.concepts == ("car", "car", "ship")
    nowhere = {Sensor.RGB: LabelledImages(images[1:2], {"car": 1})}
    with pytest.raises(BabelRSError, match="rgb: the centres of all objects lie outside"):
        object_features(subject(Patches()), nowhere, torch.device("cpu"), batch_size=2)


def test_taps_weigh_alike_and_prefix_tokens_are_dropped() -> None:
    taps = [torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    wanted = np.mean([tap.numpy()[:, 2:].astype(np.float64) for tap in taps], 0)
    np.testing.assert_allclose(mean_tap(taps, 2).numpy(), wanted, atol=1e-6)


def test_features_that_are_not_finite_name_the_image(tmp_path: Path) -> None:
    class Broken(Patches):
        def forward(self, images: torch.Tensor) -> Features:
            seen = super().forward(images)
            return Features((seen.taps[0], seen.taps[1] * torch.nan), seen.grid, {})

    write_image(tmp_path / "one.png", 64, 64)
    labelled = LabelledImages([sample(tmp_path / "one.png", [[9, 9, 8, 8, 0]], ("car",))], {"car": 1})
    with pytest.raises(BabelRSError, match=r"one\.png: the backbone's features hold NaN"):
        object_features(subject(Broken()), {Sensor.RGB: labelled}, torch.device("cpu"), batch_size=1)


def test_names_are_concepts_and_what_is_difficult_or_rare_is_left_out() -> None:
    box = [9, 9, 8, 8, 0]
    group = [
        sample(Path("0.png"), [box] * 4, ("small-vehicle", "plane", "ship", "ship"), ignore=[False, False, True, True]),
        sample(Path("1.png"), [box] * 2, ("car", "plane")),
        sample(Path("2.png"), [box], ("bridge",)),
    ]
    found = label_images({Sensor.RGB: group}, CONCEPTS, min_objects=2)[Sensor.RGB]
    assert found.counts == {"aircraft": 2, "car": 2} and found.rare == {"bridge": 1} and found.ignored == 2
    assert [one.names for one in found.samples] == [("car", "aircraft"), ("car", "aircraft")]
    assert len(found.samples[0].boxes) == len(found.samples[0].ignore) == 2


def test_a_sensor_without_objects_or_with_too_few_is_refused() -> None:
    difficult = sample(Path("0.png"), [[9, 9, 8, 8, 0]], ("car",), ignore=[True])
    with pytest.raises(BabelRSError, match="ir: no object in 1 images"):
        label_images({Sensor.IR: [difficult]}, CONCEPTS, 1)
    few = sample(Path("0.png"), [[9, 9, 8, 8, 0]], ("car",))
    with pytest.raises(BabelRSError, match="sar: no concept has min_objects 2 objects; there are car 1"):
        label_images({Sensor.SAR: [few]}, CONCEPTS, 2)
