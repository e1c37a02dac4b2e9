from __future__ import annotations

import cv2
import numpy as np
import pytest

from babelrs.boxes import to_corners
from babelrs.sensors import Sensor
from train.config import AugmentConfig
from train.data.augment import Crop, augment
from train.data.batches import RatioSampler
from train.data.mosaic import NARROWEST_SHARE, draw_windows, join

CONFIG = AugmentConfig.model_validate(
    {"crop_px": 256, "scale_min": 1.0, "scale_max": 1.2, "rotate_free": 0.5, "brightness": 0.0, "contrast": 0.0}
)


@pytest.mark.parametrize("seed", range(20))
def test_windows_tile_the_square(seed: int) -> None:
    covered = np.zeros((256, 256), int)
    for x, y, width, height in draw_windows(256, np.random.default_rng(seed)):
        covered[y : y + height, x : x + width] += 1
        assert min(width, height) >= int(NARROWEST_SHARE * 256)
    assert (covered == 1).all()


def part(seed: int, size: tuple[int, int]) -> Crop:
    """A crop of an image with bright rectangles where its objects are."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid([60, 160, 260, 360], [60, 160, 260, 360]), -1).reshape(-1, 2)
    boxes = np.column_stack([grid, np.full((16, 1), 40), np.full((16, 1), 16), rng.uniform(-1.5, 1.5, (16, 1))])
    boxes = boxes.astype(np.float32)
    pixels = np.zeros((420, 420, 1), np.uint8)
    for corners in to_corners(boxes):
        cv2.fillPoly(pixels[..., 0], [np.rint(corners - 0.5).astype(np.int32)], (250,))
    return augment(pixels, boxes, np.arange(16) % 5 == 0, Sensor.IR, CONFIG, rng, size)


@pytest.mark.parametrize("seed", range(8))
def test_a_mosaic_shows_every_box_where_its_pixels_are(seed: int) -> None:
    windows = draw_windows(256, np.random.default_rng(seed))
    parts = [part(seed * 10 + index, window[2:]) for index, window in enumerate(windows)]
    crop = join(parts, windows)
    assert crop.pixels.shape == (256, 256, 1)
    assert len(crop.boxes) == len(crop.kept) == sum(len(each.boxes) for each in parts) > 0
    assert len(crop.ignore_boxes) == sum(len(each.ignore_boxes) for each in parts)
    inside = [0 <= box[0] < 256 and 0 <= box[1] < 256 for box in crop.boxes]
    bright = [crop.pixels[int(box[1]), int(box[0]), 0] for box in crop.boxes[inside]]
    assert min(bright) > 200
    outlines = np.zeros((256, 256), np.uint8)
    for corners in to_corners(np.concatenate([crop.boxes, crop.ignore_boxes])):
        cv2.fillPoly(outlines, [np.rint(corners).astype(np.int32)], (1,))
    unexplained = (crop.pixels[..., 0] > 200) & (cv2.dilate(outlines, np.ones((5, 5), np.uint8)) == 0)
    assert not unexplained.any(), "bright pixels without a box"


def test_mosaics_come_in_their_share_and_stop_before_the_end() -> None:
    sampler = RatioSampler({Sensor.IR: 50}, {Sensor.IR: 4}, 500, 7, mosaic=(0.6, 400))
    chosen = np.array([[draw.mosaic for draw in batch] for batch in sampler])
    assert 0.55 < chosen[:400].mean() < 0.65 and not chosen[400:].any()
    late = RatioSampler({Sensor.IR: 50}, {Sensor.IR: 4}, 500, 7, first_step=250, mosaic=(0.6, 400))
    assert [[draw.mosaic for draw in batch] for batch in late] == chosen[250:].tolist()
