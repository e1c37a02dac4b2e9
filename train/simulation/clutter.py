"""Buildings, container yards, trees and scattered things, wherever there is room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from train.simulation import structures
from train.simulation.materials import Material
from train.simulation.raster import fill_strip
from train.simulation.site import Site
from train.simulation.world import Solid


def scatter(site: Site, count: int, ground: str, build: Callable[[float, float], Solid], margin_m: float = 0.5) -> None:
    """``count`` attempts to place something at random."""
    for _ in range(count):
        site.place(build(*site.random_point_px()), ground, margin_m)


def add_buildings(site: Site, attempts: int) -> None:
    """Houses and halls along the main direction."""
    rng = site.rng
    for _ in range(attempts):
        x, y = site.random_point_px(20)
        heading = site.terrain.axis_rad + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.02)
        big = rng.random() < 0.35
        length, width = (rng.uniform(18, 45), rng.uniform(14, 28)) if big else (rng.uniform(9, 18), rng.uniform(7, 12))
        solid = structures.building(rng, x, y, heading, length, width, site.setting.night)
        if site.place(solid, "land", margin_m=2.0):
            fill_strip(site.terrain.height_m, solid.corners(site.gsd_m, 1.0), 0.0)


def add_container_yard(site: Site) -> None:
    """Rows of containers, most of them aligned."""
    rng, (x0, y0) = site.rng, site.random_point_px()
    heading = site.terrain.axis_rad + rng.choice([0, np.pi / 2])
    forward = np.array([np.cos(heading), np.sin(heading)]) / site.gsd_m
    right = np.array([-forward[1], forward[0]])
    for row in range(int(rng.integers(1, 5))):
        for column in range(int(rng.integers(2, 6))):
            if rng.random() < 0.7:
                x, y = np.array([x0, y0]) + forward * 13.2 * column + right * 3.4 * row
                site.place(
                    structures.container(rng, x, y, heading + rng.normal(0, 0.01), site.setting.night), "land", 0.1
                )


def add_trees(site: Site, attempts: int) -> None:
    """Single trees: domes of 2 to 4.5 m radius."""
    rng, gsd = site.rng, site.gsd_m
    height, width = site.setting.shape
    for _ in range(attempts):
        (x, y), radius = site.random_point_px(), rng.uniform(1.5, 4.5)
        size = radius / gsd
        if size < 1 or not site.claim(
            np.array([x, y]) + size * 0.8 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), "land"
        ):
            continue
        x1, y1 = max(int(x - size), 0), max(int(y - size), 0)
        x2, y2 = min(int(x + size) + 2, width), min(int(y + size) + 2, height)
        px, py = np.meshgrid(np.arange(x1, x2) + 0.5 - x, np.arange(y1, y2) + 0.5 - y)
        ragged = rng.normal(0, 0.12, px.shape)
        dome = np.sqrt(np.clip(1 - (px**2 + py**2) / size**2 + ragged, 0, 1)).astype(np.float32)
        crown = dome > 0.25
        window = slice(y1, y2), slice(x1, x2)
        site.terrain.material[window][crown] = Material.FOREST
        site.terrain.height_m[window][crown] = (dome * np.float32(radius * 1.7))[crown]
        site.terrain.tone[window][crown] = rng.normal(0, 0.4)
