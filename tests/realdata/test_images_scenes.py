"""Real files of every kind read as GDAL reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from babelrs.images import read_frame

rasterio = pytest.importorskip("rasterio", reason="the oracle is the geo extra")
pytestmark = [pytest.mark.realdata, pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")]


@pytest.mark.parametrize(
    ("name", "bands", "has_alpha"),
    [
        ("S1A_IW_20150309_VV_geo_norm_db.tif", (1,), False),
        ("flirpy_example_radiometric.tiff", (1,), False),
        ("rasterio_RGB.byte.tif", (1, 2, 3), False),
        ("rasterio_RGBA.uint16.tif", (3, 2, 1, 4), True),  # stored as blue, green, red, alpha
    ],
)
def test_a_scene_reads_as_gdal_reads_it(shared_data: Path, name: str, bands: tuple[int, ...], has_alpha: bool) -> None:
    frame = read_frame(shared_data / "scenes" / name)
    with rasterio.open(shared_data / "scenes" / name) as file:
        expected = np.moveaxis(file.read(bands), 0, -1).squeeze()
        assert frame.nodata == file.nodata
    assert np.array_equal(frame.pixels, expected) and frame.pixels.dtype == expected.dtype
    assert frame.has_alpha == has_alpha


def test_a_jpeg_compressed_cloud_optimised_scene_differs_by_chroma_rounding_only(shared_data: Path) -> None:
    path = shared_data / "scenes" / "rasterio_cogeo.tif"
    with rasterio.open(path) as file:
        expected = np.moveaxis(file.read(), 0, -1).astype(int)
    assert np.abs(read_frame(path).pixels - expected).mean() < 0.5


def test_every_benchmark_image_is_whole(shared_data: Path) -> None:
    paths = sorted((shared_data / "soi-mini").rglob("*.jpg"))
    assert len(paths) > 1000
    assert all(read_frame(path).pixels.dtype == np.uint8 for path in paths[::5])
