from __future__ import annotations

import numpy as np
import pytest
import torch

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from tests.train.builders import CLASSES, random_detector, random_pixels, tiny_backbone, tiny_model
from train.models.detector import PIXEL_MEAN, PIXEL_STD, Detector, SensorDetector, normalise
from train.models.head import decode_geometry, to_oriented, unit_directions
from train.models.pyramid import Pyramid, anchor_points, level_sizes

SIZES = [(64, 64), (64, 96), (96, 64), (72, 104), (40, 200), (65, 33)]


def test_normalisation_uses_one_band_three_times() -> None:
    for channels in (1, 3):
        pixels = random_pixels((2, 5, 7, channels), 0)
        wide = np.repeat(pixels.numpy().astype(np.float64), 3 // channels, axis=3)
        wanted = ((wide - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)).transpose(0, 3, 1, 2)
        found = normalise(pixels)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("strides", [(8, 16, 32, 64), (4, 8, 16), (16, 32)])
def test_pyramid_maps_have_the_sizes_that_the_anchor_points_assume(
    height: int, width: int, strides: tuple[int, ...]
) -> None:
    detector = random_detector(tiny_model(strides=strides), 0)
    with torch.no_grad():
        maps = detector.features(torch.randn(1, 3, height, width))
    sizes = [(-(-height // stride), -(-width // stride)) for stride in strides]
    assert [tuple(level.shape[-2:]) for level in maps] == sizes == level_sizes(height, width, strides)
    points, point_strides = anchor_points(height, width, strides, torch.device("cpu"))
    wanted = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride, (rows, columns) in zip(strides, sizes, strict=True)
        for row in range(rows)
        for column in range(columns)
    ]
    assert torch.cat([points, point_strides[:, None]], 1).tolist() == [list(row) for row in wanted]


def test_a_timm_backbone_feeds_the_same_pyramid() -> None:
    backbone = tiny_backbone(name="vit_tiny_patch16_224", taps=(3, 6), stem_widths=(8, 8, 8), stem_blocks=(0, 0, 0))
    detector = Detector(tiny_model(backbone=backbone), CLASSES).eval()
    with torch.no_grad():
        raw = detector({Sensor.SAR: random_pixels((1, 64, 96, 1), 0)})[Sensor.SAR]
    assert raw.logits.shape == (1, 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 1)


def test_sensors_that_share_a_batch_do_not_mix() -> None:
    detector = random_detector(tiny_model(), 1)
    pixels = {sensor: random_pixels((2, 64, 96, sensor.num_channels), index) for index, sensor in enumerate(Sensor)}
    with torch.no_grad():
        together = detector(pixels)
        for sensor, images in pixels.items():
            alone = detector({sensor: images})[sensor]
            torch.testing.assert_close(together[sensor].logits, alone.logits, rtol=1e-4, atol=1e-4)
            assert together[sensor].logits.shape[-1] == len(CLASSES[sensor])
            assert (together[sensor].directions is None) == (sensor is Sensor.SAR)


@pytest.mark.parametrize("sensor", list(Sensor))
@pytest.mark.parametrize(("height", "width"), SIZES[:4])
def test_top_boxes_are_those_of_decoding_everything_and_sorting(sensor: Sensor, height: int, width: int) -> None:
    detector = random_detector(tiny_model(), 3)
    pixels = random_pixels((2, height, width, sensor.num_channels), 4)
    with torch.no_grad():
        boxes, scores, labels = SensorDetector(detector, sensor, 17).eval()(pixels)
        raw = detector({sensor: pixels})[sensor]
        points, strides = anchor_points(height, width, detector.config.strides, pixels.device)
        geometry = decode_geometry(raw.distributions, points, strides)
        everything = to_oriented(geometry, unit_directions(raw.directions, geometry)).numpy()
    probabilities = raw.logits.double().sigmoid().numpy()
    assert boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.int32
    for image in range(2):
        best = probabilities[image].max(axis=1)
        order = np.argsort(-best, kind="stable")[:17]
        assert np.diff(np.sort(best)[-18:]).min() > 1e-9, "a tie: choose another seed"
        np.testing.assert_allclose(scores[image].numpy(), best[order], atol=1e-5)
        np.testing.assert_array_equal(labels[image].numpy(), probabilities[image].argmax(axis=1)[order])
        np.testing.assert_allclose(boxes[image].numpy(), everything[image][order], atol=1e-2)
        assert (np.diff(scores[image].numpy()) <= 0).all()


def test_fewer_points_than_asked_give_all_of_them() -> None:
    boxes, scores, labels = SensorDetector(random_detector(tiny_model(), 3), Sensor.IR, 500).eval()(
        random_pixels((1, 64, 64, 1), 0)
    )
    assert boxes.shape == (1, 85, 5) and scores.shape == labels.shape == (1, 85)


def test_every_part_but_the_unused_learns() -> None:
    """Gradients reach every parameter, so that none is exported at its random start."""
    torch.manual_seed(0)
    detector = Detector(tiny_model(), CLASSES).train()
    pixels = {sensor: random_pixels((2, 64, 96, sensor.num_channels), index) for index, sensor in enumerate(Sensor)}
    total = torch.zeros(())
    for raw in detector(pixels).values():
        for tensor in (raw.logits, raw.distributions, raw.directions):
            total = total if tensor is None else total + (tensor * torch.randn_like(tensor)).sum()
    total.backward()
    unreached = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert unreached == []


def test_a_backbone_whose_patches_do_not_fit_the_pyramid_is_refused() -> None:
    with pytest.raises(BabelRSError, match="14 px"):
        Pyramid(16, 14, {4: 8, 8: 8}, (8, 16), 16)
