"""The ground: fields, woods, coast, river and quays as rasters of material, tone and height."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from train.simulation.materials import Material
from train.simulation.noise import value_noise
from train.simulation.raster import fill_strip
from train.simulation.roads import Road, curve, paint_roads, strip
from train.simulation.world import FloatArray, FloatImage, Setting


@dataclass
class Terrain:
    """The ground under construction.

    Attributes:
        material, tone, height_m: Rasters as in :class:`train.simulation.world.Ground`.
        roads: The roads drawn.
        piers: Piers as ``(x_m, y_m, heading_rad, length_m, width_m)`` from root to head.
        axis_rad: Main direction of streets and buildings.
    """

    material: npt.NDArray[np.uint8]
    tone: FloatImage
    height_m: FloatImage
    axis_rad: float
    roads: list[Road] = field(default_factory=list)
    piers: list[tuple[float, float, float, float, float]] = field(default_factory=list)


def grid_m(setting: Setting) -> tuple[FloatImage, FloatImage]:
    """Position of every pixel centre in metres: x ``(1, W)`` and y ``(H, 1)``."""
    height, width = setting.shape
    x = (np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)) * np.float32(setting.gsd_m)
    y = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)) * np.float32(setting.gsd_m)
    return x, y


def build_terrain(rng: np.random.Generator, setting: Setting) -> Terrain:
    """Ground of the setting's kind, roads and piers included."""
    axis = rng.uniform(-np.pi, np.pi)
    water_only = setting.kind == "open water"
    terrain = _all_water(setting, axis) if water_only else _fields(rng, setting, axis)
    if setting.kind == "harbour":
        _add_coast(rng, setting, terrain)
    elif setting.kind == "river":
        _add_river(rng, setting, terrain)
    terrain.roads = _plan_roads(rng, setting, terrain)
    verge = Material.SOIL if setting.kind in ("rural", "river") else Material.CONCRETE
    paint_roads(terrain.material, terrain.roads, setting.gsd_m, verge)
    for road in terrain.roads:
        outer = road.half_width_m + 1.5
        fill_strip(terrain.height_m, strip(road.points_m, -outer, outer) / setting.gsd_m, 0.0)
    return terrain


def _all_water(setting: Setting, axis_rad: float) -> Terrain:
    zeros = np.zeros(setting.shape, np.float32)
    return Terrain(np.zeros(setting.shape, np.uint8), zeros, zeros.copy(), axis_rad)


def _fields(rng: np.random.Generator, setting: Setting, axis_rad: float) -> Terrain:
    """A patchwork of fields or lawns with woods."""
    x, y = grid_m(setting)
    shape, gsd = setting.shape, setting.gsd_m
    built_up = setting.kind in ("urban", "harbour")
    cosine, sine = np.float32(np.cos(axis_rad)), np.float32(np.sin(axis_rad))
    warp = value_noise(rng, shape, 60 / gsd, 2) * np.float32(0.5 if built_up else 4.0)
    u, v = x * cosine + y * sine + warp, -x * sine + y * cosine + warp
    length_u, length_v = rng.uniform(25, 60, 2) if built_up else rng.uniform(50, 150, 2)
    i = np.floor(u / np.float32(length_u)).astype(np.int32)
    j = np.floor(v / np.float32(length_v) + np.float32(0.37) * i).astype(np.int32)
    cell = (i * 73 + j * 151) & 63
    weights = [0.18, 0.5, 0.02, 0.3] if built_up else [0.2, 0.4, 0.4, 0.0]
    kinds = rng.choice([Material.SOIL, Material.GRASS, Material.CROP, Material.CONCRETE], 64, p=weights).astype(
        np.uint8
    )
    material, tone = kinds[cell], rng.normal(0, 0.45, 64).astype(np.float32)[cell]
    tone += value_noise(rng, shape, 25 / gsd, 3) * np.float32(0.3)
    period, along = rng.uniform(1.5, 5.0), np.where((cell & 1) == 0, u, v)
    rows = np.sin(along * np.float32(2 * np.pi / period))
    tone += np.where((material == Material.CROP) & ((cell & 6) != 0), rows * np.float32(0.5), 0).astype(np.float32)
    edge_u = u - np.floor(u / np.float32(length_u)) * np.float32(length_u)
    material[edge_u < rng.uniform(1.0, 3.0)] = Material.SOIL if rng.random() < 0.5 else Material.GRASS
    terrain = Terrain(material, tone, np.zeros(shape, np.float32), axis_rad)
    woods = value_noise(rng, shape, 90 / gsd, 4)
    _add_canopy(rng, setting, terrain, woods > rng.uniform(1.0, 2.4))
    return terrain


def _add_canopy(rng: np.random.Generator, setting: Setting, terrain: Terrain, where: npt.NDArray[np.bool_]) -> None:
    """Turn a region into wood with bumpy crowns of 4 to 12 m."""
    if not where.any():
        return
    crowns = value_noise(rng, setting.shape, 7 / setting.gsd_m, 3, 0.5)
    terrain.material[where] = Material.FOREST
    height = np.float32(rng.uniform(6, 10)) + np.clip(crowns, -2, 2) * np.float32(2.0)
    terrain.height_m[where] = height[where]
    terrain.tone[where] += crowns[where] * np.float32(0.25)


