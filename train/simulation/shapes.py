"""The objects to detect, drawn from parts: cars, trucks and ships with bows, cabs, bridges and hot engines.

Local coordinates are metres, x forward and y to the right. Every object fills its length and width.
"""

from __future__ import annotations

import numpy as np

from train.simulation.world import FloatArray, Part, Solid

Colour = tuple[float, float, float]

COLOURS: dict[str, Colour] = {
    "white": (0.86, 0.86, 0.84),
    "silver": (0.66, 0.67, 0.68),
    "grey": (0.42, 0.43, 0.44),
    "black": (0.09, 0.09, 0.10),
    "red": (0.58, 0.11, 0.09),
    "blue": (0.12, 0.21, 0.47),
    "green": (0.14, 0.33, 0.20),
    "yellow": (0.80, 0.64, 0.13),
    "orange": (0.76, 0.37, 0.11),
    "beige": (0.66, 0.58, 0.45),
}
CAR_COLOURS = (
    "white",
    "white",
    "silver",
    "silver",
    "grey",
    "black",
    "black",
    "red",
    "blue",
    "green",
    "beige",
    "yellow",
)
TRAILER_COLOURS = ("white", "white", "white", "silver", "blue", "red", "yellow", "green", "grey", "orange")
HULL_COLOURS = ("white", "white", "grey", "black", "blue", "red", "green", "orange")
_GLASS: Colour = (0.10, 0.13, 0.17)
_WHITE: Colour = (0.88, 0.88, 0.86)
_DARK: Colour = (0.15, 0.15, 0.15)


def rectangle(x1: float, x2: float, y1: float, y2: float) -> FloatArray:
    """Corners ``(4, 2)`` of a rectangle in local metres."""
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def chamfered(x1: float, x2: float, y1: float, y2: float, cut: float) -> FloatArray:
    """Corners ``(8, 2)`` of a rectangle whose corners are cut off by ``cut`` metres."""
    return np.array(
        [
            [x1 + cut, y1], [x2 - cut, y1], [x2, y1 + cut], [x2, y2 - cut],
            [x2 - cut, y2], [x1 + cut, y2], [x1, y2 - cut], [x1, y1 + cut],
        ],
        np.float64,
    )  # fmt: skip


def varied(rng: np.random.Generator, colour: Colour, spread: float = 0.05) -> Colour:
    """``colour`` with a random brightness and tint."""
    values = np.clip(np.array(colour) * (1 + rng.normal(0, spread * 1.5)) + rng.normal(0, spread * 0.3, 3), 0.03, 0.97)
    return float(values[0]), float(values[1]), float(values[2])


def shaded(colour: Colour, factor: float) -> Colour:
    """``colour`` times ``factor``, at most 1."""
    return min(colour[0] * factor, 1.0), min(colour[1] * factor, 1.0), min(colour[2] * factor, 1.0)


def _vehicle_heat(rng: np.random.Generator, state: str, night: bool) -> tuple[float, float, str]:
    """Body and engine temperature relative to the air, and the words for them."""
    if state == "driving":
        return (
            rng.normal(1.0 if night else 6.0, 1.2),
            rng.uniform(11, 20) if night else rng.uniform(17, 30),
            "hot engine",
        )
    if rng.random() < 0.2:
        return rng.normal(0.0 if night else 6.0, 1.2), rng.uniform(7, 13), "warm engine"
    body = rng.normal(-4.0, 1.2) if night else rng.choice([rng.normal(14, 2.5), rng.normal(0.0, 1.5)])
    return body, body + rng.normal(0, 0.6), "cold body" if body < 3 else "sun-warmed body"


def _corner_returns(
    rng: np.random.Generator, length_m: float, width_m: float, height_m: float, count: int, mean_dbsm: float
) -> FloatArray:
    """Random corner reflectors ``(count, 4)`` in the outer part of a box."""
    x = rng.uniform(-0.48, 0.48, count) * length_m
    y = rng.choice([-1.0, 1.0], count) * rng.uniform(0.2, 0.48, count) * width_m
    return np.stack([x, y, rng.uniform(0.1, 1.0, count) * height_m, rng.normal(mean_dbsm, 5.0, count)], axis=1)


def _return_word(mean_dbsm: float, weak: float, strong: float) -> str:
    if mean_dbsm > strong:
        return "strong return"
    return "weak return" if mean_dbsm < weak else "moderate return"


def car(rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, state: str, night: bool) -> Solid:
    """A passenger car (saloon, hatchback, estate or van), 3.8 to 5.4 m long."""
    kind = str(rng.choice(["sedan", "hatchback", "estate car", "van"], p=[0.45, 0.25, 0.15, 0.15]))
    length, width = rng.uniform(3.8, 4.9), rng.uniform(1.75, 1.95)
    roof_height, hood, tail = rng.uniform(1.4, 1.6), 0.27, {"sedan": 0.17, "hatchback": 0.05}.get(kind, 0.02)
    if kind == "van":
        length, width, roof_height, hood = rng.uniform(4.7, 5.4), rng.uniform(1.9, 2.05), rng.uniform(1.9, 2.3), 0.16
    name = str(rng.choice(CAR_COLOURS))
    paint = varied(rng, COLOURS[name])
    body, engine, thermal = _vehicle_heat(rng, state, night)
    front, rear, side = length / 2, -length / 2, width / 2
    screen = front - hood * length
    roof_front, roof_rear = screen - 0.12 * length, rear + (tail + 0.09) * length
    glass_kelvin = body - 3.0
    parts = (
        Part(chamfered(rear, front, -side, side, 0.22), 0.9, paint, body, -3.0),
        Part(rectangle(screen, front - 0.15, -side + 0.15, side - 0.15), 1.0, shaded(paint, 1.06), engine, -2.0),
        Part(rectangle(rear + tail * length, screen, -side + 0.12, side - 0.12), 1.2, _GLASS, glass_kelvin, -6.0),
        Part(
            rectangle(roof_rear, roof_front, -side + 0.2, side - 0.2), roof_height, shaded(paint, 1.1), body + 0.5, -5.0
        ),
    )
    mean_dbsm = rng.normal(6.0, 3.0)
    words = {"colour": name, "thermal": thermal, "backscatter": _return_word(mean_dbsm, 3, 9), "state": state}
    scatterers = _corner_returns(rng, length, width, roof_height, int(rng.integers(3, 7)), mean_dbsm)
    return Solid(kind, "car", x_px, y_px, heading_rad, length, width, parts, scatterers, words)


