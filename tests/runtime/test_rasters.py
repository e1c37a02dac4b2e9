"""A file read in windows is the file read whole; whatever is wrong with it is an error that says so."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from babelrs.images import Frame, ImageError, read_frame
from babelrs.radiometry import DEFAULT_PROFILES, valid_mask
from babelrs.sensors import Sensor
from runtime import rasters
from runtime.control_points import PolynomialReference, RpcReference
from runtime.geo import GeoReference
from runtime.raster import FrameRaster, Raster
from runtime.rasters import open_raster
from runtime.windows import WindowRaster

rasterio = pytest.importorskip("rasterio", reason="the geo extra is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(500_000, 5_300_000, 0.5, 0.5)}


def counts(bands: int, dtype: str, height: int = 70, width: int = 90, seed: int = 0) -> npt.NDArray[Any]:
    values = np.random.default_rng(seed).random((bands, height, width)) * 200
    return (values - 50 if dtype in ("int16", "float32", "float64") else values).astype(dtype)


def write(path: Path, bands: npt.NDArray[Any], **options: Any) -> Path:
    """``bands`` is ``(C, H, W)``."""
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    mask, gcps = options.pop("mask", None), options.pop("gcps", None)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **{**profile, "dtype": bands.dtype.name, **options}) as file,
    ):
        file.write(bands)
        if mask is not None:
            file.write_mask(mask)
        if gcps is not None:
            file.gcps = gcps
    return path


def assembled(raster: Raster, step: int = 33) -> npt.NDArray[Any]:
    """All of an image from windows that do not fit its blocks."""
    rows = [
        np.concatenate(
            [
                raster.read(x, y, min(step, raster.width - x), min(step, raster.height - y)).pixels
                for x in range(0, raster.width, step)
            ],
            axis=1,
        )
        for y in range(0, raster.height, step)
    ]
    return np.concatenate(rows)


def assert_same(windowed: Frame, whole: Frame) -> None:
    assert windowed.pixels.dtype == whole.pixels.dtype
    assert np.array_equal(windowed.pixels, whole.pixels, equal_nan=whole.pixels.dtype.kind == "f")
    assert (windowed.has_alpha, windowed.nodata, windowed.source) == (whole.has_alpha, whole.nodata, whole.source)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 32, "interleave": "pixel"}])
def test_windows_are_what_reading_the_whole_file_gives(
    tmp_path: Path, dtype: str, bands: int, layout: dict[str, Any]
) -> None:
    variants: list[dict[str, Any]] = [{}, {"nodata": 7}, {"compress": "deflate"}, {"BIGTIFF": "YES", **UTM}]
    variants += [{"photometric": "RGB", "ALPHA": "YES"}] if bands == 4 else [{"ALPHA": "YES"}] if bands == 2 else []
    for number, options in enumerate(variants):
        path = write(tmp_path / f"{number}.tif", counts(bands, dtype), **layout, **options)
        raster, whole = WindowRaster(path), read_frame(path)
        assert (raster.width, raster.height, raster.dtype) == (90, 70, whole.pixels.dtype.name)
        assert_same(raster.read(0, 0, 90, 70), whole)
        assert np.array_equal(assembled(raster), whole.pixels)
        assert_same(open_raster(path).read(0, 0, 90, 70), whole)
        raster.close()


@pytest.mark.filterwarnings("error")
def test_nodata_beyond_float32_is_no_measurement_and_no_warning(tmp_path: Path) -> None:
    values = counts(1, "float64")
    values[0, :7] = -1.7e308
    path = write(tmp_path / "x.tif", values, nodata=-1.7e308)
    for frame in (read_frame(path), WindowRaster(path).read(0, 0, 90, 70)):
        assert np.array_equal(valid_mask(frame, DEFAULT_PROFILES[Sensor.IR]), values[0] > -1e30)


def test_an_int16_file_without_negative_counts_is_unsigned_wherever_it_is_read(tmp_path: Path) -> None:
    values = np.abs(counts(1, "int16", 4000, 1200))
    path = write(tmp_path / "a.tif", values)
    assert WindowRaster(path).read(0, 0, 5, 5).pixels.dtype == read_frame(path).pixels.dtype == np.uint16
    values[0, -1, -1] = -1  # the last pixel of the file decides about the first
    write(path, values)
    assert WindowRaster(path).read(0, 0, 5, 5).pixels.dtype == read_frame(path).pixels.dtype == np.float32


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_inverted_gray_palettes_and_band_order_read_alike(tmp_path: Path, dtype: str) -> None:
    from rasterio.enums import ColorInterp

    path = write(tmp_path / "white.tif", counts(1, dtype), photometric="MINISWHITE")
    assert_same(WindowRaster(path).read(0, 0, 90, 70), read_frame(path))
    path = write(tmp_path / "bgr.tif", counts(4, dtype))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.alpha]
    assert_same(WindowRaster(path).read(0, 0, 90, 70), read_frame(path))
    if dtype == "uint8":
        path = tmp_path / "palette.tif"
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=70, width=90, dtype=dtype, photometric="PALETTE"
        ) as file:
            file.write(counts(1, dtype))
            file.write_colormap(1, {index: (index, 255 - index, 7, 255) for index in range(256)})
        assert_same(WindowRaster(path).read(0, 0, 90, 70), read_frame(path))


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_mask_inside_the_file_is_alpha(tmp_path: Path, bands: int, dtype: str) -> None:
    mask = np.full((70, 90), 255, np.uint8)
    mask[:, :40] = 0
    values = counts(bands, dtype)
    raster = open_raster(write(tmp_path / "a.tif", values, mask=mask, **UTM))
    frame = raster.read(30, 10, 20, 20)
    assert frame.has_alpha and frame.pixels.dtype == dtype and frame.pixels.shape == (20, 20, bands + 1)
    assert np.array_equal(frame.pixels[..., -1] > 0, mask[10:30, 30:50] > 0)
    assert np.array_equal(frame.pixels[..., :-1], np.moveaxis(values[:, 10:30, 30:50], 0, -1))


def test_what_lies_beside_a_file_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", counts(1, "uint8"))
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n100\n200\n")
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32632</SRS><GeoTransform>1,1,0,1,0,-1</GeoTransform></PAMDataset>"
    )
    assert WindowRaster(path).geo is None
    assert sorted(os.listdir(tmp_path)) == ["a.tfw", "a.tif", "a.tif.aux.xml"]


@pytest.mark.parametrize("name", ["a b?.tif", "a#1.tif", "x:y.tif", "a!b.tif", "ü%20.tif", "plain", "wrong.png"])
def test_names_mean_files_and_nothing_else(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write(tmp_path / "source.tif", counts(1, "uint8"), **UTM)
    written.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    raster = open_raster(Path(name))
    assert isinstance(raster.geo, GeoReference) and raster.read(0, 0, 4, 4).source == name


def test_an_overview_is_thinned_and_comes_from_the_files_overviews(tmp_path: Path) -> None:
    values = np.broadcast_to(np.arange(256, dtype=np.uint8).repeat(4), (1, 1024, 1024))
    path = write(tmp_path / "a.tif", np.ascontiguousarray(values), tiled=True, blockxsize=64, blockysize=64)
    thinned = WindowRaster(path).overview(10_000)
    assert thinned.pixels.shape == (100, 100) and abs(int(thinned.pixels[:, 50].mean()) - 128) <= 2
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8])
        file.update_tags(note="changed")
    assert WindowRaster(path).overview(10_000).pixels.shape == (100, 100)
    assert WindowRaster(path).overview(10**9).pixels.shape == (1024, 1024)
    assert FrameRaster(read_frame(path)).overview(10_000).pixels.size <= 10_000


def test_control_points_and_rational_polynomials_become_places(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC

    points = [
        GroundControlPoint(row, col, 500_000 + 2 * col, 5_000_000 - 2 * row, 0)
        for row, col in ((0, 0), (0, 90), (70, 0), (70, 90))
    ]
    crs = rasterio.crs.CRS.from_epsg(32632)
    found = open_raster(write(tmp_path / "gcp.tif", counts(1, "uint8"), gcps=(points, crs))).geo
    assert isinstance(found, PolynomialReference) and found.order == 1
    assert found.ground(np.array([[10.0, 20.0]]))[0] == pytest.approx([500_020, 4_999_960])
    numerator = [0.0, 1.0, *[0.0] * 18], [0.0, 0.0, -1.0, *[0.0] * 17]
    one = [1.0, *[0.0] * 19]
    rpc = RPC(
        height_off=0.0, height_scale=500.0, lat_off=48.1, lat_scale=0.05, long_off=11.5, long_scale=0.08,
        line_off=35.0, line_scale=35.0, samp_off=45.0, samp_scale=45.0,
        line_num_coeff=numerator[1], line_den_coeff=one, samp_num_coeff=numerator[0], samp_den_coeff=one,
    )  # fmt: skip
    found = open_raster(write(tmp_path / "rpc.tif", counts(1, "uint8"), rpcs=rpc)).geo
    assert isinstance(found, RpcReference)
    assert found.ground(np.array([[45.5, 35.5]]))[0] == pytest.approx([11.5, 48.1], abs=1e-6)


def test_a_place_that_cannot_be_used_is_a_warning_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from rasterio.control import GroundControlPoint

    rng = np.random.default_rng(0)
    points = [GroundControlPoint(r, c, *rng.uniform(0, 1e5, 2), 0) for r in (0, 35, 70) for c in (0, 45, 90)]
    path = write(tmp_path / "gcp.tif", counts(1, "uint8"), gcps=(points, rasterio.crs.CRS.from_epsg(32632)))
    assert open_raster(path).geo is None
    assert "gcp.tif: its detections get no place on Earth: no polynomial passes within" in caplog.text
    local = 'LOCAL_CS["hall",UNIT["m",1]]'
    assert open_raster(write(tmp_path / "hall.tif", counts(1, "uint8"), **{**UTM, "crs": local})).geo is None
    assert "hall.tif: its detections get no place" in caplog.text
    assert WindowRaster(path).read(0, 0, 5, 5).pixels.shape == (5, 5)
    flat = rasterio.Affine(0.0, 0.0, 500_000, 0.0, 0.0, 5_000_000)
    assert open_raster(write(tmp_path / "flat.tif", counts(1, "uint8"), **{**UTM, "transform": flat})).geo is None
    assert "flat.tif: its detections get no place on Earth: its transform puts all pixels on a line" in caplog.text


def large(path: Path, **options: Any) -> Path:
    return write(path, counts(1, "uint8", 2000, 2000), tiled=True, blockxsize=256, blockysize=256, **options)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large is 1 MiB, so that tests need not write more."""
    monkeypatch.setattr(rasters, "WHOLE_BYTES", 1 << 20)
    monkeypatch.setattr(rasters, "MOST_DECODED_BYTES", 3 << 20)


