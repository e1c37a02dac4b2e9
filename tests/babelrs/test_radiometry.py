"""Counts become the model's uint8 image exactly as the profile says; NumPy in float64 is the oracle."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from babelrs.errors import BabelRSError
from babelrs.images import Frame, ImageError
from babelrs.radiometry import (
    DEFAULT_PROFILES,
    RadiometryProfile,
    Stretch,
    fit_window,
    to_uint8,
    valid_mask,
)
from babelrs.sensors import Sensor

IR, SAR, RGB = (DEFAULT_PROFILES[sensor] for sensor in (Sensor.IR, Sensor.SAR, Sensor.RGB))

uint16_images = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
float_images = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=24),
    elements=st.floats(-200, 200, width=32),
)


def oracle(pixels: npt.NDArray[Any], stretch: Stretch, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The stretch by definition, float64, without rounding."""
    values = pixels.astype(np.float64)
    if stretch.transform != "none":
        factor = {"amplitude_to_db": 20.0, "intensity_to_db": 10.0}[stretch.transform]
        with np.errstate(divide="ignore"):
            values = factor * np.log10(values)
    low, high = stretch.low, stretch.high
    if stretch.window == "percentile":
        if not valid.any():
            return np.zeros(pixels.shape)
        low, high = np.percentile(values[valid], [stretch.low, stretch.high])
        if high - low < stretch.min_span:
            middle = (low + high) / 2
            low, high = middle - stretch.min_span / 2, middle + stretch.min_span / 2
    return np.where(valid, np.clip((values - low) / (high - low), 0, 1) * 255, 0.0)


def assert_rounds(image: npt.NDArray[np.uint8], expected: npt.NDArray[np.float64]) -> None:
    assert np.all(np.abs(image[..., 0] - expected) <= 0.5 + 1e-6)


@given(uint16_images)
def test_thermal_counts_follow_the_percentiles(pixels: npt.NDArray[np.uint16]) -> None:
    expected = oracle(pixels, IR.stretches["uint16"], np.ones(pixels.shape, np.bool_))
    assert_rounds(to_uint8(Frame(pixels), IR), expected)


@given(uint16_images)
def test_sar_amplitudes_follow_the_percentiles_of_their_decibels(pixels: npt.NDArray[np.uint16]) -> None:
    assert_rounds(to_uint8(Frame(pixels), SAR), oracle(pixels, SAR.stretches["uint16"], pixels > 0))


@given(float_images)
def test_calibrated_backscatter_has_a_fixed_window(pixels: npt.NDArray[np.float32]) -> None:
    frame = Frame(pixels)
    assert fit_window(frame, SAR) == (-30.0, 10.0)
    expected = np.clip((pixels.astype(np.float64) + 30) / 40, 0, 1) * 255
    assert_rounds(to_uint8(frame, SAR), expected)


def test_intensity_becomes_decibels() -> None:
    profile = RadiometryProfile(Sensor.SAR, {"float32": Stretch("intensity_to_db", "fixed", -30.0, 10.0)})
    pixels = np.array([[0.0, 1e-3, 0.1, 1.0, 10.0, 100.0, -1.0]], np.float32)
    assert to_uint8(Frame(pixels), profile)[0, :, 0].tolist() == [0, 0, 128, 191, 255, 255, 0]
    assert valid_mask(Frame(pixels), profile)[0].tolist() == [False, True, True, True, True, True, False]


@given(uint16_images, st.sampled_from([IR, SAR]))
def test_brighter_counts_never_become_darker(pixels: npt.NDArray[np.uint16], profile: RadiometryProfile) -> None:
    image = to_uint8(Frame(pixels), profile)[..., 0].reshape(-1)
    order = np.argsort(pixels, axis=None)
    assert np.all(np.diff(image[order].astype(int)) >= 0)


@pytest.mark.parametrize("profile", [IR, SAR, RGB])
@given(data=st.data())
def test_eight_bit_images_pass_unchanged(profile: RadiometryProfile, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=16))
    pixels = data.draw(hnp.arrays(np.uint8, (*shape, profile.sensor.num_channels)))
    before = pixels.copy()
    image = to_uint8(Frame(pixels), profile)
    assert np.array_equal(image, before) and np.array_equal(pixels, before)
    assert image.shape == (*shape, profile.sensor.num_channels) and not np.shares_memory(image, pixels)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@given(seed=st.integers(0, 2**31))
