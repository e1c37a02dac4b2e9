"""Ships from parts: hulls with a bow, decks, superstructures, cargo and hot funnels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.simulation.shapes import COLOURS, HULL_COLOURS, Colour, rectangle, varied
from train.simulation.world import FloatArray, Part, Solid

_GLASS: Colour = (0.10, 0.13, 0.17)
_WHITE: Colour = (0.88, 0.88, 0.86)
_WOOD: Colour = (0.55, 0.42, 0.28)


def hull_outline(length_m: float, width_m: float, bow: float, stern: float) -> FloatArray:
    """Outline ``(K, 2)`` of a hull.

    Args:
        length_m, width_m: Extent; the outline touches all four sides of that rectangle.
        bow: Part of the length that the bow takes.
        stern: Width of the transom relative to the beam.
    """
    t = np.linspace(0, 1, 7)
    bow_x = length_m / 2 - bow * length_m * (1 - t)
    bow_y = width_m / 2 * (1 - t**2.0)
    stern_x, stern_y = -length_m / 2, width_m / 2 * stern
    right = [(stern_x, stern_y), (stern_x + 0.12 * length_m, width_m / 2), *zip(bow_x, bow_y, strict=True)]
    left = [(x, -y) for x, y in reversed(right[:-1])]
    return np.array([*right, *left], np.float64)


def ship_beam_m(kind: str, length_m: float) -> float:
    """Beam that suits a ship's length."""
    if kind in ("motor boat", "sailing boat"):
        return float(np.clip(0.9 + 0.24 * length_m, 2.2, 7.0))
    return float(np.clip(1.5 + 0.2 * length_m, 3.5, 0.26 * length_m if length_m > 14 else 5.0))


def ship_kind(rng: np.random.Generator, length_m: float) -> str:
    """A kind of ship that exists at that length."""
    if length_m < 14:
        return str(rng.choice(["motor boat", "motor boat", "sailing boat", "fishing vessel"]))
    if length_m < 26:
        return str(rng.choice(["motor boat", "fishing vessel", "fishing vessel", "patrol vessel", "tug"]))
    return str(rng.choice(["cargo ship", "container ship", "barge", "ferry", "patrol vessel", "tanker"]))


def ship(
    rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, length_m: float, state: str, night: bool
) -> Solid:
    """A ship of ``length_m``; ``state`` is ``anchored``, ``moored`` or ``under way``."""
    kind = ship_kind(rng, length_m)
    beam = ship_beam_m(kind, length_m) * rng.uniform(0.92, 1.08)
    small = kind in ("motor boat", "sailing boat")
    name = "white" if small and rng.random() < 0.75 else str(rng.choice(HULL_COLOURS))
    bow = {"barge": 0.10, "motor boat": 0.45, "sailing boat": 0.5, "patrol vessel": 0.4}.get(kind, 0.26)
    outline = hull_outline(length_m, beam, bow * rng.uniform(0.9, 1.1), 0.75 if kind != "barge" else 0.95)
    base, heat, thermal = _ship_heat(rng, state, night)
    freeboard = float(np.clip(0.06 * length_m, 0.8, 6.0))
    paint = varied(rng, COLOURS[name])
    deck_colour = varied(
        rng, (0.72, 0.70, 0.66) if small else (0.42, 0.36, 0.33) if rng.random() < 0.5 else (0.45, 0.5, 0.47)
    )
    parts = [
        Part(outline, freeboard, paint, base - 0.5, -2.0),
        Part(outline * (1 - 1.0 / length_m, 1 - min(0.5, 1.2 / beam)), freeboard * 1.02, deck_colour, base + 1.0, -6.0),
        *_fittings(rng, kind, _Hull(length_m, beam, freeboard, base, heat)),
    ]
    mean_dbsm = rng.normal(8 + 9 * np.log10(length_m / 8), 3)
    top = max(part.height_m for part in parts)
    words = {"colour": name, "thermal": thermal, "state": state}
    words["backscatter"] = "strong return" if mean_dbsm > 16 else "weak return" if mean_dbsm < 8 else "moderate return"
    scatterers = _ship_returns(rng, length_m, beam, freeboard, top, mean_dbsm)
    return Solid(kind, "ship", x_px, y_px, heading_rad, length_m, beam, tuple(parts), scatterers, words)


