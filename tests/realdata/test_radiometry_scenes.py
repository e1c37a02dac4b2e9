"""Real scenes are visible to the model: neither black nor saturated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from babelrs.images import read_frame
from babelrs.radiometry import DEFAULT_PROFILES, fit_window, to_uint8, valid_mask
from babelrs.sensors import Sensor

pytestmark = pytest.mark.realdata


def test_a_thermal_frame_of_334_counts_fills_the_range(shared_data: Path) -> None:
    frame = read_frame(shared_data / "scenes" / "flirpy_example_radiometric.tiff")
    low, high = fit_window(frame, DEFAULT_PROFILES[Sensor.IR])
    assert (low, high) == tuple(np.percentile(frame.pixels, [0.5, 99.5])) and 200 < high - low < 334
    image = to_uint8(frame, DEFAULT_PROFILES[Sensor.IR])
    assert image.std() > 40 and np.mean((image == 0) | (image == 255)) < 0.015


def test_sentinel_1_backscatter_is_neither_black_nor_saturated(shared_data: Path) -> None:
    frame = read_frame(shared_data / "scenes" / "S1A_IW_20150309_VV_geo_norm_db.tif")
    image = to_uint8(frame, DEFAULT_PROFILES[Sensor.SAR])
    low, high = np.percentile(image, [1, 99])
    assert high - low > 100 and np.mean((image == 0) | (image == 255)) < 1e-3


def test_the_collar_of_a_georeferenced_scene_is_no_measurement(shared_data: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the oracle is the geo extra")
    path = shared_data / "scenes" / "rasterio_RGB.byte.tif"
    mask = valid_mask(read_frame(path), DEFAULT_PROFILES[Sensor.RGB])
    with rasterio.open(path) as file:
        assert np.array_equal(mask, file.dataset_mask() > 0)


def test_alpha_of_a_sixteen_bit_scene_hides_its_surround(shared_data: Path) -> None:
    frame = read_frame(shared_data / "scenes" / "rasterio_RGBA.uint16.tif")
    image = to_uint8(frame, DEFAULT_PROFILES[Sensor.RGB])
    hidden = frame.pixels[..., 3] == 0
    assert image.shape[2] == 3 and 0.2 < hidden.mean() < 0.8
    assert not image[hidden].any() and image[~hidden].all()
