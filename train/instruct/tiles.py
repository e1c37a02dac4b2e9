"""Dynamic tiles: an image becomes a grid of square tiles of the nearest shape, plus a thumbnail (InternVL 1.5, 3.2)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from babelrs.images import Frame, quiet_opencv
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor

JPEG_QUALITY = (75, 100)
"""Range that ``data_augment`` draws the quality of a re-encoded image from."""

_LARGEST_JPEG_PX = 65_500

Image = npt.NDArray[np.uint8]


def visual_tokens(tile_px: int, patch_px: int, shuffle: float) -> int:
    """Visual tokens of one tile: patches of a side times ``shuffle``, squared; 448 px, 14 px, 0.5 give 256.

    Raises:
        ValueError: The side holds no whole number of patches, or the patches no whole number of tokens.
    """
    if tile_px % patch_px:
        raise ValueError(f"tile_px {tile_px} is not a multiple of patch_px {patch_px}")
    side = tile_px // patch_px * shuffle
    if side < 1 or abs(side - round(side)) > 1e-9:
        raise ValueError(f"{tile_px // patch_px} patches a side times shuffle {shuffle} is no whole number")
    return round(side) ** 2


def choose_grid(width: int, height: int, max_tiles: int, tile_px: int) -> tuple[int, int]:
    """Columns and rows of tiles for an image.

    The grid of at most ``max_tiles`` whose aspect ratio is closest to the image's. Of equally close ones, the larger
    is taken only while the image has more than half the pixels that its tiles would have.

    Args:
        width: Of the image, pixels.
        height: Alike.
        max_tiles: Largest number of tiles, 1 or more.
        tile_px: Side of a tile, pixels.
    """
    aspect, best, smallest = width / height, (1, 1), float("inf")
    for columns, rows in _grids(max_tiles):
        distance = abs(aspect - columns / rows)
        roomy = 2 * width * height > tile_px * tile_px * columns * rows
        if distance < smallest or (distance == smallest and roomy):
            best, smallest = (columns, rows), distance
    return best


@lru_cache(maxsize=64)
def _grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All grids of at most ``max_tiles``, fewest tiles first."""
    grids = [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles // c + 1)]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)))


def cut_tiles(image: Image, max_tiles: int, tile_px: int, thumbnail: bool = True) -> Image:
    """Resize an image to its grid (bicubic, antialiased) and cut it.

    Args:
        image: ``(H, W, 3)``.
        max_tiles: Largest number of tiles.
        tile_px: Side of a tile, pixels.
        thumbnail: Whether more than one tile are followed by the whole image as one tile.

    Returns:
        ``(n, 3, tile_px, tile_px)`` uint8, row by row, the thumbnail last.
    """
    columns, rows = choose_grid(image.shape[1], image.shape[0], max_tiles, tile_px)
    source = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last
    whole = _resized(source, rows * tile_px, columns * tile_px)
    grid = whole.view(3, rows, tile_px, columns, tile_px)  # (3, R T, C T) -> (3, R, T, C, T)
    tiles = grid.permute(1, 3, 0, 2, 4).reshape(-1, 3, tile_px, tile_px)
    if thumbnail and len(tiles) > 1:
        tiles = torch.cat([tiles, _resized(source, tile_px, tile_px)])
    return tiles.contiguous().numpy()


def _resized(source: Tensor, height: int, width: int) -> Tensor:
    if source.shape[2:] == (height, width):
        return source.contiguous()
    return interpolate(source, size=(height, width), mode="bicubic", antialias=True).contiguous()


def normalised(tiles: Tensor) -> Tensor:
    """Tiles ``(n, 3, S, S)`` uint8 as the float32 that the vision model takes: ImageNet's mean and deviation."""
    from train.models.detector import normalise  # here, since the detector's libraries take seconds to load

    return normalise(tiles.permute(0, 2, 3, 1))


def guess_sensor(frame: Frame) -> Sensor:
    """The sensor whose radiometry fits a frame that names none, by its kind of file.

    8-bit frames and frames of several bands pass as RGB (8-bit counts stay as they are), 16-bit gray ones as infrared
    counts, floating-point gray ones as radar backscatter in dB.
    """
    bands = 1 if frame.pixels.ndim == 2 else frame.pixels.shape[2] - frame.has_alpha
    if bands > 1 or frame.pixels.dtype == np.uint8:
        return Sensor.RGB
    return Sensor.SAR if frame.pixels.dtype == np.float32 else Sensor.IR


def displayed(frame: Frame, sensor: Sensor | None) -> Image:
    """The ``(H, W, 3)`` uint8 image of a frame by its sensor's default radiometry.

    Raises:
        ImageError: Bands or number type do not fit the sensor.
    """
    image = to_uint8(frame, DEFAULT_PROFILES[guess_sensor(frame) if sensor is None else sensor])
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def degraded(image: Image, rng: np.random.Generator) -> Image:
    """The image after a JPEG encoding of random quality; unchanged where it exceeds what JPEG holds."""
    if max(image.shape) > _LARGEST_JPEG_PX:
        return image
    cv2 = quiet_opencv()
    quality = int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1))
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
