"""Reads one image file to raw counts, and refuses what a decoder would half-decode.

PNG, JPEG and TIFF; 1 to 4 bands of 8- or 16-bit integers or floats. EXIF orientation is not applied: boxes are in
pixels of the image as stored. OpenCV is loaded on the first read, not on import.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs import tiff
from babelrs.errors import BabelRSError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Stuffed bytes and restart markers are no markers. One byte before the set, not several: Python then searches for it
# seventeen times faster.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
# TIFF number types that are no counts, or that some versions of OpenCV decode to something else.
_REFUSED_TYPES = (
    "uint32",
    "uint64",
    "int8",
    "int32",
    "int64",
    "complex_int32",
    "complex_int64",
    "complex64",
    "complex128",
)
MOST_DECODED_BYTES = 512 << 20
"""An image that decodes to more than this is not read whole: a few hundred bytes can claim any size."""
_SPARE_BYTES = 32 << 20
"""Where not even this can be had, memory is the fault and not the image, which is not to be skipped for it."""
_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}  # by colour type, as OpenCV decodes them
_FETCH_AGAIN = "Fetch the file again, or leave it out."
_BANDS = "Use a file of 1 to 4 bands; `gdal_translate -b` picks bands."


class ImageError(BabelRSError):
    """One image cannot be used; the run can go on without it.

    Args:
        cause: One or two words that group such images in a summary.
        source: The file.
        what: What is wrong with it.
        remedy: What to do about it.
    """

    def __init__(self, cause: str, source: str | Path, what: str, remedy: str) -> None:
        super().__init__(f"{source}: {what}", remedy)
        self.cause = cause


@dataclass(frozen=True)
class Frame:
    """One image as the sensor counted it.

    Attributes:
        pixels: ``(H, W)``, or ``(H, W, C)`` with C of 2 to 4 in R, G, B[, A] order (2: gray and alpha, or two data
            bands); uint8, uint16 or float32.
        nodata: The count that means "no measurement", or ``None``.
        source: Where the frame came from, for messages.
        has_alpha: Whether the last of 2 or 4 bands is declared as alpha. The 4th band of a frame without it is data
            that the RGB model does not see (near infrared, say).
    """

    pixels: npt.NDArray[Any]
    nodata: float | None = None
    source: str = "frame"
    has_alpha: bool = False

    @property
    def height(self) -> int:
        """Rows of the image."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of the image."""
        return int(self.pixels.shape[1])


def read_frame(path: str | Path) -> Frame:
    """Read one PNG, JPEG or TIFF file.

    A float64 TIFF becomes float32; an int16 TIFF becomes uint16 where no count is negative, else float32 (exact). A
    TIFF of several images gives its first. In a TIFF, the last band is alpha only where the file says so.

    Args:
        path: The file.

    Returns:
        Its raw counts in R, G, B[, A] order, with GDAL's nodata value where the file has one.

    Raises:
        ImageError: The file is missing, a folder, empty, truncated, damaged, or of a format, band count or number
            type that cannot be used; the message names it and says what to do.
        MemoryError: There is no memory to decode it, which says nothing about the file.
    """
    path = Path(path)
    return decode_frame(_read_bytes(path), path)


