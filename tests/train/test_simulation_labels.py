"""Labels of simulated scenes lie on what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.sensors import Sensor
from train.simulation import shapes, ships
from train.simulation.annotate import annotate, visible_share
from train.simulation.infrared import apparent_temperature
from train.simulation.raster import instance_mask, polygon_coverage
from train.simulation.rgb import render_rgb
from train.simulation.sar import render_sar
from train.simulation.scenes import Plan, make_world
from train.simulation.world import View, World


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    plan = Plan(Path("unused"), 12, 0, 400, 360, seed=7)
    return [make_world(plan, "train", scene) for scene in range(12)]


FINER = 4


def drawn_finer(world: World) -> np.ndarray:
    """The instance mask at ``FINER`` times the resolution, so that pixel steps do not blur the comparison."""
    solids = [replace(solid, x_px=solid.x_px * FINER, y_px=solid.y_px * FINER) for solid in world.solids]
    height, width = world.setting.shape
    return instance_mask(solids, world.setting.gsd_m / FINER, (height * FINER, width * FINER))


def sides(corners: np.ndarray) -> tuple[float, float]:
    first, second = np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[2] - corners[1])
    return float(max(first, second)), float(min(first, second))


def whole(world: World) -> list[int]:
    return [
        k
        for k, solid in enumerate(world.solids)
        if solid.label and visible_share(solid.corners(world.setting.gsd_m), world.setting.shape) > 0.999
    ]


def test_an_oriented_box_is_the_least_rectangle_round_the_drawn_object(worlds: Sequence[World]) -> None:
    checked = set()
    for world in worlds:
        mask = drawn_finer(world)
        for index in whole(world):
            corners = world.solids[index].corners(world.setting.gsd_m)
            rows, columns = np.nonzero(mask == index + 1)
            (x, y), extent, _ = cv2.minAreaRect(np.stack([columns + 0.5, rows + 0.5], 1).astype(np.float32))
            assert np.abs(np.array([x, y]) / FINER - corners.mean(axis=0)).max() < 0.5
            measured = (np.sort(extent)[::-1] + 1) / FINER  # the outermost pixel centres lie half a pixel inside
            assert np.abs(measured - sides(corners)).max() < 0.5, world.solids[index].kind
            checked.add(world.solids[index].label)
    assert checked == {"ship", "car", "truck"}


@pytest.mark.parametrize("gsd_m", [0.3, 0.42])
def test_every_object_fills_its_box_from_side_to_side(gsd_m: float) -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        heading = rng.uniform(-np.pi, np.pi)
        made = [
            shapes.car(rng, 200, 200, heading, "parked", False),
            shapes.truck(rng, 200, 200, heading, "driving", True),
            ships.ship(rng, 200, 200, heading, rng.uniform(7, 60), "anchored", False),
        ]
        for solid in made:
            along = solid.parts[0].polygon
            assert np.ptp(along, axis=0) == pytest.approx((solid.length_m, solid.width_m), rel=1e-6)
            inside = np.abs(np.concatenate([part.polygon for part in solid.parts]))
            assert np.all(inside <= (solid.length_m / 2 + 1e-6, solid.width_m / 2 + 1e-6)), solid.kind
            assert polygon_coverage(solid.corners(gsd_m), (400, 400)) is not None


def test_default_scale_gives_cars_trucks_and_ships_the_sizes_asked_for(worlds: Sequence[World]) -> None:
    spans = {"car": (9, 19), "truck": (16, 42), "ship": (16, 160)}
    for world in worlds:
        for solid in world.solids:
            if solid.label:
                low, high = spans[solid.label]
                assert low <= solid.length_m / world.setting.gsd_m <= high


def test_corners_run_clockwise_on_screen(worlds: Sequence[World]) -> None:
    for world in worlds:
        for solid in world.solids:
            x, y = solid.corners(1.0).T
            assert np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) > 0  # positive with y down


def test_objects_change_the_image_where_their_labels_are(worlds: Sequence[World]) -> None:
    seen, total = 0, 0
    for world in worlds[:8]:
        bare = replace(world, solids=tuple(solid for solid in world.solids if solid.label is None))
        kelvin = [apparent_temperature(np.random.default_rng(1), w) for w in (world, bare)]
        colour = [render_rgb(np.random.default_rng(1), w).pixels.astype(np.float32) for w in (world, bare)]
        heat, light = np.abs(kelvin[0] - kelvin[1]), np.abs(colour[0] - colour[1]).max(axis=2)
        mask = instance_mask(world.solids, world.setting.gsd_m, world.setting.shape)
        for index in whole(world):
            inside = mask == index + 1
            total += 2
            seen += int(heat[inside].mean() > 0.5) + int(light[inside].mean() > 8)
        objects = np.isin(mask, [k + 1 for k, solid in enumerate(world.solids) if solid.label])
        near = cv2.dilate(objects.astype(np.uint8), np.ones((9, 9))) > 0
        if world.setting.night:
            assert heat[~near].max(initial=0) < 1e-4
    assert total > 60
    assert seen >= 0.97 * total


def test_radar_boxes_hold_bright_returns(worlds: Sequence[World]) -> None:
    bright, total = 0, 0
    for world in worlds:
        view = render_sar(np.random.default_rng(2), world, 4.0)
        background = np.median(view.pixels)
        for found in annotate(world, view, Sensor.SAR):
            x, y, width, height = found.horizontal_px
            patch = view.pixels[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1]
            total += 1
            bright += patch.max() > background + 8
            low, high = found.corners_px.min(axis=0).clip(0), found.corners_px.max(axis=0)
            assert (low >= (x - 1e-6, y - 1e-6)).all()
            assert (np.minimum(high, (400, 360)) <= (x + width + 1e-6, y + height + 1e-6)).all()
    assert total > 60
    assert bright >= 0.95 * total


@pytest.mark.parametrize(("offset_px", "expected"), [(0.0, None), (25.0, 0), (3.0, 1), (-8.0, None)])
def test_objects_at_the_border_are_dropped_or_marked_difficult(
    worlds: Sequence[World], offset_px: float, expected: int | None
) -> None:
    setting = replace(worlds[0].setting, gsd_m=0.5)
    solid = shapes.truck(np.random.default_rng(0), offset_px, 100, 0.0, "driving", False)
    share = np.clip((solid.length_m / 1.0 + offset_px) / (solid.length_m / 0.5), 0, 1)
    world = replace(worlds[0], setting=setting, solids=(solid,))
    found = annotate(world, View(np.zeros(setting.shape, np.uint8)), Sensor.RGB)
    assert visible_share(solid.corners(0.5), setting.shape) == pytest.approx(share, abs=1e-4)
    if share < 0.4:
        assert expected is None and not found
    else:
        assert [int(item.difficult) for item in found] == [int(share < 0.7)]


def test_scenes_vary_and_some_are_empty() -> None:
    plan = Plan(Path("unused"), 60, 0, 96, 96, seed=0)
    settings = [make_world(plan, "train", scene).setting for scene in range(60)]
    assert len({setting.kind for setting in settings}) == 6
    assert len({setting.season for setting in settings}) == 4
    assert {setting.night for setting in settings} == {True, False}
    numbers = [setting.num_objects for setting in settings]
    assert 0 in numbers and max(numbers) > 35
