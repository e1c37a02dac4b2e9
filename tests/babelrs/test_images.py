"""Frames come whole and in the declared band order, or not at all."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from babelrs.errors import BabelRSError
from babelrs.images import ImageError, decode_frame, read_frame

rasterio = pytest.importorskip("rasterio", reason="the oracle for TIFF layouts is the geo extra")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def counts(shape: tuple[int, ...], dtype: str, seed: int = 0) -> npt.NDArray[Any]:
    values = np.random.default_rng(seed).random(shape) * 200
    return (values - 50 if dtype in ("int16", "float32", "float64") else values).astype(dtype)


def write_tiff(path: Path, bands: npt.NDArray[Any], **options: Any) -> Path:
    """``bands`` is ``(C, H, W)``."""
    profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(path, "w", **{**profile, "dtype": bands.dtype.name, **options}) as file:
        file.write(bands)
    return path


def write_png(path: Path, pixels: npt.NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def test_png_comes_in_rgb_order(tmp_path: Path) -> None:
    pixels = counts((5, 7, 3), "uint8")
    frame = read_frame(write_png(tmp_path / "a.png", pixels[..., ::-1]))
    assert np.array_equal(frame.pixels, pixels)
    assert frame.nodata is None and not frame.has_alpha and (frame.height, frame.width) == (5, 7)


def test_sixteen_bit_png_keeps_its_counts(tmp_path: Path) -> None:
    pixels = np.arange(30_000, 30_035, dtype=np.uint16).reshape(5, 7)
    assert np.array_equal(read_frame(write_png(tmp_path / "a.png", pixels)).pixels, pixels)


def test_transparent_png_declares_its_alpha(tmp_path: Path) -> None:
    pixels = counts((5, 7, 4), "uint8")
    frame = read_frame(write_png(tmp_path / "a.png", pixels[..., [2, 1, 0, 3]]))
    assert frame.has_alpha and np.array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 32}])
def test_every_tiff_layout_reads_as_gdal_reads_it(
    tmp_path: Path, dtype: str, bands: int, interleave: str, layout: dict[str, Any]
) -> None:
    written = counts((bands, 37, 53), dtype)
    compressions: list[dict[str, Any]] = [{}, {"compress": "deflate"}, {"compress": "lzw"}]
    if not dtype.startswith("float"):
        compressions.append({"compress": "lzw", "predictor": 2})
    photometrics: list[dict[str, Any]] = [{}, {"photometric": "RGB"}] if bands >= 3 else [{}]
    every = [{**c, **p, "BIGTIFF": b} for c in compressions for p in photometrics for b in ("NO", "YES")]
    for number, options in enumerate(every):
        path = write_tiff(tmp_path / f"{number}.tif", written, interleave=interleave, **layout, **options)
        pixels = read_frame(path).pixels
        expected = np.moveaxis(written, 0, -1).squeeze().astype(np.float64)
        assert pixels.shape == expected.shape, options
        assert np.array_equal(pixels.astype(np.float64), expected.astype(np.float32).astype(np.float64)), options


@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
def test_byte_order_does_not_matter(tmp_path: Path, endianness: str) -> None:
    written = counts((2, 9, 11), "uint16")
    path = write_tiff(tmp_path / "a.tif", written, ENDIANNESS=endianness, interleave="pixel")
    assert np.array_equal(read_frame(path).pixels, np.moveaxis(written, 0, -1))


@pytest.mark.parametrize("bands", [2, 4])
def test_the_last_tiff_band_is_alpha_only_where_the_file_says_so(tmp_path: Path, bands: int) -> None:
    written = counts((bands, 9, 11), "uint8")
    written[-1] = 7  # nearly transparent: premultiplied colours would be near 0
    plain = read_frame(write_tiff(tmp_path / "plain.tif", written, ALPHA="NO"))
    alpha = read_frame(write_tiff(tmp_path / "alpha.tif", written, ALPHA="YES"))
    assert (plain.has_alpha, alpha.has_alpha) == (False, True)
    assert np.array_equal(alpha.pixels, np.moveaxis(written, 0, -1))


def test_bands_are_put_in_rgb_order_by_their_colour_interpretation(tmp_path: Path) -> None:
    from rasterio.enums import ColorInterp

    written = counts((3, 9, 11), "uint16")
    path = write_tiff(tmp_path / "bgr.tif", written)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    assert np.array_equal(read_frame(path).pixels, np.moveaxis(written, 0, -1)[..., ::-1])


@pytest.mark.parametrize("nodata", [-99.0, 0.0, -3.4028234663852886e38, 1e-5])
def test_nodata_is_gdals(tmp_path: Path, nodata: float) -> None:
    path = write_tiff(tmp_path / "a.tif", counts((1, 4, 4), "float32"), nodata=nodata)
    with rasterio.open(path) as file:
        found = read_frame(path).nodata
        assert found is not None and np.float32(found) == np.float32(file.nodata) == np.float32(nodata)


def test_nodata_nan_is_read_as_nan(tmp_path: Path) -> None:
    nodata = read_frame(write_tiff(tmp_path / "a.tif", counts((1, 4, 4), "float32"), nodata=float("nan"))).nodata
    assert nodata is not None and np.isnan(nodata)


def test_int16_becomes_uint16_unless_negative(tmp_path: Path) -> None:
    positive = read_frame(write_tiff(tmp_path / "a.tif", np.full((1, 3, 3), 30_000, np.int16)))
    negative = read_frame(write_tiff(tmp_path / "b.tif", np.full((1, 3, 3), -30_000, np.int16)))
    assert positive.pixels.dtype == np.uint16 and np.all(positive.pixels == 30_000)
    assert negative.pixels.dtype == np.float32 and np.all(negative.pixels == -30_000)


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    done, data = cv2.imencode(".jpg", np.zeros((8, 16, 3), np.uint8))
    assert done
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 6, 0) + b"\0" * 4  # orientation 6: turn right
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2].tobytes() + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:].tobytes())
    assert cv2.imread(str(path)).shape == (16, 8, 3), "the file does not say what this test is about"
    assert read_frame(path).pixels.shape == (8, 16, 3)


def encoded(suffix: str, **options: Any) -> bytes:
    done, data = cv2.imencode(suffix, counts((64, 48, 3), "uint8"), *options.values())
    assert done
    return bytes(data.tobytes())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str, fraction: float) -> None:
    whole = encoded(suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: max(1, int(len(whole) * fraction))])
    with pytest.raises(ImageError, match=f"cut{suffix}"):
        read_frame(path)


def test_a_progressive_jpeg_is_whole_or_refused(tmp_path: Path) -> None:
    whole = encoded(".jpg", options=[cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_frame(path).pixels.shape == (64, 48, 3)
    path.write_bytes(whole[:-2])
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_frame(path)


def test_the_end_marker_of_a_thumbnail_is_not_the_images(tmp_path: Path) -> None:
    whole, thumbnail = encoded(".jpg"), encoded(".jpg")[:2000] + b"\xff\xd9"
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + segment + whole[2:-100])
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_frame(path)
    path.write_bytes(whole[:2] + segment + whole[2:] + b"trailing bytes of a camera")
    assert read_frame(path).pixels.shape == (64, 48, 3)


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    data = bytearray(encoded(".png"))
    data[len(data) // 2] ^= 0x10
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged PNG"):
        read_frame(path)


def empty_png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that claims a size and holds no pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + header + end


def test_an_image_of_no_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zero.png"
    path.write_bytes(empty_png(0, 0))
    with pytest.raises(ImageError, match=r"zero\.png: an image of 0x0 px"):
        read_frame(path)


def huge_jpeg() -> bytes:
    """A JPEG whose frame header claims 65500x65500 px."""
    data = bytearray(encoded(".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def huge_tiff() -> bytes:
    """A compressed TIFF that claims 60000x60000 px: what its strips hold is not known before they are decoded."""
    data = bytearray(encoded(".tif"))
    count = struct.unpack_from("<H", data, at := struct.unpack_from("<I", data, 4)[0])[0]
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] in (256, 257):
            struct.pack_into("<HII", data, entry + 2, 4, 1, 60000)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        empty_png(23171, 23171), empty_png(16385, 16384, 16), empty_png(16385, 8192, 8, 6), empty_png(1 << 30, 1 << 30),
        huge_jpeg, huge_tiff,
    ],
)  # fmt: skip
def test_a_small_file_that_claims_a_huge_image_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, data: Any
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *given: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"bomb: an image of \d+x\d+ px; at most 512 MiB are decoded") as caught:
        decode_frame(data() if callable(data) else data, "bomb")
    assert caught.value.cause == "too large"


def test_a_png_whose_header_is_cut_is_refused() -> None:
    body = b"IHDR" + bytes(5)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 5) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(ImageError, match="its header has 5 bytes"):
        decode_frame(data, "a.png")


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "complex_int16", "complex64"])
def test_a_number_type_that_is_no_count_is_named(tmp_path: Path, dtype: str) -> None:
    path = write_tiff(tmp_path / "slc.tif", counts((1, 4, 4), dtype.replace("complex_int16", "complex64")), dtype=dtype)
    with pytest.raises(ImageError, match=rf"slc\.tif: pixels are {dtype.replace('complex_int16', 'complex_int32')}"):
        read_frame(path)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: None, "missing"),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("x1 y1 x2 y2"), "format"),
        (lambda path: path.write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0"), "truncated"),
        (lambda path: write_tiff(path, counts((5, 4, 4), "uint8")), "band count"),
        (lambda path: write_tiff(path, counts((1, 4, 4), "uint32")), "pixel type"),
    ],
)
def test_what_cannot_be_used_is_named_with_a_cause(tmp_path: Path, make: Any, cause: str) -> None:
    path = tmp_path / "bad.tif"
    make(path)
    with pytest.raises(ImageError, match=r"bad\.tif") as caught:
        read_frame(path)
    assert caught.value.cause == cause
    assert caught.value.remedy and isinstance(caught.value, BabelRSError)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_no_damage_makes_the_reader_crash(tmp_path: Path, suffix: str) -> None:
    """Random bytes overwritten anywhere: a frame or an ImageError, nothing else."""
    rng = np.random.default_rng(20)
    whole = np.frombuffer(encoded(suffix), np.uint8)
    path = tmp_path / f"a{suffix}"
    for _ in range(60):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 8)] = rng.integers(0, 256, 8)
        damaged[rng.integers(8, 200)] = rng.integers(0, 256)
        path.write_bytes(damaged.tobytes())
        try:
            assert read_frame(path).pixels.size > 0
        except ImageError as error:
            assert str(path) in str(error)


def test_reading_is_silent_on_standard_error(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "geo.tif", counts((1, 9, 9), "float32"), crs="EPSG:32631", nodata=-99)
    code = f"from babelrs.images import read_frame; read_frame({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_importing_the_reader_does_not_load_opencv() -> None:
    code = "import sys, babelrs.images; raise SystemExit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bytes_in_memory_are_read_as_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 60_000, (7, 9), dtype=np.uint16))
    frame = decode_frame(path.read_bytes(), "shard.tar:a")
    assert (frame.pixels == read_frame(path).pixels).all() and frame.source == "shard.tar:a"
    for data in (b"", b"GIF89a", path.read_bytes()[:60]):
        with pytest.raises(ImageError, match=r"shard\.tar:a"):
            decode_frame(data, "shard.tar:a")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [3, 4])
def test_bands_of_any_depth_come_red_first(tmp_path: Path, dtype: str, bands: int) -> None:
    stored = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (5, 7, bands), dtype, endpoint=True)
    cv2.imwrite(str(tmp_path / "a.png"), stored)  # takes blue, green, red
    assert (read_frame(tmp_path / "a.png").pixels == stored[..., [2, 1, 0, 3][:bands]]).all()


def test_a_tiff_whose_tags_are_out_of_range_is_refused(tmp_path: Path) -> None:
    """Offsets that are a negative floating-point number, of colours that nobody knows: found by fuzzing."""
    tags = [(256, 6), (257, 5), (258, 8), (259, 5), (262, 2050), (273, None), (277, 3), (278, 5), (279, 64), (284, 1)]
    end = 16 + 64
    entries = b"".join(
        struct.pack("<HHII", tag, 12, 1, 8) if value is None else struct.pack("<HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags
    )
    head = b"II*\0" + struct.pack("<Id", end, -4e22)
    path = tmp_path / "a.tif"
    path.write_bytes(head + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4))
    with pytest.raises(ImageError, match=r"tag 273 is \(-40000000000000000000000,\), which is out of range"):
        read_frame(path)
