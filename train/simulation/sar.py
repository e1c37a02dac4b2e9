"""The radar: backscatter, layover, shadow, double bounce, point targets with side lobes, and speckle.

Everything is computed with the radar at the left, range growing to the right, and turned to the drawn look direction
at the end. Heights move an echo towards the radar by ``h / tan(incidence)`` (layover) and leave ``h * tan(incidence)``
of ground behind them in the dark (shadow), which is flat-earth side-looking geometry projected to the ground.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from train.simulation.materials import SIGMA_DB, TEXTURE_DB, Material
from train.simulation.noise import blur, rescaled, value_noise
from train.simulation.raster import Stamp, stamps_of
from train.simulation.surface import height_map, water_waves
from train.simulation.world import FloatArray, FloatImage, Solid, View, World

_EDGE_STEP_M = 0.7
#: Share of the power that passes a tree crown.
_CANOPY_GAP = 0.3


@dataclass(frozen=True)
class Radar:
    """Geometry and quality of one acquisition.

    Attributes:
        quarter_turns: The radar looks from the left (0), bottom (1), right (2) or top (3) of the image.
        incidence_rad: Incidence angle, from the vertical.
        looks: Number of independent looks averaged.
        noise_db: Noise-equivalent sigma nought.
    """

    quarter_turns: int
    incidence_rad: float
    looks: float
    noise_db: float

    @property
    def range_direction(self) -> FloatArray:
        """Unit vector ``(2,)`` x, y on screen away from the radar."""
        return np.array([(1, 0), (0, -1), (-1, 0), (0, 1)][self.quarter_turns], np.float64)


def speckle(rng: np.random.Generator, power: FloatImage, looks: float) -> FloatImage:
    """``power`` times unit-mean gamma noise of shape ``looks``: the intensity of a multi-look radar image."""
    gamma = rng.standard_gamma(np.float32(looks), power.shape, dtype=np.float32)
    return power * gamma * np.float32(1 / looks)


def to_db(power: FloatImage) -> FloatImage:
    """Decibels of a power, at least -60."""
    return np.asarray(10 * np.log10(np.maximum(power, np.float32(1e-6))), np.float32)


def render_sar(rng: np.random.Generator, world: World, looks: float) -> View:
    """The world as a side-looking radar sees it.

    Returns:
        ``(H, W)`` float32 dB, and where each solid's bright return lies.
    """
    radar = Radar(int(rng.integers(4)), np.deg2rad(rng.uniform(35, 55)), looks, rng.uniform(-29, -23))
    gsd, shape = world.setting.gsd_m, world.setting.shape
    stamps = [stamps_of(solid, gsd, shape) for solid in world.solids]
    flat = [stamp for group in stamps for stamp in group]
    height = height_map(world, flat)
    sigma = np.power(10, _backscatter_db(rng, world, flat) / 10, dtype=np.float32)
    turn = -radar.quarter_turns
    height, sigma = np.rot90(height, turn), np.rot90(sigma, turn)
    hard = np.rot90(world.ground.material != Material.FOREST, turn)
    lit = _lit_through_canopy(height, hard, radar, gsd)
    power = _project(rng, sigma, height, lit, hard, radar, gsd)
    power = np.ascontiguousarray(np.rot90(power, -turn))
    lit = np.ascontiguousarray(np.rot90(lit, -turn))
    points = _point_targets(world, lit, radar)
    power = _impulse_response(power + points, rng)
    power += np.float32(10 ** (radar.noise_db / 10))
    returns = tuple(_bright_return(s, g, lit, radar, gsd) for s, g in zip(world.solids, stamps, strict=True))
    return View(to_db(speckle(rng, power, looks)), returns)


def _backscatter_db(rng: np.random.Generator, world: World, stamps: list[Stamp]) -> FloatImage:
    """Sigma nought ``(H, W)`` in dB without geometry or speckle."""
    setting, ground, gsd = world.setting, world.ground, world.setting.gsd_m
    table = SIGMA_DB + rng.normal(0, 0.8, 10).astype(np.float32)
    table[Material.WATER] += np.float32(9 * setting.wind)
    table += np.float32(rng.normal(0, 1.2))
    fine = value_noise(rng, setting.shape, 10 / gsd, 4, 0.7)
    decibels = (
        table.astype(np.float32)[ground.material] + TEXTURE_DB[ground.material] * fine + np.float32(1.6) * ground.tone
    )
    water = ground.material == Material.WATER
    if water.any():
        slicks = value_noise(rng, setting.shape, 80 / gsd, 4)
        sea = water_waves(rng, setting) * np.float32(0.4 + 1.8 * setting.wind)
        sea += np.float32(1.2) * slicks - np.float32(5) * rescaled(slicks, 1.2, 1.8)
        sea += np.float32(9) * ground.wake - np.float32(5.5) * ground.foam
        decibels += np.where(water, sea, 0).astype(np.float32)
    for stamp in stamps:
        decibels[stamp.window] += stamp.coverage * (np.float32(stamp.part.sigma_db) - decibels[stamp.window])
    return decibels


def _lit(height: FloatImage, radar: Radar, gsd_m: float) -> FloatImage:
    """1 where the radar at the left sees the surface, 0 in shadow; ``(H, W)``."""
    column = np.arange(height.shape[1], dtype=np.float32)
    reach = column + height * np.float32(np.tan(radar.incidence_rad) / gsd_m)
    farthest = np.maximum.accumulate(reach, axis=1)
    return 1 - np.clip(farthest - reach, 0, 1)


def _lit_through_canopy(height: FloatImage, hard: npt.NDArray[np.bool_], radar: Radar, gsd_m: float) -> FloatImage:
    """As :func:`_lit`, but tree crowns let part of the power through; ``(H, W)`` in 0 to 1."""
    behind_trees = _lit(height, radar, gsd_m)
    behind_walls = _lit(np.where(hard, height, 0), radar, gsd_m)
    return behind_walls * (np.float32(_CANOPY_GAP) + np.float32(1 - _CANOPY_GAP) * behind_trees)


def _project(
    rng: np.random.Generator,
    sigma: FloatImage,
    height: FloatImage,
    lit: FloatImage,
    hard: npt.NDArray[np.bool_],
    radar: Radar,
    gsd_m: float,
) -> FloatImage:
    """Power in ground range: echoes laid over towards the radar, and walls with their double bounce where ``hard``."""
    rows, columns = height.shape
    lean = np.float32(1 / (np.tan(radar.incidence_rad) * gsd_m))
    step = np.diff(height, axis=1, prepend=height[:, :1])
    aspect = _aspect(height)
    depth = np.where(hard, 1, rng.uniform(0.3, 1, height.shape)).astype(np.float32)  # echoes from inside a canopy
    base = np.arange(columns, dtype=np.float32)[None] - height * depth * lean
    power = _splat(base, sigma * lit, (rows, columns))
    where = (step > _EDGE_STEP_M) & (lit > 0.3) & hard
    y, x = np.nonzero(where)
    if len(y):
        rise, facing, top = step[y, x], aspect[y, x], height[y, x]
        wall = np.float32(0.10) + facing
        samples = 6
        for k in range(samples):
            level = top - rise * np.float32((k + 0.5) / samples)
            brightness = wall * rise * np.float32(0.5 / samples) * rng.exponential(1, len(y)).astype(np.float32)
            _add_points(power, y, (x - level * lean).astype(np.float32), brightness)
        bounce = (np.float32(0.15) + 9 * facing**3) * rise * rng.exponential(1, len(y)).astype(np.float32)
        _add_points(power, y, (x - (top - rise) * lean - 0.5).astype(np.float32), bounce)
    return power


def _aspect(height: FloatImage) -> FloatImage:
    """How squarely a step faces the radar, 0 to 1 (cosine squared of its direction)."""
    smooth = blur(np.minimum(np.ascontiguousarray(height), 6), 1.2)
    gx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    gy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.asarray(gx * np.abs(gx) / (gx * gx + gy * gy + np.float32(1e-3)), np.float32).clip(0, 1)


def _splat(position: FloatImage, power: FloatImage, shape: tuple[int, int]) -> FloatImage:
    """Sum ``power`` into columns ``position`` (fractional) of its own row."""
    rows, columns = shape
    left = np.floor(position).astype(np.int32)
    share = position - left
    start = np.arange(rows, dtype=np.int32)[:, None] * columns
    total = np.zeros(rows * columns, np.float64)
    for offset, weight in ((0, power * (1 - share)), (1, power * share)):
        target = left + offset
        inside = (target >= 0) & (target < columns)
        total += np.bincount((start + target)[inside], weight[inside], rows * columns)
    return total.reshape(shape).astype(np.float32)


def _add_points(power: FloatImage, y: npt.NDArray[np.int64], x: FloatImage, value: FloatImage) -> None:
    """Add ``value`` at rows ``y`` and fractional columns ``x``, shared between two columns."""
    left = np.floor(x).astype(np.int64)
    share = (x - left).astype(np.float32)
    for offset, weight in ((0, 1 - share), (1, share)):
        inside = (left + offset >= 0) & (left + offset < power.shape[1])
        np.add.at(power, (y[inside], left[inside] + offset), (value * weight)[inside])


def _laid_over(solid: Solid, points_m: FloatArray, radar: Radar, gsd_m: float) -> FloatArray:
    """Image positions ``(K, 2)`` of local points ``(K, 3)`` x, y, z."""
    shift = points_m[:, 2:3] / (np.tan(radar.incidence_rad) * gsd_m)
    return solid.to_pixels(points_m, gsd_m) - shift * radar.range_direction


def _point_targets(world: World, lit: FloatImage, radar: Radar) -> FloatImage:
    """Power ``(H, W)`` of the corner reflectors of all solids that are not in shadow."""
    gsd, (rows, columns) = world.setting.gsd_m, world.setting.shape
    power = np.zeros((rows, columns), np.float32)
    for solid in world.solids:
        if not len(solid.scatterers):
            continue
        ground = np.floor(solid.to_pixels(solid.scatterers, gsd)).astype(int)
        seen = _laid_over(solid, solid.scatterers, radar, gsd) - 0.5
        cell = np.floor(seen).astype(int)
        strength = 10 ** (solid.scatterers[:, 3] / 10) / gsd**2
        for (gx, gy), (cx, cy), (px, py), value in zip(ground, cell, seen, strength, strict=True):
            if not (0 <= gx < columns and 0 <= gy < rows) or not (0 <= cx < columns - 1 and 0 <= cy < rows - 1):
                continue
            wx, wy = px - cx, py - cy
            weights = np.array([[(1 - wx) * (1 - wy), wx * (1 - wy)], [(1 - wx) * wy, wx * wy]])
            power[cy : cy + 2, cx : cx + 2] += (weights * value * lit[gy, gx]).astype(np.float32)
    return power


def _impulse_response(power: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Main lobe everywhere; a cross of side lobes, about -20 dB and falling, round the brightest echoes."""
    image = blur(power, rng.uniform(0.5, 0.75))
    bright = np.maximum(image - np.float32(10**1.6), 0)
    if not bright.any():
        return image
    offset = np.arange(-24, 25, dtype=np.float32)
    lobes = 0.12 * np.sinc(offset * 0.71 + 1e-4) ** 2
    lobes[np.abs(offset) < 1.5] = 0
    lobes = lobes.astype(np.float32)
    image += cv2.filter2D(bright, cv2.CV_32F, lobes[None], borderType=cv2.BORDER_CONSTANT)
    image += cv2.filter2D(bright, cv2.CV_32F, lobes[:, None], borderType=cv2.BORDER_CONSTANT)
    return image


def _bright_return(solid: Solid, stamps: list[Stamp], lit: FloatImage, radar: Radar, gsd_m: float) -> FloatArray | None:
    """Extent ``(4,)`` x1, y1, x2, y2 of an object's echo; ``None`` when more than 60 % of it lies in shadow."""
    if solid.label is None or not stamps:
        return None
    seen = float((stamps[0].coverage * lit[stamps[0].window]).sum() / max(stamps[0].coverage.sum(), 1e-6))
    if seen < 0.4:
        return None
    clouds = [
        np.column_stack([part.polygon, np.full(len(part.polygon), part.height_m)])
        for part in solid.parts
        if np.ptp(part.polygon, axis=0).prod() > 0.03 * solid.length_m * solid.width_m
    ]
    points = _laid_over(solid, np.concatenate([*clouds, solid.scatterers[:, :3]]), radar, gsd_m)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
