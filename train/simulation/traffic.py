"""Cars and trucks: on lanes, aligned to them, and in car parks."""

from __future__ import annotations

import numpy as np

from train.simulation import shapes
from train.simulation.materials import Material
from train.simulation.raster import fill_strip
from train.simulation.roads import headings
from train.simulation.site import Site
from train.simulation.world import Solid

#: Below this many pixels a car is no object to detect, and none are drawn.
_MIN_CAR_PX, _CAR_M = 4, 4.5


def _vehicle(site: Site, x_px: float, y_px: float, heading: float, state: str, truck_share: float) -> Solid:
    build = shapes.truck if site.rng.random() < truck_share else shapes.car
    return build(site.rng, x_px, y_px, heading, state, site.setting.night)


def fill_roads(site: Site) -> None:
    """Traffic on every lane, aligned to it, at random headways."""
    if _CAR_M / site.gsd_m < _MIN_CAR_PX:
        return
    lanes = [line for road in site.terrain.roads for line in road.lane_lines()]
    height, width = site.setting.shape
    truck_share = site.rng.uniform(0.15, 0.6)
    for index in site.rng.permutation(len(lanes)):
        line_px = lanes[index] / site.gsd_m
        inside = np.all((line_px > -8) & (line_px < (width + 8, height + 8)), axis=1)
        heading, headway = headings(lanes[index]), site.rng.uniform(14, 80)
        position = site.rng.uniform(0, headway)
        while position < len(line_px) and site.wants_objects:
            k = int(position)
            if inside[k]:
                x, y = line_px[k] + site.rng.normal(0, 0.15 / site.gsd_m, 2)
                angle = heading[k] + site.rng.normal(0, 0.015)
                solid = _vehicle(site, x, y, angle, "driving", truck_share)
                site.place(solid, margin_m=0.5)
            position += 7 + site.rng.exponential(headway)


def add_car_park(site: Site) -> bool:
    """A car park somewhere on land: stalls in double rows, some taken."""
    rng, gsd = site.rng, site.gsd_m
    stalls, rows, truck_lot = int(rng.integers(5, 16)), int(rng.integers(1, 4)), rng.random() < 0.25
    stall_w, stall_l = (3.6, 13.5) if truck_lot else (2.6, 5.3)
    aisle = 7.0 if not truck_lot else 10.0
    length, width = stalls * stall_w, rows * stall_l + (rows + 1) // 2 * aisle
    heading = site.terrain.axis_rad + rng.choice([0, np.pi / 2]) + (rng.normal(0, 0.1) if rng.random() < 0.3 else 0)
    x, y = site.random_point_px()
    lot = Solid("car park", None, x, y, heading, length + 2, width + 2, ())
    corners = lot.corners(gsd)
    if not site.claim(lot.corners(gsd, 1.0), "land", take=False):
        return False
    fill_strip(site.terrain.material, corners, Material.ASPHALT if rng.random() < 0.7 else Material.CONCRETE)
    fill_strip(site.terrain.tone, corners, rng.uniform(-0.4, 0.6))
    fill_strip(site.terrain.height_m, corners, 0.0)
    share, top = rng.uniform(0.2, 0.95), -width / 2
    for row in range(rows):
        top += aisle if row % 2 == 0 and row > 0 else 0
        _fill_row(site, lot, top, stalls, stall_w, stall_l, share, truck_lot)
        top += stall_l
    site.claim(corners)
    return True


def _fill_row(
    site: Site, lot: Solid, top: float, stalls: int, stall_w: float, stall_l: float, share: float, trucks: bool
) -> None:
    """Marks and vehicles of one row of stalls."""
    rng, line = site.rng, max(0.12, site.gsd_m * 0.5)
    for k in range(stalls + 1):
        left = -stalls * stall_w / 2 + k * stall_w
        mark = lot.to_pixels(shapes.rectangle(left - line / 2, left + line / 2, top, top + stall_l), site.gsd_m)
        fill_strip(site.terrain.material, mark, Material.PAINT)
        if k == stalls or rng.random() > share or not site.wants_objects or _CAR_M / site.gsd_m < _MIN_CAR_PX:
            continue
        centre = np.array([[left + stall_w / 2, top + stall_l / 2]]) + rng.normal(0, 0.12, (1, 2))
        x, y = lot.to_pixels(centre, site.gsd_m)[0]
        heading = lot.heading_rad + rng.choice([-np.pi / 2, np.pi / 2]) + rng.normal(0, 0.03)
        site.place(_vehicle(site, x, y, heading, "parked", 1.0 if trucks else 0.03), margin_m=0.05)
