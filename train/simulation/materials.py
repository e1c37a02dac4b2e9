"""What the ground is made of, and how each sensor sees it.

The numbers are round figures for X-band HH at 35 to 55 degrees incidence and for a long-wave camera in fair weather,
chosen for the *order* of the materials; they are no calibrated signatures.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Material(IntEnum):
    """A surface class of the ground raster."""

    WATER = 0
    SAND = 1
    SOIL = 2
    GRASS = 3
    CROP = 4
    FOREST = 5
    ASPHALT = 6
    CONCRETE = 7
    PAINT = 8
    ROCK = 9


SEASONS = ("summer", "autumn", "winter", "arid")

#: Reflectance in R, G, B per season, rows in the order of :class:`Material`.
REFLECTANCE: dict[str, npt.NDArray[np.float32]] = {
    "summer": np.array(
        [
            [0.10, 0.21, 0.27],
            [0.66, 0.60, 0.47],
            [0.44, 0.36, 0.27],
            [0.29, 0.38, 0.19],
            [0.38, 0.45, 0.21],
            [0.13, 0.22, 0.10],
            [0.27, 0.27, 0.28],
            [0.55, 0.54, 0.51],
            [0.85, 0.85, 0.82],
            [0.40, 0.38, 0.35],
        ],
        np.float32,
    ),
    "autumn": np.array(
        [
            [0.13, 0.19, 0.20],
            [0.60, 0.53, 0.41],
            [0.39, 0.29, 0.20],
            [0.40, 0.37, 0.20],
            [0.56, 0.47, 0.26],
            [0.36, 0.25, 0.10],
            [0.25, 0.25, 0.25],
            [0.50, 0.49, 0.46],
            [0.82, 0.82, 0.78],
            [0.37, 0.35, 0.32],
        ],
        np.float32,
    ),
    "winter": np.array(
        [
            [0.11, 0.16, 0.20],
            [0.70, 0.70, 0.70],
            [0.62, 0.61, 0.60],
            [0.74, 0.75, 0.78],
            [0.80, 0.81, 0.84],
            [0.27, 0.28, 0.27],
            [0.34, 0.35, 0.37],
            [0.60, 0.61, 0.63],
            [0.74, 0.74, 0.74],
            [0.45, 0.45, 0.46],
        ],
        np.float32,
    ),
    "arid": np.array(
        [
            [0.12, 0.30, 0.34],
            [0.76, 0.66, 0.49],
            [0.64, 0.50, 0.36],
            [0.58, 0.51, 0.35],
            [0.51, 0.52, 0.31],
            [0.27, 0.31, 0.19],
            [0.36, 0.35, 0.34],
            [0.66, 0.61, 0.53],
            [0.87, 0.86, 0.80],
            [0.52, 0.44, 0.36],
        ],
        np.float32,
    ),
}

#: Relative strength of the fine texture in RGB, SAR (dB) and infrared (kelvin), per material.
TEXTURE_RGB = np.array([0.05, 0.05, 0.10, 0.13, 0.11, 0.28, 0.06, 0.06, 0.10, 0.22], np.float32)
TEXTURE_DB = np.array([0.0, 0.7, 1.0, 0.9, 0.9, 2.4, 0.6, 0.8, 0.6, 2.5], np.float32)
TEXTURE_KELVIN = np.array([0.15, 0.5, 0.7, 0.6, 0.5, 0.9, 0.4, 0.5, 0.4, 0.9], np.float32)

#: Backscatter coefficient sigma nought, dB (calm water; wind adds to it).
SIGMA_DB = np.array([-25.0, -17.0, -13.5, -12.0, -10.0, -7.5, -20.0, -16.0, -20.0, -8.0], np.float32)

#: Apparent temperature relative to the air, kelvin, by day and by night.
KELVIN_DAY = np.array([-5.0, 6.0, 5.0, 1.5, 0.8, -1.5, 10.0, 7.0, 8.0, 5.0], np.float32)
KELVIN_NIGHT = np.array([5.0, -1.0, -1.5, -2.5, -2.0, 0.8, 2.6, 1.6, 2.0, 0.5], np.float32)
