"""What all sensors share about the surface: waves, heights, and the shadows that heights cast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.simulation.noise import blur, value_noise
from train.simulation.raster import Stamp
from train.simulation.world import FloatImage, Setting, World


def water_waves(rng: np.random.Generator, setting: Setting) -> FloatImage:
    """Surface waves ``(H, W)`` of about unit size, shared in form by all sensors."""
    angle, gsd = rng.uniform(-np.pi, np.pi), setting.gsd_m
    y, x = np.mgrid[0 : setting.shape[0], 0 : setting.shape[1]].astype(np.float32) * np.float32(gsd)
    bend = value_noise(rng, setting.shape, 25 / gsd, 3) * np.float32(2.5)
    waves = np.zeros(setting.shape, np.float32)
    for length in (9.0, 4.3, 2.4):
        turn = angle + rng.normal(0, 0.35)
        phase = (x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn)) + bend) * np.float32(2 * np.pi / length)
        waves += np.sin(phase) * np.float32(0.4)
    return waves + value_noise(rng, setting.shape, 3 / gsd, 2) * np.float32(0.7)


def height_map(world: World, stamps: Sequence[Stamp]) -> FloatImage:
    """Height ``(H, W)`` of the ground and of all solids over it, metres."""
    height = world.ground.height_m.copy()
    for stamp in stamps:
        patch = height[stamp.window]
        np.maximum(patch, np.float32(stamp.part.height_m), out=patch, where=stamp.coverage > 0.5)
    return height


def cast_shadow(height: FloatImage, azimuth_rad: float, elevation_rad: float, gsd_m: float) -> FloatImage:
    """Share ``(H, W)`` of sunlight that is blocked, by marching towards the sun through the height map."""
    rows, columns = height.shape
    slope = np.float32(np.tan(elevation_rad) * gsd_m)
    reach = int(min(height.max(initial=0) / slope, 160)) + 1
    blocked = np.zeros(height.shape, np.float32)
    step = 1.0
    while step <= reach:
        dx, dy = round(step * np.cos(azimuth_rad)), round(step * np.sin(azimuth_rad))
        y1, y2, x1, x2 = max(0, -dy), min(rows, rows - dy), max(0, -dx), min(columns, columns - dx)
        if y2 > y1 and x2 > x1:
            excess = height[y1 + dy : y2 + dy, x1 + dx : x2 + dx] - height[y1:y2, x1:x2] - slope * np.float32(step)
            np.maximum(blocked[y1:y2, x1:x2], np.clip(excess * 2, 0, 1), out=blocked[y1:y2, x1:x2])
        step += 1.0 if step < 24 else 1.5
    return blur(blocked, 0.6)
