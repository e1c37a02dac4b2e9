"""GeoTIFFs of simulated scenes: a made-up place in UTM, true to scale. Needs the ``geo`` extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from babelrs.errors import BabelRSError

_CRS = "EPSG:32632"
_ORIGIN_M = (500_000.0, 5_300_000.0)


def require_rasterio() -> Any:
    """The rasterio module.

    Raises:
        BabelRSError: It is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise BabelRSError(
            "--geotiff needs rasterio, which is not installed.", "pip install 'babelrs[geo]'."
        ) from error
    return rasterio


def write_geotiff(path: Path, pixels: np.ndarray[Any, Any], gsd_m: float, scene: int) -> None:
    """Write pixels with a coordinate system and a north-up transform.

    Args:
        path: The file.
        pixels: ``(H, W)`` or ``(H, W, 3)``.
        gsd_m: Metres per pixel.
        scene: Number of the scene; each scene lies 20 km east of the one before, ten to a row.
    """
    rasterio = require_rasterio()
    bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    east, north = _ORIGIN_M[0] + 20_000 * (scene % 10), _ORIGIN_M[1] - 20_000 * (scene // 10 % 100)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=bands.shape[2],
        height=bands.shape[1],
        count=len(bands),
        dtype=bands.dtype.name,
        crs=_CRS,
        transform=rasterio.transform.from_origin(east, north, gsd_m, gsd_m),
    ) as target:
        target.write(bands)
