"""Buildings and clutter: what is no object to detect, some of it made to look like one."""

from __future__ import annotations

import numpy as np

from train.simulation.shapes import COLOURS, Colour, chamfered, rectangle, shaded, varied
from train.simulation.world import FloatArray, Part, Solid

_ROOFS: tuple[Colour, ...] = (
    (0.55, 0.27, 0.19),
    (0.48, 0.24, 0.18),
    (0.45, 0.44, 0.43),
    (0.62, 0.61, 0.58),
    (0.30, 0.30, 0.32),
    (0.72, 0.70, 0.66),
)


def building(
    rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, length_m: float, width_m: float, night: bool
) -> Solid:
    """A house with a gabled roof, or a flat-roofed hall with fans and skylights."""
    x, y, colour = length_m / 2, width_m / 2, varied(rng, _ROOFS[int(rng.integers(len(_ROOFS)))], 0.1)
    kelvin = rng.normal(-1.5, 1.5) if night else rng.normal(9, 4)
    height = rng.uniform(4, 8) if width_m < 14 else rng.uniform(5, 13)
    outline = rectangle(-x, x, -y, y)
    if width_m < 14:
        parts = [
            Part(outline, height, shaded(colour, 1.12), kelvin + (0 if night else 2), -8.0),
            Part(rectangle(-x, x, 0, y), height, shaded(colour, 0.8), kelvin, -8.0),
            Part(rectangle(-x, x, -0.2, 0.2), height + 1.5, shaded(colour, 0.95), kelvin, -5.0),
            Part(
                rectangle(0.5 * x, 0.5 * x + 0.8, 0.3 * y, 0.3 * y + 0.8), height + 2, (0.4, 0.3, 0.27), kelvin + 5, 0.0
            ),
        ]
        return Solid("house", None, x_px, y_px, heading_rad, length_m, width_m, tuple(parts))
    parts = [Part(outline, height, shaded(colour, 0.85), kelvin, -6.0)]
    parts.append(Part(rectangle(-x + 0.6, x - 0.6, -y + 0.6, y - 0.6), height - 0.3, colour, kelvin, -8.0))
    for _ in range(int(rng.integers(2, 9))):
        px, py, half = rng.uniform(-0.8, 0.8) * x, rng.uniform(-0.8, 0.8) * y, rng.uniform(0.6, 2.0)
        unit = rectangle(px - half, px + half, py - half * 0.7, py + half * 0.7)
        parts.append(
            Part(
                unit,
                height + rng.uniform(0.3, 1.8),
                shaded(colour, rng.uniform(0.6, 1.4)),
                kelvin + rng.normal(2, 4),
                2.0,
            )
        )
    corners = rng.uniform(-0.9, 0.9, (6, 2)) * (x, y)
    scatterers = np.concatenate([corners, np.full((6, 1), height), rng.normal(14, 5, (6, 1))], axis=1)
    return Solid("hall", None, x_px, y_px, heading_rad, length_m, width_m, tuple(parts), scatterers)


def container(rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, night: bool) -> Solid:
    """A shipping container or a stack of them: as long as a car or a truck, but without a cab."""
    length = float(rng.choice([6.06, 12.2]))
    colour = varied(rng, COLOURS[str(rng.choice(["red", "blue", "green", "orange", "white", "grey"]))], 0.1)
    kelvin, height = rng.normal(-2, 1) if night else rng.normal(8, 3), 2.6 * int(rng.integers(1, 4))
    x, y = length / 2, 1.22
    ribs = [
        Part(rectangle(px, px + 0.25, -y, y), height, shaded(colour, 0.85), kelvin, 0.0)
        for px in np.arange(-x + 0.5, x - 0.4, 1.0)
    ]
    parts = (Part(rectangle(-x, x, -y, y), height, colour, kelvin, 0.0), *ribs)
    scatterers = np.array(
        [[-x, -y, height, rng.normal(12, 5)], [x, y, height, rng.normal(12, 5)], [0, 0, 0.2, rng.normal(10, 5)]]
    )
    return Solid("container", None, x_px, y_px, heading_rad, length, 2 * y, parts, scatterers)