def test_nodata_never_changes_the_window(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1000, 9000, (16, 20)).astype(dtype)
    holes = rng.random(pixels.shape) < 0.3
    holes[0, 0] = False
    values = [Frame(np.where(holes, nodata, pixels).astype(dtype), float(nodata)) for nodata in (0, 65_535)]
    alone = fit_window(Frame(pixels[~holes].reshape(1, -1)), IR)
    assert fit_window(values[0], IR) == fit_window(values[1], IR) == pytest.approx(alone)
    for frame in values:
        image = to_uint8(frame, IR)
        assert np.array_equal(valid_mask(frame, IR), ~holes)
        assert np.all(image[holes] == 0)
        assert np.array_equal(image[~holes], to_uint8(Frame(pixels), IR, alone)[~holes])


def test_the_frames_nodata_goes_before_the_profiles() -> None:
    profile = replace(IR, nodata=5.0)
    pixels = np.array([[5, 7, 9]], np.uint16)
    assert valid_mask(Frame(pixels), profile)[0].tolist() == [False, True, True]
    assert valid_mask(Frame(pixels, 7.0), profile)[0].tolist() == [True, False, True]


def test_nan_and_infinity_become_zero_and_do_not_count() -> None:
    pixels = np.linspace(270, 300, 100, dtype=np.float32).reshape(10, 10)
    holed = pixels.copy()
    holed[0, :3] = [np.nan, np.inf, -np.inf]
    image = to_uint8(Frame(holed), IR)
    assert image[0, :3, 0].tolist() == [0, 0, 0]
    assert fit_window(Frame(holed), IR) == pytest.approx(
        fit_window(Frame(pixels[pixels > holed[0, 3] - 0.01][None]), IR)
    )


@pytest.mark.parametrize("pixels", [np.full((4, 4), np.nan, np.float32), np.full((4, 4), -99, np.float32)])
def test_a_frame_without_any_measurement_is_black(pixels: npt.NDArray[np.float32]) -> None:
    for profile in (IR, SAR, RGB):
        frame = Frame(pixels, -99.0)
        assert not to_uint8(frame, profile).any() and not valid_mask(frame, profile).any()


def test_the_noise_of_a_flat_frame_stays_small() -> None:
    noise = np.random.default_rng(3).normal(7000, 2, (128, 128))
    image = to_uint8(Frame(noise.astype(np.uint16)), IR)
    assert image.std() < 8 and abs(float(image.mean()) - 127) < 4
    low, high = fit_window(Frame(noise.astype(np.uint16)), IR)
    assert high - low == pytest.approx(IR.stretches["uint16"].min_span)


@given(st.integers(0, 65_535), st.sampled_from(["uint16", "float32"]), st.sampled_from([IR, RGB]))
def test_a_constant_frame_has_a_window(value: int, dtype: str, profile: RadiometryProfile) -> None:
    frame = Frame(np.full((3, 4), value, dtype))
    low, high = fit_window(frame, profile)
    assert low < value < high and high - low >= profile.stretches[dtype].min_span - 1e-9


def test_tiles_of_a_scene_share_its_window() -> None:
    pixels = np.random.default_rng(4).integers(0, 16_000, (40, 60)).astype(np.uint16)
    scene = Frame(pixels)
    window, whole = fit_window(scene, IR), to_uint8(scene, IR)
    assert np.array_equal(to_uint8(Frame(pixels[10:30, 5:25]), IR, window), whole[10:30, 5:25])


def test_a_large_float_scene_is_stretched_alike_in_every_block() -> None:
    pixels = np.random.default_rng(5).uniform(-40, 20, (1300, 1700)).astype(np.float32)
    assert_rounds(to_uint8(Frame(pixels), SAR), np.clip((pixels.astype(np.float64) + 30) / 40, 0, 1) * 255)


def test_sixteen_bit_colour_shares_one_window_over_the_bands() -> None:
    rng = np.random.default_rng(6)
    pixels = np.stack([rng.integers(0, high, (30, 30)) for high in (4000, 2000, 1000)], axis=-1).astype(np.uint16)
    low, high = np.percentile(pixels, [0.5, 99.5])
    assert fit_window(Frame(pixels), RGB) == pytest.approx((low, high))
    image = to_uint8(Frame(pixels), RGB)
    assert image[..., 0].mean() > 1.8 * image[..., 1].mean() > 3.2 * image[..., 2].mean()


def test_alpha_is_no_channel_and_hides_what_is_transparent() -> None:
    pixels = np.full((4, 4, 4), 10_000, np.uint16)
    pixels[..., 3] = 255
    pixels[0, :, 3] = 0
    frame = Frame(pixels, has_alpha=True)
    image = to_uint8(frame, RGB)
    assert image.shape == (4, 4, 3) and not image[0].any() and image[1:].all()
    assert fit_window(frame, RGB)[1] > 10_000


