"""Binary Netpbm images (PGM, PPM, PAM): raw counts of 8 or 16 bits behind a short header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.images import Frame

LONGEST_HEADER = 1024
"""Bytes, comments included, after which a header is taken for noise."""

UNFINISHED = "a damaged Netpbm header"
"""What :class:`NotNetpbm` says where more bytes might make it whole."""

MAGIC = re.compile(rb"P[567][\s#]")

_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(rb"P([56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")
_COMMENT = re.compile(rb"#[^\n]*")
_PAM = re.compile(rb"P7\n((?:[^\n]*\n)*?)ENDHDR\n")


class NotNetpbm(Exception):
    """The bytes are no header, or one that cannot be used; the message says why."""


@dataclass(frozen=True)
class Header:
    """What a Netpbm header says.

    Attributes:
        num_bytes: Its own length.
        width: Columns.
        height: Rows.
        num_bands: 1 to 4.
        dtype: ``u1``, or ``>u2`` for counts above 255.
        has_alpha: Whether the last band is declared as alpha.
    """

    num_bytes: int
    width: int
    height: int
    num_bands: int
    dtype: str
    has_alpha: bool

    @property
    def num_pixel_bytes(self) -> int:
        """Bytes of the pixels after the header."""
        return self.width * self.height * self.num_bands * np.dtype(self.dtype).itemsize


def read_header(data: bytes) -> Header:
    """The header that ``data`` begins with.

    Raises:
        NotNetpbm: There is none that can be used.
    """
    if (found := _PNM.match(data)) is not None:
        kind, width, height, largest = (int(group) for group in found.groups())
        return _header(found.end(), width, height, 3 if kind == 6 else 1, largest, has_alpha=False)
    if (found := _PAM.match(data)) is not None:
        return _pam_header(found)
    words = _COMMENT.sub(b"", data[2:]).split()[:3]
    if not data.startswith(b"P7") and not all(word.isdigit() for word in words):
        raise NotNetpbm("a Netpbm header with another word where a number should be")
    raise NotNetpbm(UNFINISHED)


def decode(header: Header, data: bytes, source: str) -> Frame:
    """The counts behind a header, as they are: a maximum below 255 or 65535 does not scale them.

    Args:
        header: Of the image.
        data: Header and pixels.
        source: What messages call the frame.
    """
    counts: npt.NDArray[Any] = np.frombuffer(data, header.dtype, offset=header.num_bytes)
    shape = (header.height, header.width, header.num_bands)
    pixels = counts.astype(np.dtype(header.dtype).newbyteorder("=")).reshape(shape[: 2 + (header.num_bands > 1)])
    return Frame(pixels, None, source, has_alpha=header.has_alpha)


def _pam_header(found: re.Match[bytes]) -> Header:
    lines = (line.split(maxsplit=1) for line in found.group(1).splitlines() if not line.startswith(b"#"))
    fields = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    try:
        width, height, depth, largest = (int(fields[key]) for key in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError):
        raise NotNetpbm("a PAM header without width, height, depth or maximum") from None
    return _header(found.end(), width, height, depth, largest, fields.get(b"TUPLTYPE", b"").endswith(b"_ALPHA"))


def _header(num_bytes: int, width: int, height: int, num_bands: int, largest: int, has_alpha: bool) -> Header:
    if width < 1 or height < 1:
        raise NotNetpbm(f"an image of {width}x{height} px")
    if not 1 <= num_bands <= 4:
        raise NotNetpbm(f"{num_bands} bands, where 1 to 4 can be used")
    if not 1 <= largest <= 65535:
        raise NotNetpbm(f"a maximum of {largest}, where 1 to 65535 can be used")
    return Header(num_bytes, width, height, num_bands, "u1" if largest < 256 else ">u2", has_alpha)