@pytest.mark.usefixtures("small_limit")
def test_large_files_are_read_in_windows_and_small_ones_whole(tmp_path: Path) -> None:
    assert isinstance(open_raster(large(tmp_path / "a.tif")), WindowRaster)
    assert isinstance(open_raster(write(tmp_path / "b.tif", counts(1, "uint8"))), FrameRaster)
    assert cv2.imwrite(str(tmp_path / "c.png"), np.zeros((2000, 2000), np.uint8))
    assert isinstance(open_raster(tmp_path / "c.png"), FrameRaster)


@pytest.mark.usefixtures("small_limit")
def test_without_rasterio_a_large_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rasters, "has_rasterio", lambda: False)
    rasters._warn_about_rasterio.cache_clear()
    with pytest.raises(ImageError, match=r"2000x2000 px.*windows.*pip install 'babelrs\[geo\]'"):
        open_raster(large(tmp_path / "a.tif"))
    for name in ("b.tif", "c.tif"):
        raster = open_raster(write(tmp_path / name, counts(1, "uint8"), **UTM))
        assert raster.geo is None and raster.read(0, 0, 90, 70).pixels.shape == (70, 90)
    assert caplog.text.count("rasterio is not installed") == 1


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("compress", [None, "deflate", "lzw"])
def test_a_cut_file_is_refused_when_it_is_opened(tmp_path: Path, compress: str | None) -> None:
    whole = large(tmp_path / "a.tif", **({"compress": compress} if compress else {})).read_bytes()
    for share in (0.0, 1e-5, 0.001, 0.3, 0.99):
        (tmp_path / "cut.tif").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ImageError, match=r"cut\.tif: (a truncated|an empty|not a PNG)"):
            open_raster(tmp_path / "cut.tif")


