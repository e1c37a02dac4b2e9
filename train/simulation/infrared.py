"""The infrared camera: apparent temperature, optics, detector noise, 14-bit counts."""

from __future__ import annotations

import cv2
import numpy as np

from train.simulation.materials import KELVIN_DAY, KELVIN_NIGHT, TEXTURE_KELVIN, Material
from train.simulation.noise import blur, value_noise
from train.simulation.raster import stamps_of
from train.simulation.surface import cast_shadow, height_map, water_waves
from train.simulation.world import FloatImage, View, World

MAX_COUNT = 2**14 - 1


def render_infrared(rng: np.random.Generator, world: World) -> View:
    """The world as a long-wave camera sees it: ``(H, W)`` uint16 holding 14-bit counts."""
    kelvin = apparent_temperature(rng, world)
    kelvin = blur(kelvin, rng.uniform(0.7, 1.15))
    return View(_detector(rng, kelvin))


def apparent_temperature(rng: np.random.Generator, world: World) -> FloatImage:
    """Temperature ``(H, W)`` relative to the air, kelvin, before optics and noise."""
    setting, ground, gsd = world.setting, world.ground, world.setting.gsd_m
    table = (KELVIN_NIGHT if setting.night else KELVIN_DAY) + rng.normal(0, 0.8, 10).astype(np.float32)
    table[Material.ASPHALT] = max(table[Material.ASPHALT], table[Material.GRASS] + 2.5)
    table = (table * np.float32(rng.uniform(0.7, 1.3))).astype(np.float32)
    fine = value_noise(rng, setting.shape, 12 / gsd, 5, 0.7)
    kelvin = table[ground.material] + TEXTURE_KELVIN[ground.material] * fine
    kelvin += np.where(ground.material == Material.WATER, 0, ground.tone).astype(np.float32)
    water = ground.material == Material.WATER
    if water.any():
        surface = water_waves(rng, setting) * np.float32(0.08 + 0.2 * setting.wind)
        surface += value_noise(rng, setting.shape, 90 / gsd, 3) * np.float32(0.35)
        mixed = np.float32(rng.choice([-0.9, 0.8])) * ground.foam - np.float32(0.3) * ground.wake
        kelvin += np.where(water, surface + mixed, 0).astype(np.float32)
    stamps = [stamp for solid in world.solids for stamp in stamps_of(solid, gsd, setting.shape)]
    if not setting.night:
        shadow = cast_shadow(height_map(world, stamps), setting.sun_azimuth_rad, setting.sun_elevation_rad, gsd)
        kelvin -= np.where(water, 0.3, 3.0).astype(np.float32) * shadow
    for stamp in stamps:
        kelvin[stamp.window] += stamp.coverage * (np.float32(stamp.part.kelvin) - kelvin[stamp.window])
    return kelvin


def _detector(rng: np.random.Generator, kelvin: FloatImage) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """Counts: gain and offset, vignetting, column pattern, temporal noise, quantisation."""
    height, width = kelvin.shape
    gain, offset = rng.uniform(14, 55), rng.uniform(2500, 9500)
    netd_kelvin = rng.uniform(0.04, 0.16)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    tilt = rng.normal(0, 0.3, 2).astype(np.float32)
    vignette = np.float32(-rng.uniform(0.2, 1.8)) * (x**2 + y**2) / 2 + tilt[0] * x + tilt[1] * y
    pattern = netd_kelvin * rng.uniform(0.4, 1.6)
    columns = rng.standard_normal((1, width), dtype=np.float32) * np.float32(pattern)
    columns = columns * np.float32(0.7) + np.asarray(cv2.blur(columns, (5, 1)), np.float32)
    noise = rng.standard_normal(kelvin.shape, dtype=np.float32) * np.float32(netd_kelvin)
    counts = (kelvin + vignette + columns + noise) * np.float32(gain) + np.float32(offset)
    return np.clip(np.round(counts), 0, MAX_COUNT).astype(np.uint16)
