"""The little of TIFF that OpenCV hides or gets wrong: tags, completeness, and bands it drops or scrambles.

OpenCV decodes strips and tiles of every compression, but of a file that is neither gray nor chunky RGB it silently
returns the first band only (``MINISBLACK`` with several bands) or mixes bands up (planar layout). Here the tags are
read (TIFF 6.0, section 2; BigTIFF alike), and such a file gets another directory, over the same strips, that OpenCV
reads right.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 284, 317, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, GDAL_METADATA, GDAL_NODATA = 338, 339, 347, 42112, 42113
MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION, GEO_KEYS, RPC_COEFFICIENTS = 33550, 33922, 34264, 34735, 50844

_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 7: "s", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 18: "Q"}
_KEPT = (COMPRESSION, HEIGHT, ROWS_PER_STRIP, TILE_HEIGHT, JPEG_TABLES, 266)  # 266: fill order
_RGB, _YCBCR, _GRAY = 2, 6, 1
_MAX_TAGS = 4096

Values = tuple[int | float, ...] | bytes
Decoder = Callable[[bytes], npt.NDArray[np.generic]]


class Bytes(Protocol):
    """What directories are read from: the bytes of a file, or the file itself."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class FileBytes:
    """Bytes of an open file that are read when they are asked for, so that a file of any size can be looked into.

    Args:
        descriptor: An open file; whoever opened it closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __len__(self) -> int:
        return os.fstat(self._descriptor).st_size

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(len(self))
        return os.pread(self._descriptor, max(0, stop - start), start)


class TiffFault(ValueError):
    """The file is truncated or not a TIFF that can be read; the message says where."""


@dataclass(frozen=True)
class TiffDirectory:
    """Tags of a TIFF file's first image.

    Attributes:
        endian: ``"<"`` or ``">"``.
        big: Whether the file is BigTIFF.
        tags: Values by tag number; text and opaque tags as bytes.
    """

    endian: str
    big: bool
    tags: Mapping[int, Values] = field(repr=False)

    def number(self, tag: int, default: int) -> int:
        """The first value of a numeric ``tag``, or ``default``."""
        value = self.tags.get(tag)
        return int(value[0]) if isinstance(value, tuple) and value else default

    def numbers(self, tag: int) -> tuple[int, ...]:
        """All values of a numeric ``tag``; empty where it is missing."""
        value = self.tags.get(tag)
        return tuple(int(item) for item in value) if isinstance(value, tuple) else ()

    def text(self, tag: int) -> str:
        """The text of an ASCII ``tag``; empty where it is missing."""
        value = self.tags.get(tag)
        return value.split(b"\0", 1)[0].decode("utf-8", "replace").strip() if isinstance(value, bytes) else ""

    @property
    def num_bands(self) -> int:
        """Samples of a pixel."""
        return self.number(SAMPLES, 1)

    @property
    def dtype_name(self) -> str:
        """The number type of the samples, in NumPy's words where NumPy has it: ``uint16``, ``complex_int32``."""
        kinds = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex_int", 6: "complex"}
        return f"{kinds.get(self.number(SAMPLE_FORMAT, 1), 'unknown')}{self.number(BITS, 1)}"

    @property
    def nodata(self) -> float | None:
        """GDAL's nodata value (tag 42113), or ``None``."""
        try:
            return float(self.text(GDAL_NODATA))
        except ValueError:
            return None

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is declared to be alpha (ExtraSamples 1 or 2)."""
        extra = self.numbers(EXTRA_SAMPLES)
        return bool(extra) and extra[-1] in (1, 2)

    @property
    def is_georeferenced(self) -> bool:
        """Whether it says where it lies on Earth (GeoTIFF, or rational polynomial coefficients)."""
        return not self.tags.keys().isdisjoint(
            (MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION, GEO_KEYS, RPC_COEFFICIENTS)
        )

    @property
    def num_bytes(self) -> int:
        """Size of the decoded image."""
        bits = max(8, self.number(BITS, 1))
        return self.number(WIDTH, 0) * self.number(HEIGHT, 0) * self.num_bands * bits // 8

    @property
    def band_order(self) -> tuple[int, ...]:
        """Indices that put the bands in red, green, blue, rest order, by GDAL's COLORINTERP metadata if any."""
        roles = dict(re.findall(r'<Item name="COLORINTERP" sample="(\d+)"[^>]*>\s*(\w+)', self.text(GDAL_METADATA)))
        names = [roles.get(str(band), "").lower() for band in range(self.num_bands)]
        if not {"red", "green", "blue"} <= set(names):
            return tuple(range(self.num_bands))
        first = [names.index(name) for name in ("red", "green", "blue")]
        return (*first, *(band for band in range(self.num_bands) if band not in first))


