"""Curves over the ground: roads with lanes, rivers and coastlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.simulation.materials import Material
from train.simulation.raster import fill_strip
from train.simulation.world import FloatArray


@dataclass(frozen=True)
class Road:
    """A paved road.

    Attributes:
        points_m: ``(N, 2)`` centre line in metres, about a metre apart.
        lanes: Lanes per direction.
        lane_m: Width of a lane.
        median_m: Width of the strip between the directions, 0 for a painted line.
    """

    points_m: FloatArray
    lanes: int
    lane_m: float
    median_m: float

    @property
    def half_width_m(self) -> float:
        """Half the paved width, hard shoulders included."""
        return self.lanes * self.lane_m + self.median_m / 2 + (0.6 if self.lanes == 1 else 1.6)

    def lane_lines(self) -> list[FloatArray]:
        """Centre lines ``(N, 2)`` of the lanes, each in driving direction (traffic keeps to the right)."""
        lines = []
        for index in range(self.lanes):
            shift = self.median_m / 2 + (index + 0.5) * self.lane_m
            lines += [offset_curve(self.points_m, shift), offset_curve(self.points_m, -shift)[::-1]]
        return lines


def curve(
    origin_m: tuple[float, float], angle_rad: float, reach_m: float, bend_m: float, period_m: float, phase: float
) -> FloatArray:
    """A line through ``origin_m`` that swings sideways by up to ``bend_m``; ``(N, 2)`` metres."""
    s = np.arange(-reach_m, reach_m, 1.0)
    side = bend_m * (np.sin(2 * np.pi * s / period_m + phase) - np.sin(phase))
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return np.stack([origin_m[0] + s * cosine - side * sine, origin_m[1] + s * sine + side * cosine], axis=1)


def headings(points: FloatArray) -> FloatArray:
    """Direction ``(N,)`` along a curve, radians clockwise on screen from +x."""
    gradient = np.gradient(points, axis=0)
    return np.asarray(np.arctan2(gradient[:, 1], gradient[:, 0]))


def offset_curve(points: FloatArray, right_m: float) -> FloatArray:
    """The curve ``right_m`` to the right of ``points`` (in driving direction)."""
    heading = headings(points)
    return np.asarray(points + right_m * np.stack([-np.sin(heading), np.cos(heading)], axis=1))


def strip(points: FloatArray, low_m: float, high_m: float) -> FloatArray:
    """Polygon between the curves at ``low_m`` and ``high_m`` to the right."""
    return np.concatenate([offset_curve(points, low_m), offset_curve(points, high_m)[::-1]])


def paint_roads(material: npt.NDArray[np.uint8], roads: Sequence[Road], gsd_m: float, verge: Material) -> None:
    """Draw roads into the material raster: verges, pavements, and lane marks that stop at crossings."""
    crossed = np.zeros(material.shape, np.uint8)
    for road in roads:
        outer = road.half_width_m + (1.2 if verge is Material.SOIL else 0.7)
        fill_strip(material, strip(road.points_m, -outer, outer) / gsd_m, verge)
    for road in roads:
        paved = np.zeros(material.shape, np.uint8)
        fill_strip(paved, strip(road.points_m, -road.half_width_m, road.half_width_m) / gsd_m, 1)
        crossed += paved
        material[paved > 0] = Material.ASPHALT
        if road.median_m > 0:
            half = road.median_m / 2
            fill_strip(material, strip(road.points_m, -half, half) / gsd_m, Material.GRASS)
    marks = np.zeros(material.shape, np.uint8)
    for road in roads:
        _paint_marks(marks, road, gsd_m)
    material[(marks > 0) & (crossed < 2)] = Material.PAINT


def _paint_marks(marks: npt.NDArray[np.uint8], road: Road, gsd_m: float) -> None:
    """Edge lines and dashed lane lines of one road."""
    points = road.points_m
    edge = road.lanes * road.lane_m + road.median_m / 2
    thickness = max(0.3, gsd_m * 0.8)
    for side in (-edge, edge) if road.lanes > 1 else ():
        fill_strip(marks, strip(points, side - thickness / 2, side + thickness / 2) / gsd_m, 1)
    inner = [0.0] if road.median_m == 0 else []
    inner += [sign * (road.median_m / 2 + k * road.lane_m) for k in range(1, road.lanes) for sign in (-1, 1)]
    for start in range(0, len(points) - 6, 12):
        dash = points[start : start + 5]
        for side in inner:
            fill_strip(marks, strip(dash, side - thickness / 2, side + thickness / 2) / gsd_m, 1)
