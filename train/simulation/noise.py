"""Smooth random fields: the texture of terrain, water, canopies and clouds of heat."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]


def value_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell_px: float | tuple[float, float],
    octaves: int = 4,
    persistence: float = 0.55,
) -> FloatImage:
    """Multi-octave value noise of about zero mean and unit standard deviation.

    Args:
        rng: Source of all randomness.
        shape: Height and width in pixels.
        cell_px: Grid spacing of the coarsest octave, or its spacing down and across.
        octaves: Number of octaves; each halves the spacing, down to one pixel.
        persistence: Amplitude of an octave relative to the coarser one before it.

    Returns:
        ``(H, W)`` float32.
    """
    cell_y, cell_x = cell_px if isinstance(cell_px, tuple) else (cell_px, cell_px)
    total = np.zeros(shape, np.float32)
    amplitude, power = 1.0, 0.0
    for _ in range(octaves):
        total += np.float32(amplitude) * _octave(rng, shape, max(cell_y, 1.0), max(cell_x, 1.0))
        power += amplitude**2
        amplitude *= persistence
        cell_y, cell_x = cell_y / 2, cell_x / 2
        if max(cell_y, cell_x) < 1:
            break
    return total * np.float32(1.35 / np.sqrt(power))


def _octave(rng: np.random.Generator, shape: tuple[int, int], cell_y: float, cell_x: float) -> FloatImage:
    """One octave: a random grid, interpolated by cubics, at a random offset."""
    rows, columns = int(np.ceil(shape[0] / cell_y)) + 3, int(np.ceil(shape[1] / cell_x)) + 3
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    if cell_y <= 1 and cell_x <= 1:
        return grid[: shape[0], : shape[1]]
    offset_x, offset_y = rng.random(2)
    matrix = np.array([[1 / cell_x, 0, 0.5 + offset_x], [0, 1 / cell_y, 0.5 + offset_y]], np.float64)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(grid, matrix, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REFLECT))


def blur(image: FloatImage, sigma_px: float) -> FloatImage:
    """``image`` under a Gaussian of ``sigma_px``."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.float32)


def rescaled(values: FloatImage, low: float, high: float) -> FloatImage:
    """0 at or below ``low``, 1 at or above ``high``, smooth between (a cubic step)."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)
