"""A large GeoTIFF of simulated content, written block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from babelrs.sensors import Sensor
from train.simulation.georeference import require_rasterio
from train.simulation.scenes import Plan, generator, make_world, render

BLOCK_PX, PART_PX = 512, 1024
_GSD_M = 0.35


def simulated_parts(
    count: int, seed: int, sensor: Sensor = Sensor.RGB, side_px: int = PART_PX
) -> list[np.ndarray[Any, Any]]:
    """Simulated scenes that hold objects, each ``(C, side_px, side_px)``; uint8 (RGB), uint16 (IR) or float32 (SAR)."""
    plan, index = Plan(Path("."), 0, 0, side_px, side_px, seed=seed, gsd_m=_GSD_M), 0
    parts: list[np.ndarray[Any, Any]] = []
    while len(parts) < count:
        world = make_world(plan, "eval", index)
        if any(solid.label for solid in world.solids):
            view = render(plan, world, sensor, generator(seed, "eval", index, 1))
            parts.append(np.ascontiguousarray(np.moveaxis(np.atleast_3d(view.pixels), 2, 0)))
        index += 1
    return parts


def write_scene(path: Path, side: int, parts: list[np.ndarray[Any, Any]], seed: int) -> None:
    """Tile ``parts`` in random order to an RGB image of ``side`` pixels square in UTM; a band of parts is held at most.

    Args:
        path: GeoTIFF in tiles of 512 px, uncompressed: what is measured is no decoder.
        side: Pixels.
        parts: From :func:`simulated_parts`.
        seed: Of their order.
    """
    rasterio = require_rasterio()
    rng = np.random.default_rng(seed)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    profile |= {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "BIGTIFF": "IF_SAFER"}
    place = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(500_000, 5_300_000, _GSD_M, _GSD_M)}
    with (
        rasterio.Env(GDAL_CACHEMAX=64 << 20),
        rasterio.open(path, "w", interleave="pixel", **profile, **place) as file,
    ):
        for y in range(0, side, PART_PX):
            for x in range(0, side, PART_PX):
                part = parts[rng.integers(len(parts))][:, : side - y, : side - x]
                window = rasterio.windows.Window(x, y, part.shape[2], part.shape[1])
                file.write(part, window=window)
