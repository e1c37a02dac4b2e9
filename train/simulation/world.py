"""The value types of a simulated world: solids with parts, the ground raster, the world and its views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
FloatImage = npt.NDArray[np.float32]

CLASSES = ("ship", "car", "truck")


@dataclass(frozen=True)
class Part:
    """A flat-topped piece of a solid.

    Attributes:
        polygon: ``(K, 2)`` corners in metres, x forward and y to the right of the solid's heading.
        height_m: Height of the top over the ground.
        colour: Reflectance in R, G, B.
        kelvin: Apparent temperature relative to the air.
        sigma_db: Backscatter coefficient.
    """

    polygon: FloatArray
    height_m: float
    colour: tuple[float, float, float]
    kelvin: float
    sigma_db: float


@dataclass(frozen=True)
class Solid:
    """Something that stands on the ground or floats: an object to detect, a building or clutter.

    Attributes:
        kind: What it is, for instance ``sedan`` or ``container``.
        label: Its class if it is to be detected, else ``None``.
        x_px, y_px: Centre in pixels, pixel ``i`` covering ``[i, i + 1]``.
        heading_rad: Direction of the bow or bonnet, clockwise on screen from +x.
        length_m, width_m: Extent along and across the heading.
        parts: Pieces from bottom to top; the first one is the outline.
        scatterers: ``(K, 4)`` corner reflectors ``x_m, y_m, z_m, rcs_dbsm``.
        words: Attributes in words: ``colour``, ``thermal``, ``backscatter``, ``state``.
    """

    kind: str
    label: str | None
    x_px: float
    y_px: float
    heading_rad: float
    length_m: float
    width_m: float
    parts: tuple[Part, ...]
    scatterers: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    words: Mapping[str, str] = field(default_factory=dict)

    def to_pixels(self, points_m: FloatArray, gsd_m: float) -> FloatArray:
        """Pixel positions ``(K, 2)`` of local points in metres."""
        cosine, sine = np.cos(self.heading_rad), np.sin(self.heading_rad)
        rotation = np.array([[cosine, sine], [-sine, cosine]])
        return np.asarray(points_m)[:, :2] @ rotation / gsd_m + (self.x_px, self.y_px)

    def corners(self, gsd_m: float, margin_m: float = 0.0) -> FloatArray:
        """Corners ``(4, 2)`` in pixels, clockwise on screen, of the oriented box grown by ``margin_m`` on each side."""
        x, y = self.length_m / 2 + margin_m, self.width_m / 2 + margin_m
        return self.to_pixels(np.array([[-x, -y], [x, -y], [x, y], [-x, y]]), gsd_m)


@dataclass(frozen=True)
class Ground:
    """Rasters of the ground.

    Attributes:
        material: ``(H, W)`` uint8 of :class:`train.simulation.materials.Material`.
        tone: ``(H, W)`` float32, relative brightness of a field or patch, about -1 to 1.
        height_m: ``(H, W)`` float32 of canopies, piers and quays over the ground.
        foam: ``(H, W)`` float32 in 0 to 1, turbulent water behind ships.
        wake: ``(H, W)`` float32 in 0 to 1, the arms of bow waves.
    """

    material: npt.NDArray[np.uint8]
    tone: FloatImage
    height_m: FloatImage
    foam: FloatImage
    wake: FloatImage


@dataclass(frozen=True)
class Setting:
    """What holds for a whole scene.

    Attributes:
        kind: ``harbour``, ``open water``, ``river``, ``urban``, ``rural`` or ``highway``.
        season: One of :data:`train.simulation.materials.SEASONS`.
        night: Whether the sun is down (the infrared pass; the RGB pass too where ``dark_rgb``).
        dark_rgb: Whether RGB is taken at night.
        gsd_m: Metres per pixel.
        shape: Height and width in pixels.
        sun_azimuth_rad, sun_elevation_rad: Direction to the sun, clockwise on screen from +x.
        wind: 0 calm to 1 rough.
        num_objects: Number of objects aimed at.
    """

    kind: str
    season: str
    night: bool
    dark_rgb: bool
    gsd_m: float
    shape: tuple[int, int]
    sun_azimuth_rad: float
    sun_elevation_rad: float
    wind: float
    num_objects: int


@dataclass(frozen=True)
class World:
    """A scene before any sensor: its setting, ground and solids (drawn in order)."""

    setting: Setting
    ground: Ground
    solids: tuple[Solid, ...]


@dataclass(frozen=True)
class View:
    """What a sensor makes of a world.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 R, G, B; ``(H, W)`` float32 dB; or ``(H, W)`` uint16 counts.
        returns: SAR only: per solid, ``(4,)`` x1, y1, x2, y2 of its bright return, or ``None`` where it is in shadow.
    """

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.float32]
    returns: tuple[FloatArray | None, ...] | None = None