@pytest.mark.usefixtures("small_limit")
def test_damage_inside_is_an_error_when_its_window_is_read(tmp_path: Path) -> None:
    path = large(tmp_path / "a.tif", compress="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300_000] = bytes(300_000)
    path.write_bytes(data)
    raster = open_raster(path)
    with pytest.raises(ImageError, match=r"a\.tif: a damaged or unreadable TIFF"):
        assembled(raster, 500)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("change", ["written", "cut", "replaced", "deleted"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: str) -> None:
    path = large(tmp_path / "a.tif")
    raster = open_raster(path)
    assert raster.read(0, 0, 100, 100).pixels.any()
    data = path.read_bytes()
    if change == "written":
        path.write_bytes(bytes(len(data)))
        os.utime(path, ns=(1, 1))
    elif change == "cut":
        os.truncate(path, 100_000)
    elif change == "replaced":
        (tmp_path / "b.tif").write_bytes(data)
        os.replace(tmp_path / "b.tif", path)
    else:
        path.unlink()
    with pytest.raises(ImageError, match=r"a\.tif: it was changed while it was read"):
        raster.read(1500, 1500, 100, 100)
    raster.close()


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(
    ("dtype", "bands", "what"),
    [("int32", 1, "pixels are int32"), ("complex64", 1, "pixels are complex64"), ("uint8", 5, "5 bands")],
)
def test_what_read_frame_refuses_is_refused_in_the_same_words(
    tmp_path: Path, dtype: str, bands: int, what: str
) -> None:
    path = write(tmp_path / "a.tif", np.zeros((bands, 1500, 1500), dtype))
    with pytest.raises(ImageError, match=what) as windowed:
        open_raster(path)
    with pytest.raises(ImageError) as whole:
        read_frame(path)
    assert str(windowed.value) == str(whole.value) and windowed.value.cause == whole.value.cause


def test_one_huge_block_and_odd_colours_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.windows.MOST_BLOCK_BYTES", 1000)
    with pytest.raises(ImageError, match=r"blocks of .* px .*gdal_translate -of COG"):
        WindowRaster(write(tmp_path / "a.tif", counts(1, "uint8")))
    with pytest.raises(ImageError, match="photometric interpretation 5"):
        WindowRaster(write(tmp_path / "b.tif", counts(4, "uint8"), photometric="CMYK"))


def header(width: int, height: int) -> bytes:
    """A classic TIFF of nothing but a directory: one band of uint8 in one empty strip."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 1)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not a PNG, JPEG or TIFF"),
        (b"II*\0", "truncated"),
        (b"II+\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated"),
        (b"II*\0\x10\0\0\0", "truncated"),
        (header(1 << 30, 1 << 30), "claims 1073741824x1073741824 px"),
        (header(0, 5), "0x5 px"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"<VRTDataset rasterXSize='20' rasterYSize='20'></VRTDataset>", "not a PNG, JPEG or TIFF"),
    ],
)
def test_a_file_of_another_type_than_its_name_says_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=what):
        open_raster(path)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_raster(tmp_path / "none.tif")
    with pytest.raises(ImageError, match="a folder"):
        open_raster(tmp_path)
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(ImageError, match="a device or pipe"):
        open_raster(tmp_path / "pipe.tif")


def test_a_file_too_large_to_be_read_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasters, "MOST_DECODED_BYTES", 1 << 20)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2 << 20))
    with pytest.raises(ImageError, match=r"2 MiB that are no TIFF.*gdal_translate"):
        open_raster(tmp_path / "a.png")


@pytest.mark.usefixtures("small_limit")
def test_threads_take_turns(tmp_path: Path) -> None:
    path = large(tmp_path / "a.tif", compress="deflate")
    raster, expected = open_raster(path), read_frame(path).pixels
    wrong: list[tuple[int, int]] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            x, y = (int(value) for value in rng.integers(0, 1900, 2))
            if not np.array_equal(raster.read(x, y, 100, 100).pixels, expected[y : y + 100, x : x + 100]):
                wrong.append((x, y))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
