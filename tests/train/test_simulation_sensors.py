"""What each simulated sensor does to a known world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from train.simulation import sar, shapes
from train.simulation.infrared import MAX_COUNT, apparent_temperature, render_infrared
from train.simulation.materials import SIGMA_DB, Material
from train.simulation.rgb import render_rgb
from train.simulation.scenes import Plan, make_world
from train.simulation.surface import cast_shadow
from train.simulation.world import Ground, Setting, Solid, World


def flat_world(material: Material, *solids: Solid, night: bool = False, size: int = 256) -> World:
    shape = (size, size)
    setting = Setting("rural", "summer", night, night, 0.4, shape, 0.0, np.deg2rad(45), 0.2, 0)
    zeros = np.zeros(shape, np.float32)
    return World(setting, Ground(np.full(shape, material, np.uint8), zeros, zeros, zeros, zeros), solids)


@pytest.mark.parametrize("looks", [1.0, 4.0, 9.0])
def test_speckle_has_the_moments_of_a_gamma_law(looks: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sar, "TEXTURE_DB", np.zeros(10, np.float32))
    view = sar.render_sar(np.random.default_rng(4), flat_world(Material.GRASS, size=512), looks)
    power = 10 ** (view.pixels[8:-8, 8:-8].astype(np.float64) / 10)
    mean, deviation = power.mean(), power.std()
    assert mean**2 / deviation**2 == pytest.approx(looks, rel=0.03)  # equivalent number of looks
    assert ((power - mean) ** 3).mean() / deviation**3 == pytest.approx(2 / np.sqrt(looks), rel=0.08)
    assert power.mean() == pytest.approx(10 ** (SIGMA_DB[Material.GRASS] / 10), rel=1.0)


def test_speckle_is_independent_from_pixel_to_pixel() -> None:
    power = sar.speckle(np.random.default_rng(0), np.ones((400, 400), np.float32), 4.0)
    centred = power - power.mean()
    assert abs((centred[:, 1:] * centred[:, :-1]).mean() / centred.var()) < 0.01


def test_radar_shadow_and_layover_have_the_lengths_of_their_geometry() -> None:
    radar = sar.Radar(0, np.deg2rad(45), 4.0, -30.0)
    height = np.zeros((64, 200), np.float32)
    height[:, 100:110] = 8.0
    lit = sar._lit(height, radar, gsd_m=0.5)
    assert lit[32, :110].min() == 1
    dark = np.nonzero(lit[32] < 0.5)[0]
    assert dark.min() == 110
    assert dark.max() - 109 == pytest.approx(8.0 / 0.5, abs=1.0)  # h tan(incidence) / gsd
    ground = np.zeros_like(height)
    ground[:, 100:110] = 1.0
    hard = np.ones(height.shape, bool)
    power = sar._project(np.random.default_rng(0), ground, height, lit, hard, radar, 0.5)
    assert np.nonzero(power[32] > 0.5)[0].min() == pytest.approx(100 - 8.0 / 0.5, abs=1.0)  # h / tan(incidence) / gsd
    assert power[32].sum() > ground[32].sum()  # the wall adds to the roof


def test_a_tree_dims_the_ground_behind_it_and_a_wall_hides_it() -> None:
    radar = sar.Radar(0, np.deg2rad(45), 4.0, -30.0)
    height = np.zeros((8, 100), np.float32)
    height[:, 40:50] = 8.0
    behind = {}
    for name, solid in (("tree", False), ("wall", True)):
        hard = np.ones(height.shape, bool)
        hard[:, 40:50] = solid
        behind[name] = sar._lit_through_canopy(height, hard, radar, 1.0)[4, 53]
    assert behind["wall"] == 0
    assert 0.1 < behind["tree"] < 0.5


@pytest.mark.parametrize(("turns", "direction"), [(0, (1, 0)), (1, (0, -1)), (2, (-1, 0)), (3, (0, 1))])
def test_layover_leans_towards_the_radar_whichever_way_it_looks(turns: int, direction: tuple[int, int]) -> None:
    radar = sar.Radar(turns, np.deg2rad(45), 4.0, -30.0)
    height = np.zeros((101, 101), np.float32)
    height[48:53, 48:53] = 6.0
    lit = np.rot90(sar._lit(np.rot90(height, -turns), radar, 1.0), turns)
    rows, columns = np.nonzero(lit < 0.5)
    behind = np.array([columns.mean(), rows.mean()]) - 50
    assert np.dot(behind, direction) > 3
    assert abs(np.dot(behind, direction[::-1])) < 0.5
    assert tuple(radar.range_direction) == direction


def test_a_square_wall_facing_the_radar_outshines_the_ground() -> None:
    height = np.zeros((64, 128), np.float32)
    height[20:44, 60:90] = 5.0
    radar = sar.Radar(0, np.deg2rad(45), 4.0, -30.0)
    ground, hard = np.full(height.shape, 0.05, np.float32), np.ones(height.shape, bool)
    power = sar._project(np.random.default_rng(0), ground, height, sar._lit(height, radar, 0.5), hard, radar, 0.5)
    assert power[24:40, 57:61].max(axis=1).mean() > 50 * 0.05
    assert power[:, 100:].max() < 0.11


def test_sar_pixels_are_finite_decibels_above_the_noise() -> None:
    for scene in range(4):
        world = make_world(Plan(Path("unused"), 4, 0, 200, 200, seed=2), "train", scene)
        pixels = sar.render_sar(np.random.default_rng(scene), world, 4.0).pixels
        assert pixels.dtype == np.float32
        assert np.isfinite(pixels).all()
        assert -60 <= pixels.min() and pixels.max() < 60
        assert -30 < np.median(pixels) < 0


def test_infrared_counts_fit_14_bits_and_span_hundreds() -> None:
    for scene in range(6):
        world = make_world(Plan(Path("unused"), 6, 0, 200, 200, seed=2), "train", scene)
        counts = render_infrared(np.random.default_rng(scene), world).pixels
        assert counts.dtype == np.uint16
        assert counts.max() <= MAX_COUNT
        low, high = np.percentile(counts, [0.5, 99.5])
        assert 30 < high - low < 4000
        assert 500 < np.median(counts) < 12000


def test_water_is_colder_than_land_by_day_and_warmer_by_night() -> None:
    def mean(material: Material, night: bool) -> float:
        worlds = [
            apparent_temperature(np.random.default_rng(k), flat_world(material, night=night, size=64)) for k in range(5)
        ]
        return float(np.mean(worlds))

    assert mean(Material.WATER, False) < mean(Material.GRASS, False) - 2
    assert mean(Material.WATER, True) > mean(Material.GRASS, True) + 2
    assert mean(Material.ASPHALT, True) > mean(Material.GRASS, True) + 1


@pytest.mark.parametrize("night", [False, True])
def test_a_running_car_is_hottest_at_its_bonnet(night: bool) -> None:
    car = shapes.car(np.random.default_rng(3), 128.0, 128.0, 0.0, "driving", night)
    kelvin = apparent_temperature(np.random.default_rng(0), flat_world(Material.ASPHALT, car, night=night))
    half = int(car.length_m / 2 / 0.4)
    bonnet, tail = kelvin[127:130, 128 + half - 2 : 128 + half].mean(), kelvin[127:130, 129 - half : 131 - half].mean()
    assert bonnet > tail + 5
    assert car.words["thermal"] == "hot engine"


def test_parked_cars_cool_below_the_road_at_night() -> None:
    rng = np.random.default_rng(0)
    cold = [
        car for car in (shapes.car(rng, 0, 0, 0, "parked", True) for _ in range(60)) if "cold" in car.words["thermal"]
    ]
    assert len(cold) > 30
    assert np.mean([car.parts[0].kelvin for car in cold]) < -2


def test_sunlight_throws_shadows_away_from_the_sun_as_long_as_heights_ask() -> None:
    height = np.zeros((120, 120), np.float32)
    height[58:62, 58:62] = 10.0
    blocked = cast_shadow(height, azimuth_rad=0.0, elevation_rad=np.deg2rad(45), gsd_m=0.5)
    rows, columns = np.nonzero(blocked > 0.5)
    assert columns.max() < 58  # the sun stands to the right
    assert 58 - columns.min() == pytest.approx(10.0 / 0.5, abs=2)
    assert 57 <= rows.min() and rows.max() <= 62


def test_night_darkens_the_photograph_but_headlamps_remain() -> None:
    car = shapes.car(np.random.default_rng(3), 100.0, 128.0, 0.0, "driving", True)
    day = render_rgb(np.random.default_rng(0), flat_world(Material.ASPHALT, car)).pixels
    world = flat_world(Material.ASPHALT, car, night=True)
    night = render_rgb(np.random.default_rng(0), world).pixels
    assert night.mean() < 0.6 * day.mean()
    assert night[120:136, 110:130].mean() > 1.3 * night[:60].mean()
    parked = replace(car, words={**car.words, "state": "parked"})
    unlit = render_rgb(np.random.default_rng(0), replace(world, solids=(parked,))).pixels
    assert unlit[120:136, 115:130].mean() < night[120:136, 115:130].mean()
