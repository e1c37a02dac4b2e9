"""The RGB camera: sunlight, cast shadows, haze, blur and noise."""

from __future__ import annotations

import numpy as np

from train.simulation.materials import REFLECTANCE, TEXTURE_RGB, Material
from train.simulation.noise import blur, value_noise
from train.simulation.raster import fill_strip, stamps_of
from train.simulation.surface import cast_shadow, height_map, water_waves
from train.simulation.world import FloatImage, Setting, View, World


def render_rgb(rng: np.random.Generator, world: World) -> View:
    """The world as an RGB camera sees it: ``(H, W, 3)`` uint8 R, G, B."""
    setting, gsd = world.setting, world.setting.gsd_m
    stamps = [stamp for solid in world.solids for stamp in stamps_of(solid, gsd, setting.shape)]
    image = _ground_colour(rng, world)
    for stamp in stamps:
        alpha = stamp.coverage[..., None]
        image[stamp.window] += alpha * (np.array(stamp.part.colour, np.float32) - image[stamp.window])
    grain = value_noise(rng, setting.shape, 1.0, 1)[..., None]
    image *= 1 + np.float32(0.03) * grain
    height = height_map(world, stamps)
    shadow = cast_shadow(height, setting.sun_azimuth_rad, setting.sun_elevation_rad, gsd)
    light = _night_light(world) if setting.dark_rgb else _day_light(world, setting, shadow)
    return View(_expose(rng, setting, image * light))


def _ground_colour(rng: np.random.Generator, world: World) -> FloatImage:
    """Reflectance ``(H, W, 3)`` of the bare ground, waves, foam and wakes included."""
    setting, ground = world.setting, world.ground
    palette = REFLECTANCE[setting.season] * rng.normal(1, 0.12, (10, 1)).clip(0.75, 1.3)
    palette = palette * rng.normal(1, 0.02, (10, 3))
    palette[Material.WATER] *= rng.uniform(0.6, 1.5)
    image = palette.astype(np.float32)[ground.material]
    fine = value_noise(rng, setting.shape, 8 / setting.gsd_m, 5, 0.75)
    strength = TEXTURE_RGB[ground.material]
    image *= np.clip(
        1 + strength * fine + np.float32(0.22) * ground.tone * (ground.material != Material.WATER), 0.3, 1.9
    )[..., None]
    water = ground.material == Material.WATER
    if water.any():
        swell = water_waves(rng, setting) * np.float32(0.010 + 0.03 * setting.wind)
        glint = value_noise(rng, setting.shape, 60 / setting.gsd_m, 3) * np.float32(0.012)
        foam = np.clip(ground.foam * (0.35 + 0.25 * fine) + ground.wake * 0.28, 0, 0.75)
        shine = np.where(water, swell + glint, 0)[..., None]
        image += shine
        white = np.where(water, foam, 0)[..., None].astype(np.float32)
        image += white * (np.array([0.82, 0.88, 0.88], np.float32) - image)
    return image


def _day_light(world: World, setting: Setting, shadow: FloatImage) -> FloatImage:
    """Light ``(H, W, 3)`` on every pixel: sun (warm) times what is not in shadow, and sky (blue)."""
    height = blur(world.ground.height_m, 1.0)
    slope = np.gradient(height, setting.gsd_m)
    towards = -(
        slope[1] * np.float32(np.cos(setting.sun_azimuth_rad)) + slope[0] * np.float32(np.sin(setting.sun_azimuth_rad))
    )
    shade = np.clip(1 + np.float32(0.25) * towards, 0.55, 1.35)
    sun = np.array([1.0, 0.97, 0.90], np.float32) * np.float32(0.72)
    sky = np.array([0.30, 0.34, 0.42], np.float32) * np.float32(0.95)
    return np.asarray(sun * ((1 - shadow) * shade)[..., None] + sky, np.float32)


def _night_light(world: World) -> FloatImage:
    """Light ``(H, W, 3)`` at night: a dim blue sky, the cones of headlamps, deck lamps of ships under way."""
    setting, gsd = world.setting, world.setting.gsd_m
    lamps = np.zeros(setting.shape, np.float32)
    for solid in world.solids:
        state = solid.words.get("state")
        if state not in ("driving", "under way"):
            continue
        near, far = (0.5, 0.5) if state == "driving" else (-0.2, 0.1)
        reach = 14.0 if state == "driving" else 0.0
        half = solid.width_m / 2
        cone = np.array([[near, -half], [far, -2 * half], [far, 2 * half], [near, half]]) * (solid.length_m, 1)
        cone[1:3, 0] += reach
        fill_strip(lamps, solid.to_pixels(cone, gsd), 1.0)
    glow = blur(lamps, 1.2 / gsd) * np.float32(0.7) + blur(lamps, 4 / gsd) * np.float32(0.5)
    warm, sky = np.array([1.0, 0.85, 0.6], np.float32), np.array([0.27, 0.29, 0.38], np.float32)
    return np.asarray(glow[..., None] * warm + sky, np.float32)


def _expose(
    rng: np.random.Generator, setting: Setting, radiance: FloatImage
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Haze, optics, exposure, noise and gamma."""
    haze = rng.beta(1.2, 6) * 0.55
    veil = value_noise(rng, setting.shape, max(setting.shape) / 2, 2)[..., None] * np.float32(0.15 * haze)
    airlight = np.array([0.70, 0.75, 0.80], np.float32) * np.float32(0.1 if setting.dark_rgb else 1)
    share = np.clip(np.float32(haze) + veil, 0, 0.6)
    image = radiance * (1 - share) + airlight * share
    image = blur(image, rng.uniform(0.4, 0.85)) * np.float32(rng.uniform(0.8, 1.2))
    image *= rng.normal(1, 0.018, 3).astype(np.float32)
    sigma = rng.uniform(0.004, 0.018)
    if setting.dark_rgb:
        sigma *= 1.5
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
