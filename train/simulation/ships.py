"""Ships from parts: hulls with a bow, decks, superstructures, cargo and hot funnels."""

from __future__ import annotations

import numpy as np

from train.simulation.shapes import COLOURS, HULL_COLOURS, Colour, rectangle, shaded, varied
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
    deck_colour = varied(rng, (0.72, 0.70, 0.66) if small else (0.42, 0.36, 0.33) if rng.random() < 0.5 else (0.45, 0.5, 0.47))
    parts = [
        Part(outline, freeboard, paint, base - 0.5, -2.0),
        Part(outline * (1 - 1.0 / length_m, 1 - min(0.5, 1.2 / beam)), freeboard * 1.02, deck_colour, base + 1.0, -6.0),
        *_fittings(rng, kind, length_m, beam, freeboard, base, heat),
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


def _fittings(
    rng: np.random.Generator, kind: str, length: float, beam: float, freeboard: float, base: float, heat: float
) -> list[Part]:
    """What stands on the deck."""
    if kind == "sailing boat":
        return _sailing_rig(length, beam, freeboard, base)
    if kind == "motor boat":
        return _cabin(rng, length, beam, freeboard, base, heat)
    aft = kind in ("cargo ship", "container ship", "tanker", "barge")
    middle = -0.36 if aft else float(rng.choice([-0.1, 0.12])) if kind != "ferry" else 0.02
    half = 0.36 if kind == "ferry" else 0.08 if aft else 0.14
    house = _superstructure(length, beam, freeboard, base, heat, middle, half)
    if not aft:
        return house + _working_deck(rng, length, beam, freeboard, base, middle - half)
    return _cargo_deck(rng, kind, length, beam, freeboard, base) + house


def _sailing_rig(length: float, beam: float, freeboard: float, base: float) -> list[Part]:
    """Coach roof, cockpit, boom and mast."""
    mast = 0.08 * length
    return [
        Part(rectangle(-0.15 * length, 0.22 * length, -0.24 * beam, 0.24 * beam), freeboard + 0.4, _WHITE, base + 1.5, -5.0),
        Part(rectangle(-0.42 * length, -0.17 * length, -0.2 * beam, 0.2 * beam), freeboard, _WOOD, base, -5.0),
        Part(rectangle(-0.3 * length, mast, -0.12, 0.12), freeboard + 1.5, (0.2, 0.25, 0.4), base, -2.0),
        Part(rectangle(mast - 0.2, mast + 0.2, -0.2, 0.2), freeboard + 0.7 * length, _WHITE, base, 0.0),
    ]


def _cabin(rng: np.random.Generator, length: float, beam: float, freeboard: float, base: float, heat: float) -> list[Part]:
    """Windscreen, hardtop and a cockpit over the engine."""
    start = rng.uniform(-0.12, 0.0) * length
    cockpit = (0.35, 0.28, 0.22) if rng.random() < 0.5 else (0.25, 0.3, 0.4)
    return [
        Part(rectangle(-0.45 * length, start, -0.32 * beam, 0.32 * beam), freeboard, cockpit, base, -4.0),
        Part(rectangle(-0.45 * length, -0.33 * length, -0.2 * beam, 0.2 * beam), freeboard + 0.2, _WHITE, heat, -3.0),
        Part(rectangle(start, start + 0.22 * length, -0.34 * beam, 0.34 * beam), freeboard + 0.9, _GLASS, base - 2, -5.0),
        Part(rectangle(start - 0.08 * length, start + 0.14 * length, -0.3 * beam, 0.3 * beam), freeboard + 1.6, _WHITE, base + 1, -3.0),
    ]


def _superstructure(
    length: float, beam: float, freeboard: float, base: float, heat: float, middle: float, half: float
) -> list[Part]:
    """Deck house, bridge with windows, funnel and mast."""
    x1, x2 = (middle - half) * length, (middle + half) * length
    height = freeboard + float(np.clip(0.09 * length, 1.8, 12.0))
    funnel, size = x1 + 0.25 * (x2 - x1), max(0.35, 0.07 * beam)
    return [
        Part(rectangle(x1, x2, -0.42 * beam, 0.42 * beam), freeboard + 0.6 * (height - freeboard), _WHITE, base + 2, -3.0),
        Part(rectangle(x2 - 0.45 * (x2 - x1), x2, -0.4 * beam, 0.4 * beam), height * 0.95, _GLASS, base - 1, -4.0),
        Part(rectangle(x1 + 0.1 * (x2 - x1), x2 - 0.1 * (x2 - x1), -0.34 * beam, 0.34 * beam), height, _WHITE, base + 2, -3.0),
        Part(rectangle(funnel - size * 1.5, funnel + size * 1.5, -size, size), height * 1.15, (0.25, 0.12, 0.1), heat, 0.0),
    ]


def _working_deck(
    rng: np.random.Generator, length: float, beam: float, freeboard: float, base: float, limit: float
) -> list[Part]:
    """Gear on the after deck, forward of the transom."""
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.42, max(limit - 0.04, -0.41)) * length, rng.uniform(-0.25, 0.25) * beam
        size = rng.uniform(0.04, 0.12) * beam + 0.3
        colour = varied(rng, COLOURS[str(rng.choice(["orange", "blue", "green", "grey"]))])
        parts.append(Part(rectangle(x - size, x + size, y - size, y + size), freeboard + 1.0, colour, base, 0.0))
    return parts


def _cargo_deck(
    rng: np.random.Generator, kind: str, length: float, beam: float, freeboard: float, base: float
) -> list[Part]:
    """Hatches, container stacks or tank piping forward of the bridge."""
    if kind == "tanker":
        pipe = Part(rectangle(-0.25 * length, 0.38 * length, -0.05 * beam, 0.05 * beam), freeboard + 1, (0.6, 0.6, 0.6), base, 2.0)
        manifold = Part(rectangle(0.03 * length, 0.07 * length, -0.4 * beam, 0.4 * beam), freeboard + 1.2, (0.6, 0.6, 0.6), base, 2.0)
        return [pipe, manifold]
    parts, bays = [], max(2, int(length * 0.58 / 8))
    edges = np.linspace(-0.25, 0.34, bays + 1) * length
    hatch = varied(rng, COLOURS[str(rng.choice(["grey", "red", "green", "blue"]))], 0.1)
    for x1, x2 in zip(edges[:-1], edges[1:], strict=True):
        if kind != "container ship":
            gap = 0.08 * (x2 - x1)
            parts.append(Part(rectangle(x1 + gap, x2 - gap, -0.36 * beam, 0.36 * beam), freeboard + 1, shaded(hatch, 1.0), base + 2, -2.0))
            continue
        rows = max(2, int(beam * 0.85 / 2.4))
        for y1, y2 in zip(*(lambda e: (e[:-1], e[1:]))(np.linspace(-0.42, 0.42, rows + 1) * beam), strict=True):
            colour = varied(rng, COLOURS[str(rng.choice(["red", "blue", "green", "orange", "white", "grey"]))], 0.08)
            height = freeboard + 2.5 * int(rng.integers(1, 4))
            parts.append(Part(rectangle(x1 + 0.2, x2 - 0.2, y1, y2), height, shaded(colour, 1.0), base + rng.normal(2, 1.5), 0.0))
    return parts
