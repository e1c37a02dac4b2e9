"""Where things stand: a register of taken ground, and objects on lanes, in car parks, at piers and at sea."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from train.simulation import shapes, ships, structures
from train.simulation.materials import Material
from train.simulation.raster import fill_strip
from train.simulation.roads import headings
from train.simulation.terrain import Terrain
from train.simulation.world import FloatArray, FloatImage, Setting, Solid

_PAD = 160


class Site:
    """A world under construction: its terrain, the ground already taken and the solids placed.

    Args:
        rng: Source of all randomness of placement.
        setting: The scene's setting.
        terrain: Its ground.
    """

    def __init__(self, rng: np.random.Generator, setting: Setting, terrain: Terrain) -> None:
        height, width = setting.shape
        self.rng, self.setting, self.terrain = rng, setting, terrain
        self.solids: list[Solid] = []
        self.foam: FloatImage = np.zeros(setting.shape, np.float32)
        self.wake: FloatImage = np.zeros(setting.shape, np.float32)
        self.num_objects = 0
        self._taken = np.zeros((height + 2 * _PAD, width + 2 * _PAD), np.uint8)
        self._water = np.pad((terrain.material == Material.WATER).astype(np.uint8), _PAD, mode="edge")
        road = terrain.material == Material.ASPHALT
        self._road = np.pad((road | (terrain.material == Material.PAINT)).astype(np.uint8), _PAD, mode="edge")

    @property
    def gsd_m(self) -> float:
        """Metres per pixel."""
        return self.setting.gsd_m

    @property
    def extent_m(self) -> FloatArray:
        """Width and height of the scene in metres."""
        return np.array(self.setting.shape[::-1]) * self.gsd_m

    @property
    def wants_objects(self) -> bool:
        """Whether fewer objects than intended have been placed."""
        return self.num_objects < self.setting.num_objects

    def claim(self, corners_px: FloatArray, ground: str = "any") -> bool:
        """Take the ground inside ``corners_px`` if it is free and of the right kind.

        Args:
            corners_px: ``(K, 2)`` convex polygon.
            ground: ``water``, ``land`` (neither water nor road), or ``any``.
        """
        points = np.round(corners_px + _PAD).astype(np.int32)
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0) + 1
        if x1 < 0 or y1 < 0 or y2 > self._taken.shape[0] or x2 > self._taken.shape[1]:
            return False
        patch = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillConvexPoly(patch, points - (x1, y1), 1)
        window = slice(y1, y2), slice(x1, x2)
        if (self._taken[window] & patch).any():
            return False
        if ground == "water" and (patch & ~self._water[window] & 1).any():
            return False
        if ground == "land" and (patch & (self._water[window] | self._road[window])).any():
            return False
        self._taken[window] |= patch
        return True

    def place(self, solid: Solid, ground: str = "any", margin_m: float = 0.3) -> bool:
        """Add a solid if its ground is free; objects count towards the number intended."""
        if not self.claim(solid.corners(self.gsd_m, margin_m), ground):
            return False
        self.solids.append(solid)
        height, width = self.setting.shape
        inside = 0 <= solid.x_px < width and 0 <= solid.y_px < height
        self.num_objects += solid.label is not None and inside
        return True

    def random_point_px(self, margin_px: float = 0.0) -> tuple[float, float]:
        """A uniform position in the image, grown by ``margin_px``."""
        height, width = self.setting.shape
        return self.rng.uniform(-margin_px, width + margin_px), self.rng.uniform(-margin_px, height + margin_px)


def _vehicle(site: Site, x_px: float, y_px: float, heading: float, state: str, truck_share: float) -> Solid:
    build = shapes.truck if site.rng.random() < truck_share else shapes.car
    return build(site.rng, x_px, y_px, heading, state, site.setting.night)


def fill_roads(site: Site) -> None:
    """Traffic on every lane, aligned to it, at random headways."""
    if 4.5 / site.gsd_m < 4:
        return
    lanes = [line for road in site.terrain.roads for line in road.lane_lines()]
    height, width = site.setting.shape
    truck_share = site.rng.uniform(0.1, 0.5)
    for index in site.rng.permutation(len(lanes)):
        line_px = lanes[index] / site.gsd_m
        inside = np.all((line_px > -8) & (line_px < (width + 8, height + 8)), axis=1)
        heading, headway = headings(lanes[index]), site.rng.uniform(14, 80)
        position = site.rng.uniform(0, headway)
        while position < len(line_px) and site.wants_objects:
            k = int(position)
            if inside[k]:
                wander = site.rng.normal(0, 0.15 / site.gsd_m, 2)
                solid = _vehicle(site, *(line_px[k] + wander), heading[k] + site.rng.normal(0, 0.015), "driving", truck_share)
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
    probe = site._taken.copy()
    if not site.claim(lot.corners(gsd, 1.0), "land"):
        return False
    site._taken = probe
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
        if k == stalls or rng.random() > share or not site.wants_objects or 4.5 / site.gsd_m < 4:
            continue
        centre = np.array([[left + stall_w / 2, top + stall_l / 2]]) + rng.normal(0, 0.12, (1, 2))
        x, y = lot.to_pixels(centre, site.gsd_m)[0]
        heading = lot.heading_rad + rng.choice([-np.pi / 2, np.pi / 2]) + rng.normal(0, 0.03)
        site.place(_vehicle(site, x, y, heading, "parked", 1.0 if trucks else 0.03), margin_m=0.05)


def moor_ships(site: Site) -> None:
    """Ships alongside the piers, or in berths across them."""
    rng = site.rng
    for x_m, y_m, heading, length, width in site.terrain.piers:
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
        solid = ships.ship(rng, x, y, heading, _ship_length_m(site), "under way" if moving else "anchored", site.setting.night)
        if site.place(solid, "water", margin_m=3.0) and moving:
            draw_wake(site, solid)


def draw_wake(site: Site, solid: Solid) -> None:
    """The turbulent trail behind a ship, and the arms of its bow wave."""
    rng, half = site.rng, solid.width_m / 2
    reach = solid.length_m * rng.uniform(1.5, 4.0)
    for start, end, strength in ((0.0, 0.3, 1.0), (0.3, 0.65, 0.6), (0.65, 1.0, 0.3)):
        a, b = -solid.length_m * 0.48 - start * reach, -solid.length_m * 0.48 - end * reach
        wide_a, wide_b = half * (0.7 + 0.7 * start), half * (0.7 + 0.7 * end)
        trail = np.array([[a, -wide_a], [a, wide_a], [b, wide_b], [b, -wide_b]])
        fill_strip(site.foam, solid.to_pixels(trail, site.gsd_m), strength)
    spread = np.tan(rng.uniform(0.2, 0.34))
    for side in (-1.0, 1.0):
        for k, strength in enumerate((0.9, 0.6, 0.35, 0.2)):
            a, b = (solid.length_m * 0.42 - f * reach * 0.9 for f in (k / 4, (k + 1) / 4))
            ya, yb = (half * 0.3 + (solid.length_m * 0.42 - p) * spread for p in (a, b))
            thick = 0.25 * half + 0.4
            arm = np.array([[a, side * ya], [a, side * (ya + thick)], [b, side * (yb + thick)], [b, side * yb]])
            fill_strip(site.wake, solid.to_pixels(arm, site.gsd_m), strength)


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
                site.place(structures.container(rng, x, y, heading + rng.normal(0, 0.01), site.setting.night), "land", 0.1)


def add_trees(site: Site, attempts: int) -> None:
    """Single trees: domes of 2 to 4.5 m radius."""
    rng, gsd = site.rng, site.gsd_m
    height, width = site.setting.shape
    for _ in range(attempts):
        (x, y), radius = site.random_point_px(), rng.uniform(1.5, 4.5)
        size = radius / gsd
        if size < 1 or not site.claim(np.array([x, y]) + size * 0.8 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), "land"):
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


def taken_free_land(site: Site) -> npt.NDArray[np.bool_]:
    """``(H, W)``: where nothing stands."""
    return site._taken[_PAD:-_PAD, _PAD:-_PAD] == 0