def _add_coast(rng: np.random.Generator, setting: Setting, terrain: Terrain) -> None:
    """Water on one side; a quay or a beach, and piers into the water."""
    height, width = np.array(setting.shape) * setting.gsd_m
    x, y = grid_m(setting)
    seaward = terrain.axis_rad
    normal = np.array([np.cos(seaward), np.sin(seaward)])
    centre = np.array([width, height]) / 2 - normal * rng.uniform(-0.05, 0.25) * min(width, height)
    distance = (x - np.float32(centre[0])) * np.float32(normal[0]) + (y - np.float32(centre[1])) * np.float32(normal[1])
    quay = rng.random() < 0.65
    swing = rng.uniform(0.5, 1.2) if quay else rng.uniform(5, 14)
    shore = distance + value_noise(rng, setting.shape, (70 if not quay else 20) / setting.gsd_m, 5) * np.float32(swing)
    if quay:
        shore = distance
        terrain.material[shore > -rng.uniform(12, 35)] = Material.CONCRETE
        terrain.height_m[shore > -rng.uniform(12, 35)] = 0
    else:
        terrain.material[shore > -rng.uniform(4, 12)] = Material.SAND
        terrain.material[shore > -2] = Material.ROCK if rng.random() < 0.4 else Material.SAND
    _flood(terrain, shore > 0)
    tangent = np.array([-normal[1], normal[0]])
    reach = min(width, height) / 2
    for position in np.arange(-reach, reach, rng.uniform(38, 80)):
        if rng.random() < 0.25:
            continue
        root = centre + tangent * (position + rng.uniform(-8, 8)) - normal * 6
        _add_pier(
            setting, terrain, root, seaward + rng.normal(0, 0.03), rng.uniform(30, 0.55 * reach + 40), rng.uniform(3, 9)
        )


def _flood(terrain: Terrain, where: npt.NDArray[np.bool_]) -> None:
    terrain.material[where] = Material.WATER
    terrain.height_m[where] = 0
    terrain.tone[where] = 0


def _add_pier(
    setting: Setting, terrain: Terrain, root: FloatArray, heading: float, length: float, width: float
) -> None:
    """A concrete or wooden pier 1.5 m over the water."""
    forward = np.array([np.cos(heading), np.sin(heading)])
    side = np.array([-forward[1], forward[0]]) * width / 2
    polygon = np.array([root - side, root + forward * length - side, root + forward * length + side, root + side])
    fill_strip(terrain.material, polygon / setting.gsd_m, Material.CONCRETE)
    fill_strip(terrain.height_m, polygon / setting.gsd_m, 1.5)
    fill_strip(terrain.tone, polygon / setting.gsd_m, -0.3)
    terrain.piers.append((float(root[0]), float(root[1]), heading, length, width))


def _add_river(rng: np.random.Generator, setting: Setting, terrain: Terrain) -> None:
    """A winding river with banks."""
    height, width = np.array(setting.shape) * setting.gsd_m
    centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    x, y = grid_m(setting)
    forward = np.array([np.cos(terrain.axis_rad), np.sin(terrain.axis_rad)])
    s = (x - np.float32(centre[0])) * np.float32(forward[0]) + (y - np.float32(centre[1])) * np.float32(forward[1])
    t = -(x - np.float32(centre[0])) * np.float32(forward[1]) + (y - np.float32(centre[1])) * np.float32(forward[0])
    bend = np.float32(rng.uniform(5, 25)) * np.sin(
        s * np.float32(2 * np.pi / rng.uniform(150, 320)) + np.float32(rng.uniform(0, 6))
    )
    ragged = value_noise(rng, setting.shape, 30 / setting.gsd_m, 4) * np.float32(1.5)
    bank = np.abs(t + bend) + ragged - np.float32(rng.uniform(22, 48))
    terrain.material[bank < rng.uniform(2, 6)] = Material.SAND if rng.random() < 0.5 else Material.GRASS
    terrain.height_m[bank < 3] = 0
    _flood(terrain, bank < 0)


def _plan_roads(rng: np.random.Generator, setting: Setting, terrain: Terrain) -> list[Road]:
    """Roads that suit the kind of scene."""
    height, width = np.array(setting.shape) * setting.gsd_m
    reach, axis = float(np.hypot(height, width)), terrain.axis_rad
    middle = np.array([width, height]) / 2

    def road(offset_m: float, angle: float, bend_m: float, lanes: int = 1, median_m: float = 0.0) -> Road:
        origin = middle + offset_m * np.array([-np.sin(angle), np.cos(angle)])
        points = curve((origin[0], origin[1]), angle, reach, bend_m, rng.uniform(180, 400), rng.uniform(0, 6))
        return Road(points, lanes, rng.uniform(3.2, 3.75), median_m)

    if setting.kind == "urban":
        gap = rng.uniform(55, 95)
        offsets = np.arange(-reach / 2, reach / 2, gap) + rng.uniform(0, gap)
        return [road(o, a, 0, int(rng.choice([1, 1, 2]))) for a in (axis, axis + np.pi / 2) for o in offsets]
    if setting.kind == "highway":
        main = road(rng.uniform(-30, 30), axis, rng.uniform(0, 20), int(rng.integers(2, 4)), rng.uniform(2, 8))
        return [road(rng.uniform(-60, 60), axis + rng.uniform(0.9, 2.2), 8), main]
    if setting.kind == "rural":
        first = road(rng.uniform(-40, 40), axis + rng.normal(0, 0.1), rng.uniform(3, 18))
        return [first, road(rng.uniform(-50, 50), axis + rng.uniform(1.0, 2.1), rng.uniform(0, 10))][
            : int(rng.integers(1, 3))
        ]
    if setting.kind == "river":
        return [
            road(rng.uniform(-50, 50), axis + np.pi / 2 + rng.normal(0, 0.15), 0),
            road(rng.choice([-75, 75]), axis, 4),
        ]
    if setting.kind == "harbour":
        inland = rng.uniform(0.32, 0.45) * min(height, width)
        return [road(inland, axis + np.pi / 2, 0, int(rng.integers(1, 3)))]
    return []