def test_a_fourth_data_band_does_not_reach_the_model() -> None:
    pixels = np.zeros((4, 4, 4), np.uint16)
    pixels[..., 3] = 60_000  # near infrared
    assert fit_window(Frame(pixels), RGB) == (-32.0, 32.0)


def test_nodata_in_one_band_of_a_colour_image_is_a_colour() -> None:
    pixels = np.array([[[0, 9, 9], [0, 0, 0]]], np.uint8)
    assert valid_mask(Frame(pixels, 0.0), RGB)[0].tolist() == [True, False]


@pytest.mark.parametrize("profile", [IR, SAR])
@pytest.mark.parametrize("difference", [0, 2])
def test_a_gray_image_saved_as_colour_is_gray(profile: RadiometryProfile, difference: int) -> None:
    gray = np.arange(20, 40, dtype=np.uint8).reshape(4, 5)
    pixels = np.stack([gray, gray + difference, gray - difference], axis=-1).astype(np.uint8)
    assert np.array_equal(to_uint8(Frame(pixels), profile)[..., 0], gray)


@pytest.mark.parametrize(
    ("pixels", "sensor", "has_alpha", "needed"),
    [
        (np.arange(0, 144, 3).reshape(4, 4, 3), Sensor.SAR, False, "takes 1"),
        (np.arange(0, 144, 3).reshape(4, 4, 3), Sensor.IR, False, "takes 1"),
        (np.zeros((4, 4, 2)), Sensor.IR, False, "takes 1"),
        (np.zeros((4, 4, 4)), Sensor.SAR, False, "takes 1"),
        (np.zeros((4, 4, 2)), Sensor.RGB, False, "takes 3"),
        (np.zeros((4, 4, 5)), Sensor.RGB, False, "takes 3"),
    ],
)
def test_the_wrong_number_of_bands_is_refused(
    pixels: npt.NDArray[Any], sensor: Sensor, has_alpha: bool, needed: str
) -> None:
    frame = Frame(pixels.astype(np.uint8), None, "scene.tif", has_alpha)
    for call in (to_uint8, fit_window, valid_mask):
        with pytest.raises(ImageError, match=rf"scene\.tif: .*{needed}") as caught:
            call(frame, DEFAULT_PROFILES[sensor])
        assert caught.value.cause == "band count"


def test_gray_serves_as_rgb_and_gray_with_alpha_as_infrared() -> None:
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(to_uint8(Frame(gray), RGB), np.stack([gray] * 3, axis=-1))
    with_alpha = Frame(np.stack([gray, np.full_like(gray, 255)], axis=-1), has_alpha=True)
    assert np.array_equal(to_uint8(with_alpha, IR)[..., 0], gray)


@pytest.mark.parametrize("dtype", ["int32", "float64", "bool"])
def test_a_number_type_outside_the_profile_is_refused(dtype: str) -> None:
    with pytest.raises(ImageError, match=f"f.tif: ir pixels are {dtype}"):
        to_uint8(Frame(np.zeros((2, 2), dtype), source="f.tif"), IR)


def test_linear_backscatter_draws_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        to_uint8(Frame(np.full((2, 2), -3, np.float32), source="db.tif"), SAR)
        assert not caplog.messages
        to_uint8(Frame(np.full((2, 2), 0.1, np.float32), source="linear.tif"), SAR)
    assert "linear.tif" in caplog.text


@pytest.mark.parametrize("sensor", list(Sensor))
def test_a_profile_survives_json(sensor: Sensor) -> None:
    profile = replace(DEFAULT_PROFILES[sensor], nodata=-99.0)
    assert RadiometryProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": "log"}, "transform 'log'"),
        ({"window": "minmax"}, "window 'minmax'"),
        ({"low": 5.0, "high": 5.0}, "not below"),
        ({"high": 101.0}, "not within 0..100"),
        ({"low": float("nan")}, "finite"),
        ({"high": "99"}, "finite"),
        ({"min_span": -1.0}, "negative"),
        ({"window": "none"}, "uint8 only"),
        ({"gamma": 2.0}, "gamma"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_value(change: dict[str, Any], message: str) -> None:
    values = IR.to_dict()
    values["stretches"]["uint16"].update(change)
    with pytest.raises(BabelRSError, match=message):
        RadiometryProfile.from_dict(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sensor": "ir", "nodata": None},
        {**IR.to_dict(), "extra": 1},
        {**IR.to_dict(), "sensor": "lidar"},
        {**IR.to_dict(), "nodata": "x"},
        {**IR.to_dict(), "stretches": {}},
        {**IR.to_dict(), "stretches": {"int8": {}}},
    ],
)
def test_a_profile_with_other_fields_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(BabelRSError):
        RadiometryProfile.from_dict(values)