def shed(rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, night: bool) -> Solid:
    """A hut or skip, the size of a car."""
    length, width = rng.uniform(2.5, 5.5), rng.uniform(2.0, 3.2)
    colour = varied(rng, _ROOFS[int(rng.integers(len(_ROOFS)))], 0.1)
    kelvin, x, y = rng.normal(-1, 1.5) if night else rng.normal(8, 4), length / 2, width / 2
    parts = (
        Part(rectangle(-x, x, -y, y), 2.3, colour, kelvin, -5.0),
        Part(rectangle(-x, x, 0, y), 2.2, shaded(colour, 0.78), kelvin - 1, -5.0),
    )
    return Solid(
        "shed", None, x_px, y_px, heading_rad, length, width, parts, np.array([[0.0, 0.0, 1.0, rng.normal(5, 4)]])
    )


def blob(rng: np.random.Generator, radius_m: float, points: int = 11, roughness: float = 0.22) -> FloatArray:
    """An irregular outline ``(points, 2)`` about the origin."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radii = radius_m * (1 + rng.normal(0, roughness, points)).clip(0.4, 1.7)
    return np.stack([radii * np.cos(angles) * 1.3, radii * np.sin(angles)], axis=1)


def rock(rng: np.random.Generator, x_px: float, y_px: float, night: bool) -> Solid:
    """A rock or skerry in the water, or a boulder."""
    radius = float(np.exp(rng.uniform(np.log(0.8), np.log(6.0))))
    outline, grey = blob(rng, radius), varied(rng, (0.42, 0.39, 0.35), 0.12)
    kelvin = rng.normal(0, 1) if night else rng.normal(6, 3)
    parts = (
        Part(outline, 0.3 * radius, shaded(grey, 0.75), kelvin - 1, -7.0),
        Part(outline * 0.7 - 0.1 * radius, 0.6 * radius, grey, kelvin, -6.0),
        Part(outline * 0.35 - 0.15 * radius, 0.8 * radius, shaded(grey, 1.2), kelvin + 1, -5.0),
    )
    return Solid("rock", None, x_px, y_px, rng.uniform(-np.pi, np.pi), radius * 2.6, radius * 2, parts)


def buoy(rng: np.random.Generator, x_px: float, y_px: float, night: bool) -> Solid:
    """A navigation buoy: small, coloured, and bright to the radar."""
    radius = rng.uniform(0.6, 1.4)
    colour = varied(rng, COLOURS[str(rng.choice(["red", "green", "yellow", "orange"]))])
    outline = chamfered(-radius, radius, -radius, radius, radius * 0.6)
    parts = (Part(outline, 2.0, colour, rng.normal(0 if night else 4, 1), 0.0),)
    return Solid(
        "buoy", None, x_px, y_px, 0.0, 2 * radius, 2 * radius, parts, np.array([[0.0, 0.0, 2.0, rng.normal(14, 4)]])
    )


def pontoon(rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, night: bool) -> Solid:
    """A floating raft or fish cage: long like a barge, but flat and without a bow."""
    length, width = rng.uniform(6, 24), rng.uniform(2.5, 6)
    x, y, colour = length / 2, width / 2, varied(rng, (0.52, 0.45, 0.36), 0.12)
    kelvin = rng.normal(0, 1) if night else rng.normal(6, 2)
    boards = [
        Part(rectangle(px, px + 0.3, -y, y), 0.6, shaded(colour, 0.75), kelvin, -6.0)
        for px in np.arange(-x + 1.5, x - 1, 2.5)
    ]
    return Solid(
        "pontoon",
        None,
        x_px,
        y_px,
        heading_rad,
        length,
        width,
        (Part(rectangle(-x, x, -y, y), 0.6, colour, kelvin, -6.0), *boards),
    )


def bale(rng: np.random.Generator, x_px: float, y_px: float, night: bool) -> Solid:
    """A round bale or bush of 1.5 to 3 m."""
    radius = rng.uniform(0.7, 1.5)
    outline = blob(rng, radius, roughness=0.1)
    colour = varied(rng, (0.62, 0.53, 0.33) if rng.random() < 0.5 else (0.2, 0.3, 0.13), 0.1)
    return Solid(
        "bale",
        None,
        x_px,
        y_px,
        0.0,
        2.6 * radius,
        2 * radius,
        (Part(outline, 1.4, colour, -0.5 if night else 2.0, -5.0),),
    )