def decode_frame(data: bytes, source: str | Path) -> Frame:
    """The image that the bytes of one PNG, JPEG or TIFF file hold, as :func:`read_frame` reads it.

    Args:
        data: The whole file.
        source: What messages call it.

    Raises:
        ImageError: As for :func:`read_frame`.
    """
    path = Path(source)
    if not data:
        raise ImageError("empty", path, "an empty file (0 bytes).", _FETCH_AGAIN)
    if data.startswith(_PNG_MAGIC):
        _check_png(path, data)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(path, data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _read_tiff(path, data)
    else:
        what = f"not a PNG, JPEG or TIFF file (it starts with {data[:8]!r})."
        raise ImageError("format", path, what, "Convert it to one of these.")
    pixels = _decode(path, data)
    return Frame(_usable_counts(path, pixels), None, str(path), has_alpha=pixels.ndim == 3 and pixels.shape[2] == 4)


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError("not a file", path, "a folder, not an image.", "Name an image file in it.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("missing", path, "no such file.", "Check the path.") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror})."
        raise ImageError("unreadable", path, what, "Check its permissions and the disk.") from None
    return data


def _check_png(path: Path, data: bytes) -> None:
    """Walk the chunks: each must be whole and match its checksum, up to IEND (PNG, section 5)."""
    at, kind = len(_PNG_MAGIC), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ImageError("truncated", path, f"a truncated PNG ({len(data)} bytes, no end chunk).", _FETCH_AGAIN)
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            what = f"a truncated PNG (its {kind!r} chunk ends after {len(data)} bytes)."
            raise ImageError("truncated", path, what, _FETCH_AGAIN)
        if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            what = f"a damaged PNG (checksum of its {kind!r} chunk at byte {at})."
            raise ImageError("damaged", path, what, _FETCH_AGAIN)
        if kind == b"IHDR":
            _check_header(path, data[at + 8 : end])
        at = end + 4


def _check_jpeg(path: Path, data: bytes) -> None:
    """Walk the markers from the start to the end marker; an end marker inside a thumbnail does not count."""
    at = 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker, at = found.group(1)[0], found.end()
        if marker == 0xD9:
            return
        if marker == 0x01:
            continue
        if at + 2 > len(data):
            break
        if marker in (0xC0, 0xC1, 0xC2) and at + 8 <= len(data):
            height, width, bands = struct.unpack_from(">HHB", data, at + 3)
            _check_size(path, width, height, 1 if bands == 1 else 3)
        at += struct.unpack_from(">H", data, at)[0]
    raise ImageError("truncated", path, f"a truncated JPEG ({len(data)} bytes, no end marker).", _FETCH_AGAIN)


def _check_header(path: Path, header: bytes) -> None:
    """A PNG's size, depth and colour type (PNG, section 11.2.1)."""
    if len(header) != 13:
        raise ImageError("damaged", path, f"a damaged PNG (its header has {len(header)} bytes).", _FETCH_AGAIN)
    width, height, depth, colour = struct.unpack_from(">IIBB", header)
    _check_size(path, width, height, _PNG_SAMPLES.get(colour, 4) * (2 if depth == 16 else 1))


def _check_size(path: Path, width: int, height: int, bytes_per_pixel: int) -> None:
    if width == 0 or height == 0:
        raise ImageError("empty", path, f"an image of {width}x{height} px.", _FETCH_AGAIN)
    if width * height * bytes_per_pixel > MOST_DECODED_BYTES:
        raise _too_large(path, width, height)


def _too_large(path: Path, width: int, height: int) -> ImageError:
    what = f"an image of {width}x{height} px; at most {MOST_DECODED_BYTES >> 20} MiB are decoded at once."
    return ImageError("too large", path, what, "Convert it with `gdal_translate -of COG`, or cut it.")


def _read_tiff(path: Path, data: bytes) -> Frame:
    directory = tiff_directory(data, path)
    if directory.num_bytes > MOST_DECODED_BYTES:
        raise _too_large(path, directory.number(tiff.WIDTH, 0), directory.number(tiff.HEIGHT, 0))
    try:
        pixels = tiff.decode(data, directory, lambda part: _decode(path, part))
    except tiff.TiffFault as fault:
        raise _faulty_tiff(path, fault) from None
    found = 1 if pixels.ndim == 2 else pixels.shape[2]
    palette = directory.number(tiff.PHOTOMETRIC, 1) == 3
    if found != directory.num_bands and not palette:
        what = f"the file has {directory.num_bands} bands, but {found} were decoded."
        raise ImageError("band count", path, what, _BANDS)
    if found > 1 and not palette:
        pixels = pixels[..., list(directory.band_order)]
    counts = _usable_counts(path, pixels)
    return Frame(counts, directory.nodata, str(path), has_alpha=found in (2, 4) and directory.has_alpha)


def tiff_directory(data: tiff.Bytes, source: str | Path) -> tiff.TiffDirectory:
    """The tags of a whole TIFF file whose bands and number type can be used.

    Args:
        data: The file's bytes.
        source: What messages call it.

    Raises:
        ImageError: It is truncated or unreadable, or has other bands or numbers than :func:`read_frame` reads.
    """
    path = Path(source)
    try:
        directory = tiff.read_directory(data)
        tiff.check_complete(data, directory)
    except tiff.TiffFault as fault:
        raise _faulty_tiff(path, fault) from None
    if not 1 <= directory.num_bands <= 4:
        raise ImageError("band count", path, f"{directory.num_bands} bands.", _BANDS)
    if directory.dtype_name in _REFUSED_TYPES:
        raise wrong_pixel_type(path, directory.dtype_name)
    return directory


def _faulty_tiff(path: Path, fault: tiff.TiffFault) -> ImageError:
    return ImageError("truncated", path, f"a truncated or unreadable TIFF: {fault}.", _FETCH_AGAIN)


def _decode(path: Path, data: bytes) -> npt.NDArray[Any]:
    """Decode with OpenCV, unchanged but for the band order: ``(H, W)`` or ``(H, W, C)`` in R, G, B[, A] order."""
    cv2 = quiet_opencv()
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path}: no memory is left to decode it") from None
        raise ImageError("undecodable", path, f"cannot be decoded ({str(error).strip()}).", _FETCH_AGAIN) from None
    if pixels is None or pixels.size == 0:
        np.empty(_SPARE_BYTES, np.uint8)  # the decoder does not say so where it was memory that it lacked
        what = "cannot be decoded: damaged, or a variant that is not supported."
        raise ImageError("undecodable", path, what, _FETCH_AGAIN)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = _red_first(pixels)
    decoded: npt.NDArray[Any] = pixels
    return decoded


def _red_first(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``(H, W, C)`` in B, G, R[, A] order to R, G, B[, A]; OpenCV takes a fiftieth of NumPy's time where it can."""
    cv2 = quiet_opencv()
    if pixels.dtype.name not in ("uint8", "uint16", "float32"):
        return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    turned: npt.NDArray[Any] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return turned


def _usable_counts(path: Path, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    name = pixels.dtype.name
    if name == "float64":
        with np.errstate(over="ignore"):  # GDAL's nodata of float64 files is beyond float32: infinite is no measurement
            return pixels.astype(np.float32)
    if name == "int16":
        return pixels.astype(np.uint16 if pixels.min() >= 0 else np.float32)
    if name not in ("uint8", "uint16", "float32"):
        raise wrong_pixel_type(path, name)
    return np.ascontiguousarray(pixels)


def wrong_pixel_type(path: Path, name: str) -> ImageError:
    """The error for a file of a number type that is not read."""
    what = f"pixels are {name}; uint8, uint16, int16 and float are read."
    return ImageError("pixel type", path, what, "Convert it with `gdal_translate -ot Float32`.")


def quiet_opencv() -> Any:
    """The ``cv2`` module, with its log lines on stderr switched off: faults are raised as errors instead."""
    import cv2

    module: Any = cv2
    silence = getattr(module, "setLogLevel", None) or module.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
    silence(0)
    return module
