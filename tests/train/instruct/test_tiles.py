from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from babelrs.images import Frame
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor
from train.instruct.tiles import choose_grid, cut_tiles, degraded, displayed, normalised, visual_tokens


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    return np.array(Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("sizes", "expected"), [((448, 14, 0.5), 256), ((448, 16, 0.5), 196), ((224, 14, 0.5), 64), ((64, 16, 1.0), 16)]
)
def test_visual_tokens_follow_tile_patch_and_shuffle(sizes: tuple[int, int, float], expected: int) -> None:
    assert visual_tokens(*sizes) == expected


@pytest.mark.parametrize("sizes", [(450, 14, 0.5), (70, 14, 0.5), (14, 14, 0.5)])
def test_sizes_that_give_no_whole_number_of_tokens_are_refused(sizes: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError):
        visual_tokens(*sizes)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 12))
def test_no_allowed_grid_is_closer_in_shape(width: int, height: int, most: int) -> None:
    columns, rows = choose_grid(width, height, most, 448)
    assert columns * rows <= most
    chosen = abs(Fraction(columns, rows) - Fraction(width, height))
    best = min(
        abs(Fraction(c, r) - Fraction(width, height))
        for c in range(1, most + 1)
        for r in range(1, most + 1)
        if c * r <= most
    )
    assert float(chosen - best) <= 1e-12


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((448, 448), 6, (1, 1)),
        ((640, 640), 6, (2, 2)),  # 640^2 is more than half of 4 * 448^2
        ((600, 600), 6, (1, 1)),  # 600^2 is not
        ((800, 400), 6, (2, 1)),
        ((800, 600), 6, (3, 2)),
        ((300, 1500), 6, (1, 5)),
        ((900, 600), 2, (2, 1)),  # 1:1 and 2:1 are equally far
        ((300, 200), 2, (1, 1)),
    ],
)
def test_of_equally_close_grids_the_larger_needs_a_large_image(
    size: tuple[int, int], most: int, expected: tuple[int, int]
) -> None:
    assert choose_grid(*size, most, 448) == expected


def test_tiles_are_the_resized_image_cut_row_by_row_and_the_thumbnail_is_last() -> None:
    image = picture(90, 140)
    assert choose_grid(140, 90, 6, 32) == (3, 2)
    tiles = cut_tiles(image, 6, 32)
    assert tiles.shape == (7, 3, 32, 32) and tiles.dtype == np.uint8
    whole = np.asarray(Pillow.fromarray(image).resize((96, 64), Pillow.Resampling.BICUBIC)).astype(int)
    for number in range(6):
        row, column = divmod(number, 3)
        part = whole[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.abs(tiles[number].transpose(1, 2, 0) - part).max() <= 1
    small = np.asarray(Pillow.fromarray(image).resize((32, 32), Pillow.Resampling.BICUBIC)).astype(int)
    assert np.abs(tiles[6].transpose(1, 2, 0) - small).max() <= 1


def test_one_tile_has_no_thumbnail_and_thumbnails_can_be_left_out() -> None:
    assert len(cut_tiles(picture(40, 40), 1, 32)) == 1
    assert len(cut_tiles(picture(40, 120), 6, 32, thumbnail=False)) == 3
    exact = picture(32, 32)
    assert (cut_tiles(exact, 1, 32)[0] == exact.transpose(2, 0, 1)).all()


def test_normalisation_is_imagenets() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    expected = (tiles / 255.0 - np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)) / np.array(
        [0.229, 0.224, 0.225]
    ).reshape(1, 3, 1, 1)
    torch.testing.assert_close(normalised(torch.from_numpy(tiles)).double().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "shape", "named", "taken"),
    [
        ("uint8", (8, 9), None, Sensor.RGB),
        ("uint8", (8, 9, 3), None, Sensor.RGB),
        ("uint16", (8, 9), None, Sensor.IR),
        ("uint16", (8, 9, 3), None, Sensor.RGB),
        ("float32", (8, 9), None, Sensor.SAR),
        ("float32", (8, 9), Sensor.IR, Sensor.IR),
        ("uint16", (8, 9), Sensor.SAR, Sensor.SAR),
    ],
)
def test_radiometry_is_the_named_sensors_else_what_the_file_suggests(
    dtype: str, shape: tuple[int, ...], named: Sensor | None, taken: Sensor
) -> None:
    counts = np.random.default_rng(1).uniform(1, 200, shape) * (40 if dtype == "uint16" else 1)
    frame = Frame((-counts / 8 if dtype == "float32" else counts).astype(dtype))
    expected = to_uint8(frame, DEFAULT_PROFILES[taken])
    assert (displayed(frame, named) == expected).all() and displayed(frame, named).shape == (8, 9, 3)


def test_degrading_changes_pixels_a_little_and_by_seed() -> None:
    image = picture(64, 64)
    first, again, other = (degraded(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any() and 0 < np.abs(first.astype(int) - image).mean() < 12
