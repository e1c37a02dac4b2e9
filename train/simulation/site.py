"""A world under construction: its terrain, the ground already taken, the solids placed so far."""

from __future__ import annotations

import cv2
import numpy as np

from train.simulation.materials import Material
from train.simulation.terrain import Terrain
from train.simulation.world import FloatArray, FloatImage, Setting, Solid

#: Pixels around the image in which ground can be taken too, for what straddles the border.
_PAD = 160


class Site:
    """A world under construction: its terrain, the ground already taken and the solids placed.

    Args:
        rng: Source of all randomness of placement.
        setting: The scene's setting.
        terrain: Its ground.
    """

    def __init__(self, rng: np.random.Generator, setting: Setting, terrain: Terrain) -> None:
        height, width = setting.shape
        self.rng, self.setting, self.terrain = rng, setting, terrain
        self.solids: list[Solid] = []
        self.foam: FloatImage = np.zeros(setting.shape, np.float32)
        self.wake: FloatImage = np.zeros(setting.shape, np.float32)
        self.num_objects, self._quota = 0, setting.num_objects
        self._taken = np.zeros((height + 2 * _PAD, width + 2 * _PAD), np.uint8)
        self._water = np.pad((terrain.material == Material.WATER).astype(np.uint8), _PAD, mode="edge")
        road = terrain.material == Material.ASPHALT
        self._road = np.pad((road | (terrain.material == Material.PAINT)).astype(np.uint8), _PAD, mode="edge")

    @property
    def gsd_m(self) -> float:
        """Metres per pixel."""
        return self.setting.gsd_m

    @property
    def extent_m(self) -> FloatArray:
        """Width and height of the scene in metres."""
        return np.array(self.setting.shape[::-1]) * self.gsd_m

    @property
    def wants_objects(self) -> bool:
        """Whether fewer objects than the quota have been placed."""
        return self.num_objects < self._quota

    def allow(self, share: float) -> None:
        """Set the quota: what is placed so far, and ``share`` of the objects still to come."""
        self._quota = self.num_objects + round(share * (self.setting.num_objects - self.num_objects))

    def claim(self, corners_px: FloatArray, ground: str = "any", take: bool = True) -> bool:
        """Take the ground inside ``corners_px`` if it is free and of the right kind.

        Args:
            corners_px: ``(K, 2)`` convex polygon.
            ground: ``water``, ``land`` (neither water nor road), or ``any``.
            take: Whether to take it, or only to ask.
        """
        points = np.round(corners_px + _PAD).astype(np.int32)
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0) + 1
        if x1 < 0 or y1 < 0 or y2 > self._taken.shape[0] or x2 > self._taken.shape[1]:
            return False
        patch = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillConvexPoly(patch, points - (x1, y1), 1)
        window = slice(y1, y2), slice(x1, x2)
        if (self._taken[window] & patch).any():
            return False
        if ground == "water" and (patch & ~self._water[window] & 1).any():
            return False
        if ground == "land" and (patch & (self._water[window] | self._road[window])).any():
            return False
        if take:
            self._taken[window] |= patch
        return True

    def place(self, solid: Solid, ground: str = "any", margin_m: float = 0.3) -> bool:
        """Add a solid if its ground is free; objects count towards the number intended."""
        if not self.claim(solid.corners(self.gsd_m, margin_m), ground):
            return False
        self.solids.append(solid)
        height, width = self.setting.shape
        inside = 0 <= solid.x_px < width and 0 <= solid.y_px < height
        self.num_objects += solid.label is not None and inside
        return True

    def random_point_px(self, margin_px: float = 0.0) -> tuple[float, float]:
        """A uniform position in the image, grown by ``margin_px``."""
        height, width = self.setting.shape
        return self.rng.uniform(-margin_px, width + margin_px), self.rng.uniform(-margin_px, height + margin_px)
