"""Ships at piers, at anchor and under way, with their wakes."""

from __future__ import annotations

import numpy as np

from train.simulation import ships
from train.simulation.raster import fill_strip
from train.simulation.site import Site
from train.simulation.world import Solid


def moor_ships(site: Site) -> None:
    """Ships alongside the piers, or in berths across them."""
    rng = site.rng
    for index in rng.permutation(len(site.terrain.piers)):
        x_m, y_m, heading, length, width = site.terrain.piers[index]
        forward = np.array([np.cos(heading), np.sin(heading)])
        right = np.array([-forward[1], forward[0]])
        marina = rng.random() < 0.5
        for side in (-1, 1):
            along = rng.uniform(8, 14)
            while along < length and site.wants_objects:
                size = rng.uniform(7, 14) if marina else _ship_length_m(site)
                beam = ships.ship_beam_m("motor boat" if marina else "tug", size)
                step = beam * 1.1 + rng.uniform(0.8, 2.0) if marina else size + rng.uniform(2, 8)
                out = width / 2 + (size / 2 if marina else beam / 2) + rng.uniform(0.6, 1.2)
                centre = (np.array([x_m, y_m]) + forward * (along + step / 2) + right * side * out) / site.gsd_m
                angle = heading + (side * np.pi / 2 if marina else 0) + rng.choice([0, np.pi]) + rng.normal(0, 0.03)
                if rng.random() < 0.7:
                    solid = ships.ship(rng, centre[0], centre[1], angle, size, "moored", site.setting.night)
                    site.place(solid, "water", margin_m=0.2)
                along += step


def _ship_length_m(site: Site) -> float:
    """A length that gives 20 to 150 pixels, short ones more often, and that exists."""
    low, high = np.clip(np.array([20.0, 150.0]) * site.gsd_m, 6.0, 330.0)
    return float(np.exp(site.rng.uniform(np.log(low), np.log(max(high, low * 1.5)))))


def scatter_ships(site: Site, attempts: int) -> None:
    """Ships at anchor (wind-rode, roughly one way) or under way with a wake."""
    rng, rode = site.rng, site.rng.uniform(-np.pi, np.pi)
    for _ in range(attempts):
        if not site.wants_objects:
            return
        x, y = site.random_point_px(6.0)
        moving = rng.random() < 0.45
        heading = rng.uniform(-np.pi, np.pi) if moving else rode + rng.normal(0, 0.35)
        solid = ships.ship(
            rng, x, y, heading, _ship_length_m(site), "under way" if moving else "anchored", site.setting.night
        )
        if site.place(solid, "water", margin_m=3.0) and moving:
            draw_wake(site, solid)


def draw_wake(site: Site, solid: Solid) -> None:
    """The turbulent trail behind a ship, and the arms of its bow wave."""
    rng, half = site.rng, solid.width_m / 2
    reach = solid.length_m * rng.uniform(1.5, 4.0)
    for start in np.arange(0, 1, 0.1):
        end, strength = start + 0.1, float(1 - start) ** 1.3
        a, b = -solid.length_m * 0.48 - start * reach, -solid.length_m * 0.48 - end * reach
        wide_a, wide_b = half * (0.7 + 0.7 * start), half * (0.7 + 0.7 * end)
        trail = np.array([[a, -wide_a], [a, wide_a], [b, wide_b], [b, -wide_b]])
        fill_strip(site.foam, solid.to_pixels(trail, site.gsd_m), strength)
    spread = np.tan(rng.uniform(0.2, 0.34))
    for side in (-1.0, 1.0):
        for k in range(10):
            strength = 0.9 * (1 - k / 10) ** 2
            a, b = (solid.length_m * 0.42 - f * reach * 0.7 for f in (k / 10, (k + 1) / 10))
            ya, yb = (half * 0.3 + (solid.length_m * 0.42 - p) * spread for p in (a, b))
            thick = 0.25 * half + 0.4
            arm = np.array([[a, side * ya], [a, side * (ya + thick)], [b, side * (yb + thick)], [b, side * yb]])
            fill_strip(site.wake, solid.to_pixels(arm, site.gsd_m), strength)