def _ship_heat(rng: np.random.Generator, state: str, night: bool) -> tuple[float, float, str]:
    """Hull and engine-room temperature relative to the air, and the words for them."""
    base = rng.normal(-0.5, 1.0) if night else rng.normal(4.0, 2.0)
    if state == "under way" or rng.random() < 0.3:
        return base, rng.uniform(9, 20), "hot funnel"
    return base, base + 1.0, "cold hull" if base < 2 else "warm hull"


def _ship_returns(
    rng: np.random.Generator, length: float, beam: float, freeboard: float, top: float, mean_dbsm: float
) -> FloatArray:
    """Corner reflectors ``(K, 4)`` along the rails and on the superstructure."""
    count = int(np.clip(length * 0.6, 5, 40))
    x = rng.uniform(-0.47, 0.42, count) * length
    y = rng.choice([-0.42, 0.42], count) * beam
    rails = np.stack([x, y, np.full(count, freeboard), rng.normal(mean_dbsm - 4, 4, count)], axis=1)
    few = max(2, count // 4)
    house = np.stack(
        [
            rng.uniform(-0.42, -0.1, few) * length,
            rng.uniform(-0.3, 0.3, few) * beam,
            rng.uniform(0.5, 1.0, few) * top,
            rng.normal(mean_dbsm + 3, 4, few),
        ],
        axis=1,
    )
    return np.concatenate([rails, house])


@dataclass(frozen=True)
class _Hull:
    """A hull to build on: its size in metres and its temperatures relative to the air."""

    length: float
    beam: float
    freeboard: float
    kelvin: float
    engine_kelvin: float

    def block(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        above_m: float,
        colour: Colour,
        warmer: float = 0.0,
        sigma_db: float = -3.0,
    ) -> Part:
        """A box between the fractions ``x`` of the length and ``y`` of the beam, ``above_m`` over the freeboard."""
        outline = rectangle(x[0] * self.length, x[1] * self.length, y[0] * self.beam, y[1] * self.beam)
        return Part(outline, self.freeboard + above_m, colour, self.kelvin + warmer, sigma_db)


def _middle(half: float) -> tuple[float, float]:
    return -half, half


def _fittings(rng: np.random.Generator, kind: str, hull: _Hull) -> list[Part]:
    """What stands on the deck."""
    if kind == "sailing boat":
        return _sailing_rig(hull)
    if kind == "motor boat":
        return _cabin(rng, hull)
    if kind in ("cargo ship", "container ship", "tanker", "barge"):
        return _cargo_deck(rng, kind, hull) + _superstructure(hull, -0.36, 0.08)
    if kind == "ferry":
        return _superstructure(hull, 0.02, 0.36)
    middle = float(rng.choice([-0.1, 0.12]))
    return _superstructure(hull, middle, 0.14) + _working_deck(rng, hull, middle - 0.14)


def _sailing_rig(hull: _Hull) -> list[Part]:
    """Coach roof, cockpit, boom and mast."""
    boom, mast = 0.12 / hull.beam, 0.2 / hull.length
    return [
        hull.block((-0.15, 0.22), _middle(0.24), 0.4, _WHITE, 1.5, -5.0),
        hull.block((-0.42, -0.17), _middle(0.2), 0.0, _WOOD, 0.0, -5.0),
        hull.block((-0.3, 0.08), _middle(boom), 1.5, (0.2, 0.25, 0.4), 0.0, -2.0),
        hull.block((0.08 - mast, 0.08 + mast), _middle(0.2 / hull.beam), 0.7 * hull.length, _WHITE, 0.0, 0.0),
    ]


def _cabin(rng: np.random.Generator, hull: _Hull) -> list[Part]:
    """Windscreen, hardtop and a cockpit over the engine."""
    start = rng.uniform(-0.12, 0.0)
    cockpit = (0.35, 0.28, 0.22) if rng.random() < 0.5 else (0.25, 0.3, 0.4)
    engine = hull.engine_kelvin - hull.kelvin
    return [
        hull.block((-0.45, start), _middle(0.32), 0.0, cockpit, 0.0, -4.0),
        hull.block((-0.45, -0.33), _middle(0.2), 0.2, _WHITE, engine),
        hull.block((start, start + 0.22), _middle(0.34), 0.9, _GLASS, -2.0, -5.0),
        hull.block((start - 0.08, start + 0.14), _middle(0.3), 1.6, _WHITE, 1.0),
    ]


def _superstructure(hull: _Hull, middle: float, half: float) -> list[Part]:
    """Deck house, bridge with windows, funnel."""
    x1, x2 = middle - half, middle + half
    tall = float(np.clip(0.09 * hull.length, 1.8, 12.0))
    funnel, size = x1 + 0.5 * half, max(0.35, 0.07 * hull.beam)
    funnel_x = funnel - size * 1.5 / hull.length, funnel + size * 1.5 / hull.length
    engine = hull.engine_kelvin - hull.kelvin
    return [
        hull.block((x1, x2), _middle(0.42), 0.6 * tall, _WHITE, 2.0),
        hull.block((x2 - 0.9 * half, x2), _middle(0.4), 0.9 * tall, _GLASS, -1.0, -4.0),
        hull.block((x1 + 0.2 * half, x2 - 0.2 * half), _middle(0.34), tall, _WHITE, 2.0),
        hull.block(funnel_x, _middle(size / hull.beam), 1.2 * tall, (0.25, 0.12, 0.1), engine, 0.0),
    ]


def _working_deck(rng: np.random.Generator, hull: _Hull, limit: float) -> list[Part]:
    """Gear on the after deck, forward of the transom."""
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.42, max(limit - 0.04, -0.41)), rng.uniform(-0.25, 0.25)
        size = rng.uniform(0.04, 0.12) + 0.3 / hull.beam
        size_x = size * hull.beam / hull.length
        colour = varied(rng, COLOURS[str(rng.choice(["orange", "blue", "green", "grey"]))])
        parts.append(hull.block((x - size_x, x + size_x), (y - size, y + size), 1.0, colour, 0.0, 0.0))
    return parts