def truck(rng: np.random.Generator, x_px: float, y_px: float, heading_rad: float, state: str, night: bool) -> Solid:
    """A lorry: cab, gap and a box, tank or flatbed; 7 to 12.5 m long."""
    kind = str(rng.choice(["box truck", "articulated truck", "tanker truck", "flatbed truck", "bus"]))
    length = rng.uniform(9.5, 12.5) if kind == "articulated truck" else rng.uniform(7.0, 10.5)
    width, height = rng.uniform(2.4, 2.55), rng.uniform(3.0, 3.8)
    name = str(rng.choice(TRAILER_COLOURS))
    load_paint, cab_paint = varied(rng, COLOURS[name]), varied(rng, COLOURS[str(rng.choice(TRAILER_COLOURS))])
    body, engine, thermal = _vehicle_heat(rng, state, night)
    front, rear, side = length / 2, -length / 2, width / 2
    cab_rear, gap = front - 2.2, rng.uniform(0.3, 0.9)
    chassis = Part(rectangle(rear, front, -side, side), 1.0, _DARK, body - 1.0, -2.0)
    if kind == "bus":
        load = _bus_body(rear, front, side, load_paint, body)
    else:
        load = (
            Part(chamfered(cab_rear, front, -side, side, 0.15), 2.7, cab_paint, (body + engine) / 2, -2.0),
            Part(rectangle(front - 0.75, front - 0.15, -side + 0.2, side - 0.2), 2.75, _GLASS, body - 2, -6.0),
            Part(rectangle(cab_rear + 0.3, cab_rear + 1.2, -side + 0.5, side - 0.5), 2.8, cab_paint, engine, -2.0),
            *_cargo(rng, kind, rear, cab_rear - gap, side, height, load_paint, body),
        )
    mean_dbsm = rng.normal(12.0, 3.0)
    words = {"colour": name, "thermal": thermal, "backscatter": _return_word(mean_dbsm, 9, 15), "state": state}
    scatterers = _corner_returns(rng, length, width, height, int(rng.integers(6, 12)), mean_dbsm)
    return Solid(kind, "truck", x_px, y_px, heading_rad, length, width, (chassis, *load), scatterers, words)


def _bus_body(rear: float, front: float, side: float, paint: Colour, body: float) -> tuple[Part, ...]:
    """Parts of a bus over its chassis: roof, windscreen, air conditioning."""
    return (
        Part(chamfered(rear, front, -side, side, 0.2), 3.1, paint, body, -3.0),
        Part(rectangle(front - 0.6, front - 0.15, -side + 0.2, side - 0.2), 3.1, _GLASS, body - 2, -6.0),
        Part(rectangle(-1.4, 1.0, -0.7, 0.7), 3.4, shaded(paint, 0.8), body + 3, -2.0),
        Part(rectangle(rear + 0.2, rear + 1.4, -side + 0.3, side - 0.3), 3.1, shaded(paint, 0.9), body + 7, -3.0),
    )


def _cargo(
    rng: np.random.Generator,
    kind: str,
    rear: float,
    front: float,
    side: float,
    height: float,
    paint: Colour,
    body: float,
) -> tuple[Part, ...]:
    """Parts of the load behind the cab."""
    if kind == "tanker truck":
        return (
            Part(chamfered(rear, front, -side + 0.1, side - 0.1, 0.7), height - 0.5, shaded(paint, 0.75), body, -1.0),
            Part(
                chamfered(rear + 0.3, front - 0.3, -side * 0.45, side * 0.45, 0.3),
                height,
                shaded(paint, 1.2),
                body,
                -1.0,
            ),
        )
    if kind == "flatbed truck":
        bed = Part(rectangle(rear, front, -side, side), 1.3, varied(rng, (0.45, 0.36, 0.27)), body - 1, -5.0)
        start = rear + 0.5
        cargo = []
        while start < front - 1.5:
            size = rng.uniform(1.0, 2.2)
            crate = rectangle(start, min(start + size, front - 0.3), -side * 0.7, side * 0.7)
            cargo.append(Part(crate, rng.uniform(1.6, 2.6), varied(rng, (0.5, 0.45, 0.4), 0.2), body, -1.0))
            start += size + rng.uniform(0.3, 1.2)
        return (bed, *cargo)
    ridge = Part(rectangle(rear + 0.2, front - 0.2, -side * 0.08, side * 0.08), height, shaded(paint, 0.85), body, -4.0)
    return (Part(rectangle(rear, front, -side, side), height, paint, body + 0.5, -4.0), ridge)
