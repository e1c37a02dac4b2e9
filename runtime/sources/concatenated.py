"""Images one after the other in a stream of bytes: PNG, JPEG and binary Netpbm say themselves where they end."""

from __future__ import annotations

import re
from collections.abc import Iterator

from babelrs.images import Frame, ImageError, decode_frame
from runtime.sources import netpbm
from runtime.sources.pipe import Ended, LookAhead

LARGEST_FRAME_BYTES = 1 << 30

_PNG = b"\x89PNG\r\n\x1a\n"
_START = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|P[567][\s#]")
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # stuffed bytes and restart markers are no markers
_NO_LENGTH = (0x01, 0xD8)  # TEM, SOI
_FORMATS = "PNG, JPEG or binary Netpbm (PGM, PPM, PAM)"
_SENDER = "Check the program that writes the frames."


class _Broken(Exception):
    """What is wrong with the image at the head of the stream; the message is the cause and what."""

    def __init__(self, cause: str, what: str, skip: int) -> None:
        super().__init__(what)
        self.cause = cause
        self.skip = skip  # bytes at least to leave out before looking for the next image


def frames(ahead: LookAhead, source: str, most_bytes: int = LARGEST_FRAME_BYTES) -> Iterator[Frame | ImageError]:
    """Every image of the stream; an error for each that is broken, after which the next beginning is looked for.

    Args:
        ahead: The stream.
        source: What messages call it; frames are numbered from 0.
        most_bytes: An image that claims to be longer is taken for noise.

    Raises:
        Stopped, Stalled: As :class:`LookAhead`.
    """
    number = 0
    while _any_left(ahead):
        where = f"{source}, frame {number}"
        try:
            yield _next_image(ahead, where, most_bytes)
        except ImageError as error:
            yield error
        except _Broken as broken:
            yield ImageError(broken.cause, where, f"{broken}.", _SENDER)
            _resynchronise(ahead, broken.skip)
        except Ended:
            yield ImageError("truncated", where, f"ends in its middle, after {ahead.num_bytes} bytes.", _SENDER)
            _resynchronise(ahead, skip=2)  # a damaged length may have led past images that are whole
        number += 1


def _any_left(ahead: LookAhead) -> bool:
    try:
        while ahead.peek(1).isspace():  # some programs end a frame with a line break
            ahead.take(1)
    except Ended:
        return False
    return True


def _next_image(ahead: LookAhead, where: str, most_bytes: int) -> Frame:
    head = ahead.peek(3)
    if head.startswith(b"\xff\xd8\xff"):
        return decode_frame(ahead.take(_jpeg_length(ahead, most_bytes)), where)
    if netpbm.MAGIC.match(head):
        return _next_netpbm(ahead, where, most_bytes)
    if head == _PNG[:3] and ahead.peek(len(_PNG)) == _PNG:
        return decode_frame(ahead.take(_png_length(ahead, most_bytes)), where)
    begins = ahead.peek(min(8, ahead.num_bytes))
    if begins[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise _Broken("format", f"a TIFF, which does not say where it ends; send {_FORMATS}", skip=1)
    raise _Broken("format", f"not {_FORMATS} (it starts with {begins!r})", skip=1)


def _next_netpbm(ahead: LookAhead, where: str, most_bytes: int) -> Frame:
    try:
        header = _netpbm_header(ahead)
    except netpbm.NotNetpbm as fault:
        raise _Broken("damaged", str(fault), skip=1) from None
    _check_length(header.num_pixel_bytes, most_bytes, f"{header.width}x{header.height} px")
    try:
        return netpbm.decode(header, ahead.take(header.num_bytes + header.num_pixel_bytes), where)
    except Ended:  # the length is sure, and raw counts look like anything: nothing is looked for in them
        what = f"ends in its middle, after {ahead.num_bytes} bytes"
        raise _Broken("truncated", what, skip=ahead.num_bytes) from None


def _netpbm_header(ahead: LookAhead) -> netpbm.Header:
    """Reads no further than it must: the next frame may not be there yet."""
    length = 12
    while True:
        data = ahead.peek(max(length, min(ahead.num_bytes, netpbm.LONGEST_HEADER)))
        try:
            return netpbm.read_header(data)
        except netpbm.NotNetpbm as fault:
            if str(fault) != netpbm.UNFINISHED or len(data) >= netpbm.LONGEST_HEADER:
                raise
            length = len(data) + 1


def _png_length(ahead: LookAhead, most_bytes: int) -> int:
    at = len(_PNG)
    while True:
        head = ahead.peek(8, at)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha() or not kind.isascii():
            raise _Broken("damaged", f"a damaged PNG (no chunk at byte {at})", skip=len(_PNG))
        if kind == b"IHDR" and at > len(_PNG):
            raise _Broken("truncated", f"a truncated PNG (another begins before byte {at})", skip=len(_PNG))
        at += 12 + size
        _check_length(at, most_bytes, "a PNG", skip=len(_PNG))
        if kind == b"IEND":
            return at


def _jpeg_length(ahead: LookAhead, most_bytes: int) -> int:
    at = 2
    while (found := ahead.find(_JPEG_MARKER, at, most_bytes)) is not None:
        marker, at = found.group(1)[0], found.end()
        if marker == 0xD9:
            return at
        if marker == 0xD8:
            raise _Broken("truncated", f"a truncated JPEG (another begins at byte {found.start()})", found.start())
        if marker not in _NO_LENGTH:
            at += int.from_bytes(ahead.peek(2, at), "big")
    raise _Broken("damaged", f"a JPEG without end marker in {most_bytes} bytes", skip=2)


def _check_length(num_bytes: int, most_bytes: int, what: str, skip: int = 1) -> None:
    if num_bytes > most_bytes:
        raise _Broken("too large", f"{what} of {num_bytes} bytes; at most {most_bytes} are taken", skip)


def _resynchronise(ahead: LookAhead, skip: int) -> None:
    """Leave out bytes up to the next beginning of an image."""
    try:
        ahead.take(skip)
        while True:
            reach = max(ahead.num_bytes, 16)
            found = ahead.find(_START, 0, reach)
            if found is not None:
                ahead.take(found.start())
                return
            ahead.take(max(1, reach - 8))  # a beginning may lie across the border
    except Ended:
        ahead.take(ahead.num_bytes)