def _cargo_deck(rng: np.random.Generator, kind: str, hull: _Hull) -> list[Part]:
    """Hatches, container stacks or tank piping forward of the bridge."""
    if kind == "tanker":
        grey = (0.6, 0.6, 0.6)
        pipe = hull.block((-0.25, 0.38), _middle(0.05), 1.0, grey, 0.0, 2.0)
        return [pipe, hull.block((0.03, 0.07), _middle(0.4), 1.2, grey, 0.0, 2.0)]
    bays = np.linspace(-0.25, 0.34, max(2, int(hull.length * 0.58 / 8)) + 1)
    if kind == "container ship":
        return _container_stacks(rng, hull, bays)
    hatch = varied(rng, COLOURS[str(rng.choice(["grey", "red", "green", "blue"]))], 0.1)
    gap = 0.08 * (bays[1] - bays[0])
    return [hull.block((x + gap, x + 11 * gap), _middle(0.36), 1.0, hatch, 2.0, -2.0) for x in bays[:-1]]


def _container_stacks(rng: np.random.Generator, hull: _Hull, bays: FloatArray) -> list[Part]:
    """One to three containers high, in rows across the deck."""
    parts, gap = [], 0.2 / hull.length
    rows = np.linspace(-0.42, 0.42, max(2, int(hull.beam * 0.85 / 2.4)) + 1)
    for k in range(len(bays) - 1):
        for j in range(len(rows) - 1):
            colour = varied(rng, COLOURS[str(rng.choice(["red", "blue", "green", "orange", "white", "grey"]))], 0.08)
            x, y = (bays[k] + gap, bays[k + 1] - gap), (rows[j], rows[j + 1])
            parts.append(hull.block(x, y, 2.5 * int(rng.integers(1, 4)), colour, rng.normal(2, 1.5), 0.0))
    return parts
