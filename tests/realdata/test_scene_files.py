"""Real georeferenced scenes: places on Earth as pyproj has them, and pictures one can see something in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from babelrs.boxes import to_corners
from babelrs.images import ImageError, read_frame
from babelrs.manifest import SensorEntry
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from babelrs.tiling import iter_tiles
from runtime import scene as scenes
from runtime.geo import locate
from runtime.rasters import open_raster
from runtime.scene import open_scene
from runtime.stopwatch import Stopwatch
from runtime.windows import WindowRaster
from tests.runtime.test_scene import ENTRY

rasterio = pytest.importorskip("rasterio", reason="the geo extra is not installed")
pyproj = pytest.importorskip("pyproj", reason="the oracle is pyproj")
pytestmark = [pytest.mark.realdata, pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")]

GEOREFERENCED = (
    "S1A_IW_20150309_VV_geo_norm_db.tif",
    "rasterio_RGB.byte.tif",
    "rasterio_RGBA.uint16.tif",
    "rasterio_cogeo.tif",
)
SCENES = {**dict.fromkeys(GEOREFERENCED, Sensor.RGB), "flirpy_example_radiometric.tiff": Sensor.IR}
SCENES["S1A_IW_20150309_VV_geo_norm_db.tif"] = Sensor.SAR


def entry_of(sensor: Sensor) -> SensorEntry:
    return replace(ENTRY, profile=DEFAULT_PROFILES[sensor], channels=sensor.num_channels)


@pytest.mark.parametrize("name", GEOREFERENCED)
def test_corners_agree_with_rasterio_and_pyproj(shared_data: Path, name: str) -> None:
    path = shared_data / "scenes" / name
    raster = open_raster(path)
    assert raster.geo is not None
    rng = np.random.default_rng(1)
    low, high = [0, 0, 8, 2, -1.5], [raster.width, raster.height, 90, 8, 1.5]
    boxes = rng.uniform(low, high, (100, 5)).astype(np.float32)
    places = locate(boxes, raster.geo)
    with rasterio.open(path) as file:
        convert = pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(file.crs.to_wkt()), "EPSG:4326", always_xy=True)
        corners = to_corners(boxes)
        a, b, c, d, e, f = tuple(file.transform)[:6]
        x, y = corners[..., 0], corners[..., 1]
        expected = np.stack(convert.transform(a * x + b * y + c, d * x + e * y + f), axis=-1)
    assert np.abs(places.lonlat - expected).max() < 1e-6


@pytest.mark.parametrize("name", SCENES)
def test_windows_give_the_model_what_the_whole_file_gives(
    shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the rounding of two JPEG decoders in one of them."""
    path = shared_data / "scenes" / name
    entry = entry_of(SCENES[name])
    whole = open_scene(open_raster(path), entry, Stopwatch())
    monkeypatch.setattr(scenes, "EXACT_PX", 0)
    windowed = open_scene(WindowRaster(path), entry, Stopwatch())
    skipped = 0
    for tile in windowed.tiles():
        pixels, expected = windowed.prepare(tile, windowed.read(tile)), whole.prepare(tile, None)
        assert (pixels is None) == (expected is None)
        if pixels is None or expected is None:
            skipped += 1
            continue
        assert np.abs(pixels.astype(int) - expected).mean() < (0.5 if "cogeo" in name else 1e-9)
    assert (skipped > 0) == (name in ("rasterio_RGB.byte.tif", "rasterio_RGBA.uint16.tif"))


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_is_visible(shared_data: Path, name: str) -> None:
    """Neither black nor saturated where there are measurements, and black where there are none."""
    scene = open_scene(open_raster(shared_data / "scenes" / name), entry_of(SCENES[name]), Stopwatch())
    assert scene.image is not None and scene.valid is not None
    seen = scene.image[scene.valid]
    low, high = np.percentile(seen, [2, 98])
    if "RGBA" in name:
        assert (low, high) == (128, 128)  # its counts are all the same: one gray, and alpha around it
    else:
        assert high - low > 60 and np.mean((seen == 0) | (seen == 255)) < 0.05
    assert not scene.image[~scene.valid].any()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 0.95])
def test_every_cut_scene_is_refused(shared_data: Path, tmp_path: Path, share: float) -> None:
    for path in sorted((shared_data / "scenes").iterdir()):
        if path.suffix == ".mp4":
            continue
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageError, match=path.name):
            raster = open_raster(tmp_path / path.name)
            for tile in iter_tiles(raster.width, raster.height, 256, 256, 0.0):
                raster.read(tile.x, tile.y, tile.width, tile.height)


def test_the_thermal_frame_is_read_whole_and_has_no_place(shared_data: Path) -> None:
    path = shared_data / "scenes" / "flirpy_example_radiometric.tiff"
    raster = open_raster(path)
    assert raster.geo is None and np.array_equal(raster.read(0, 0, 640, 512).pixels, read_frame(path).pixels)
