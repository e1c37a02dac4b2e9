"""Which objects an image shows: true boxes, cut off at the border or hidden from the radar."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from babelrs.sensors import Sensor
from train.simulation.world import FloatArray, Solid, View, World

#: An object less visible than this is no annotation; one less visible than the second is marked difficult.
MIN_VISIBLE, DIFFICULT_VISIBLE = 0.4, 0.7


@dataclass(frozen=True)
class Annotation:
    """An object as one image shows it.

    Attributes:
        solid: The object.
        corners_px: ``(4, 2)`` clockwise on screen, starting at the rear left.
        horizontal_px: ``(4,)`` x, y, width, height inside the image; for SAR it encloses the bright return too.
        difficult: Whether 30 to 60 % of it are outside the image.
    """

    solid: Solid
    corners_px: FloatArray
    horizontal_px: FloatArray
    difficult: bool


def visible_share(corners_px: FloatArray, shape: tuple[int, int]) -> float:
    """Share of a convex box ``(4, 2)`` that lies inside an image of ``shape``."""
    frame = np.array([[0, 0], [shape[1], 0], [shape[1], shape[0]], [0, shape[0]]], np.float32)
    box = corners_px.astype(np.float32)
    area = cv2.contourArea(box)
    return float(cv2.intersectConvexConvex(box, frame)[0] / area) if area > 0 else 0.0


def annotate(world: World, view: View, sensor: Sensor) -> list[Annotation]:
    """The objects to detect in a view, in the order they were placed."""
    found, (height, width) = [], world.setting.shape
    for index, solid in enumerate(world.solids):
        if solid.label is None:
            continue
        corners = solid.corners(world.setting.gsd_m)
        share = visible_share(corners, world.setting.shape)
        if share < MIN_VISIBLE:
            continue
        low, high = corners.min(axis=0), corners.max(axis=0)
        if sensor is Sensor.SAR:
            extent = view.returns[index] if view.returns is not None else None
            if extent is None:
                continue
            low, high = np.minimum(low, extent[:2]), np.maximum(high, extent[2:])
        low, high = np.clip(low, 0, (width, height)), np.clip(high, 0, (width, height))
        found.append(Annotation(solid, corners, np.concatenate([low, high - low]), share < DIFFICULT_VISIBLE))
    return found