def read_directory(data: Bytes) -> TiffDirectory:
    """Read the tags of the first image of a TIFF file.

    Args:
        data: The whole file, or :class:`FileBytes` of it.

    Raises:
        TiffFault: The file ends before its directory does, or is no TIFF.
    """
    endian = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    try:
        magic = _unpack(endian + "H", data, 2)[0]
        if not endian or magic not in (42, 43):
            raise TiffFault("no TIFF header")
        big = magic == 43
        start = _unpack(endian + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = _unpack(endian + ("Q" if big else "H"), data, start)[0]
        if count > _MAX_TAGS:
            raise TiffFault(f"{count} tags in its directory")
        first, step = start + (8 if big else 2), 20 if big else 12
        entries = (_read_entry(data, first + step * index, endian, big) for index in range(count))
        return TiffDirectory(endian, big, dict(entry for entry in entries if entry is not None))
    except (struct.error, OverflowError):
        raise TiffFault("it ends inside its directory") from None


def _unpack(layout: str, data: Bytes, at: int) -> tuple[Any, ...]:
    """``struct.unpack_from`` of anything that gives slices."""
    return struct.unpack(layout, data[at : at + struct.calcsize(layout)])


def _read_entry(data: Bytes, at: int, endian: str, big: bool) -> tuple[int, Values] | None:
    tag, kind, count = _unpack(endian + ("HHQ" if big else "HHI"), data, at)
    code = _FORMATS.get(kind)
    if code is None:
        return None
    inline, slot = (8, at + 12) if big else (4, at + 8)
    size = struct.calcsize(code) * count
    where = slot if size <= inline else _unpack(endian + ("Q" if big else "I"), data, slot)[0]
    if where + size > len(data):
        raise TiffFault(f"tag {tag} lies at bytes {where} to {where + size} of a file of {len(data)} bytes")
    if code == "s":
        return tag, bytes(data[where : where + size])
    return tag, _unpack(f"{endian}{count}{code}", data, where)


def check_complete(data: Bytes, directory: TiffDirectory) -> None:
    """Check that every strip or tile of the first image lies inside the file.

    Raises:
        TiffFault: One does not, or the image has no size or no strips.
    """
    if directory.number(WIDTH, 0) <= 0 or directory.number(HEIGHT, 0) <= 0:
        raise TiffFault(f"its size is {directory.number(WIDTH, 0)}x{directory.number(HEIGHT, 0)} px")
    offsets, sizes = _chunks(directory)
    if not offsets or len(offsets) != len(sizes):
        raise TiffFault(f"it lists {len(offsets)} strip offsets and {len(sizes)} strip sizes")
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if max(ends) > len(data):
        beyond = sum(end > len(data) for end in ends)
        raise TiffFault(f"{beyond} of {len(ends)} strips lie past its end at {len(data)} bytes")


def decode(data: bytes, directory: TiffDirectory, decoder: Decoder) -> npt.NDArray[np.generic]:
    """All bands of the first image, in file order.

    Args:
        data: The whole file.
        directory: Its tags, from :func:`read_directory`.
        decoder: Decodes the bytes of a gray or chunky RGB(A) TIFF to ``(H, W)`` or ``(H, W, C)`` in file order.

    Returns:
        ``(H, W)`` for one band, else ``(H, W, C)``.

    Raises:
        TiffFault: A layout that cannot be decoded right.
    """
    bands, planar = directory.num_bands, directory.number(PLANAR, 1) == 2
    if bands == 1 or (bands == 3 and not planar and directory.number(PHOTOMETRIC, _RGB) in (_RGB, _YCBCR)):
        return decoder(data)
    if planar:
        return np.stack([decoder(_plane(data, directory, band)) for band in range(bands)], axis=-1)
    if bands in (3, 4):
        return decoder(_with_directory(data, directory, directory.num_bands, _RGB, 1))
    return _decode_wide(data, directory, decoder)


def _decode_wide(data: bytes, directory: TiffDirectory, decoder: Decoder) -> npt.NDArray[np.generic]:
    """Two chunky bands, read as one band of twice the width; the predictor's differences are summed here."""
    bands, predictor = directory.num_bands, directory.number(PREDICTOR, 1)
    if predictor not in (1, 2) or directory.number(COMPRESSION, 1) in (6, 7):
        raise TiffFault(f"{bands} interleaved bands with predictor {predictor} cannot be read")
    wide = decoder(_with_directory(data, directory, 1, _GRAY, bands))
    image = wide.reshape(wide.shape[0], -1, bands)  # (H, W * C) -> (H, W, C)
    if predictor == 1:
        return image
    step = directory.number(TILE_WIDTH, image.shape[1])
    parts = [image[:, x : x + step] for x in range(0, image.shape[1], step)]
    return np.concatenate([np.cumsum(part, axis=1, dtype=image.dtype) for part in parts], axis=1)


def _chunks(directory: TiffDirectory) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if TILE_OFFSETS in directory.tags:
        return directory.numbers(TILE_OFFSETS), directory.numbers(TILE_BYTES)
    return directory.numbers(STRIP_OFFSETS), directory.numbers(STRIP_BYTES)


def _plane(data: bytes, directory: TiffDirectory, band: int) -> bytes:
    offsets, sizes = _chunks(directory)
    each = len(offsets) // directory.num_bands
    part = slice(band * each, (band + 1) * each)
    return _with_directory(data, directory, 1, _GRAY, 1, offsets[part], sizes[part])


def _with_directory(
    data: bytes,
    directory: TiffDirectory,
    bands: int,
    photometric: int,
    widen: int,
    offsets: tuple[int, ...] | None = None,
    sizes: tuple[int, ...] | None = None,
) -> bytes:
    """The file with a new first directory: ``bands`` chunky bands, ``widen`` times as wide, over the given strips."""
    tiled = TILE_OFFSETS in directory.tags
    all_offsets, all_sizes = _chunks(directory)
    tags: dict[int, Values] = {tag: directory.tags[tag] for tag in _KEPT if tag in directory.tags}
    tags |= {
        WIDTH: (directory.number(WIDTH, 0) * widen,),
        BITS: (directory.number(BITS, 8),) * bands,
        PHOTOMETRIC: (photometric,),
        SAMPLES: (bands,),
        PLANAR: (1,),
        SAMPLE_FORMAT: (directory.number(SAMPLE_FORMAT, 1),) * bands,
        PREDICTOR: (1 if widen > 1 else directory.number(PREDICTOR, 1),),
        TILE_OFFSETS if tiled else STRIP_OFFSETS: all_offsets if offsets is None else offsets,
        TILE_BYTES if tiled else STRIP_BYTES: all_sizes if sizes is None else sizes,
    }
    if tiled:
        tags[TILE_WIDTH] = (directory.number(TILE_WIDTH, 0) * widen,)
    if bands == 4:
        tags[EXTRA_SAMPLES] = (0,)  # declared alpha would make 8-bit decoders premultiply the colours
    return _append_directory(data, directory, tags)


def _packed(tag: int, layout: str, values: tuple[Any, ...]) -> bytes:
    try:
        return struct.pack(layout, *values)
    except struct.error:  # negative, say, where the file gave it as another type
        raise TiffFault(f"tag {tag} is {values[:4]}, which is out of range") from None


def _append_directory(data: bytes, directory: TiffDirectory, tags: Mapping[int, Values]) -> bytes:
    endian, big = directory.endian, directory.big
    word, kind = ("Q", 16) if big else ("I", 4)
    shorts = {BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, SAMPLE_FORMAT, PREDICTOR, EXTRA_SAMPLES}
    out = bytearray(data) + b"\0" * (-len(data) % 8)
    entries = []
    for tag in sorted(tags):
        values = tags[tag]
        code, number = ("s", 7) if isinstance(values, bytes) else ("H", 3) if tag in shorts else (word, kind)
        packed = values if isinstance(values, bytes) else _packed(tag, f"{endian}{len(values)}{code}", values)
        slot = 8 if big else 4
        if len(packed) > slot:
            where = len(out)
            out += packed + b"\0" * (-len(packed) % 8)
            packed = struct.pack(endian + word, where)
        entries.append(struct.pack(endian + "HH" + word, tag, number, len(values)) + packed.ljust(slot, b"\0"))
    struct.pack_into(endian + word, out, 8 if big else 4, len(out))
    head = struct.pack(endian + ("Q" if big else "H"), len(entries))
    return bytes(out + head + b"".join(entries) + struct.pack(endian + word, 0))
