"""From a generator to a world: draw the setting, the terrain, then what stands on it."""

from __future__ import annotations

import numpy as np

from train.simulation import clutter, shipping, structures, traffic
from train.simulation.materials import SEASONS
from train.simulation.noise import blur
from train.simulation.site import Site
from train.simulation.terrain import build_terrain
from train.simulation.world import Ground, Setting, World

_KINDS = ("harbour", "open water", "river", "urban", "rural", "highway")
_KIND_SHARES = (0.24, 0.16, 0.1, 0.24, 0.12, 0.14)


def draw_setting(rng: np.random.Generator, shape: tuple[int, int], gsd_m: float | None, night: bool) -> Setting:
    """A random setting.

    Args:
        rng: Source of randomness.
        shape: Height and width in pixels.
        gsd_m: Metres per pixel; ``None`` draws one at which cars are 10 to 16 pixels long.
        night: Whether every pass is at night; else the infrared pass is, in two scenes of five.
    """
    drawn_gsd = rng.uniform(0.30, 0.42)
    kind = str(rng.choice(_KINDS, p=_KIND_SHARES))
    crowd = rng.choice(4, p=[0.08, 0.27, 0.40, 0.25])
    low, high = ((0, 1), (1, 8), (8, 25), (25, 61))[crowd]
    scale = max(1.0, shape[0] * shape[1] / 640**2)
    return Setting(
        kind=kind,
        season=str(rng.choice(SEASONS, p=[0.4, 0.25, 0.12, 0.23])),
        night=bool(rng.random() < 0.4) or night,
        dark_rgb=night,
        gsd_m=float(drawn_gsd if gsd_m is None else gsd_m),
        shape=shape,
        sun_azimuth_rad=rng.uniform(-np.pi, np.pi),
        sun_elevation_rad=np.deg2rad(rng.uniform(25, 65)),
        wind=float(rng.beta(1.3, 1.8)),
        num_objects=int(rng.integers(low, high) * scale),
    )


def build_world(rng: np.random.Generator, setting: Setting) -> World:
    """Terrain, objects and clutter of a setting."""
    terrain = build_terrain(rng, setting)
    site = Site(rng, setting, terrain)
    area = setting.shape[0] * setting.shape[1] * setting.gsd_m**2 / 224**2
    if setting.kind in ("harbour", "open water", "river"):
        _populate_water(site, area)
    if setting.kind != "open water":
        _populate_land(site, area)
    texture = np.float32(1.2 / setting.gsd_m)
    foam, wake = (
        blur(layer, max(0.6, float(texture) * share)) for layer, share in ((site.foam, 0.5), (site.wake, 0.25))
    )
    ground = Ground(terrain.material, terrain.tone, terrain.height_m, foam, wake)
    return World(setting, ground, tuple(site.solids))


def _populate_water(site: Site, area: float) -> None:
    """Ships, and what could be taken for one."""
    rng, night = site.rng, site.setting.night
    share = 1.0 if site.setting.kind == "open water" else rng.uniform(0.5, 0.9)
    site.allow(share * rng.uniform(0.3, 0.8))
    shipping.moor_ships(site)
    site.allow(share)
    shipping.scatter_ships(site, int(2 + share * site.setting.num_objects * 3))

    def few(mean: float) -> int:
        return int(rng.poisson(mean * area))

    if rng.random() < 0.4:
        clutter.scatter(site, few(14), "water", lambda x, y: structures.rock(rng, x, y, night))
    clutter.scatter(site, few(3), "water", lambda x, y: structures.buoy(rng, x, y, night), 2.0)
    if rng.random() < 0.4:
        heading = rng.uniform(-np.pi, np.pi)
        clutter.scatter(
            site, few(4), "water", lambda x, y: structures.pontoon(rng, x, y, heading + rng.normal(0, 0.2), night), 2.0
        )


def _populate_land(site: Site, area: float) -> None:
    """Traffic, car parks, buildings, yards, huts and trees."""
    rng, night, kind = site.rng, site.setting.night, site.setting.kind

    def few(mean: float) -> int:
        return int(rng.poisson(mean * area))

    if rng.random() < 0.6:
        site.allow(rng.uniform(0.3, 1.0))
        traffic.fill_roads(site)
    if kind in ("urban", "harbour", "highway"):
        site.allow(rng.uniform(0.4, 1.0))
        for _ in range(few(14 if kind == "urban" else 7)):
            traffic.add_car_park(site)
    site.allow(1.0)
    traffic.fill_roads(site)
    clutter.add_buildings(site, few({"urban": 160, "harbour": 30, "rural": 8, "river": 20, "highway": 12}[kind]))
    for _ in range(few(3.0 if kind == "harbour" else 1.0 if kind in ("urban", "highway") else 0.2)):
        clutter.add_container_yard(site)
    axis = site.terrain.axis_rad
    clutter.scatter(site, few(8), "land", lambda x, y: structures.shed(rng, x, y, axis + rng.normal(0, 0.3), night))
    clutter.scatter(site, few(6), "land", lambda x, y: structures.bale(rng, x, y, night))
    clutter.scatter(site, few(3), "land", lambda x, y: structures.rock(rng, x, y, night))
    clutter.add_trees(site, few(rng.uniform(20, 220)))
