"""The ``.babelrs`` archive: an uncompressed POSIX tar of plain files, and nothing else that a tar can say.

A reader of its own, since Python's follows whatever a header asks for before anybody can object: extended headers of
any size, sparse maps, links. Here a header is a regular file with a plain name and an octal size, or it is refused; no
length in the file is believed before it is compared with what is there.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from babelrs.errors import BabelRSError
from babelrs.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    SIGNATURE_BYTES,
    SIGNATURE_NAME,
    is_plain_name,
)

MAX_FILE_BYTES = 4 << 30
MAX_BUNDLE_BYTES = 8 << 30

_BLOCK = 512
_MOST_PADDING = 1 << 20
"""Zeros behind the last member: tar rounds archives up, GNU's to 10 KiB by default."""
_FETCH_AGAIN = "Fetch the bundle again."
_REFUSE = "Do not use this archive."
_REGULAR = (b"0", b"\0")
_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe",
    b"x": "an extended header", b"g": "an extended header", b"L": "a long name", b"K": "a long link", b"S": "sparse",
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its plain name.
        start: Where its bytes begin in the archive.
        size: How many there are.
    """

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.start + -(-self.size // _BLOCK) * _BLOCK


def read_head(stream: BinaryIO, archive: Path) -> tuple[bytes, bytes]:
    """The manifest and its signature, which must be the first two members; nothing else of the archive is looked at.

    Raises:
        BabelRSError: They are not, or their sizes are beyond what they may be.
    """
    manifest = _member(stream, 0, archive)
    if manifest is None or manifest.name != MANIFEST_NAME or manifest.size > MAX_MANIFEST_BYTES:
        raise BabelRSError(f"{archive}: does not begin with a {MANIFEST_NAME} of a fair size.", _REFUSE)
    data = _read(stream, manifest, archive)
    signature = _member(stream, manifest.end, archive)
    if signature is None or signature.name != SIGNATURE_NAME:
        raise BabelRSError(f"{archive}: unsigned; no {SIGNATURE_NAME} follows the manifest.", "Sign it: babelrs-sign.")
    if signature.size != SIGNATURE_BYTES:
        what = f"{archive}: the signature has {signature.size} bytes, where {SIGNATURE_BYTES} belong."
        raise BabelRSError(what, _REFUSE)
    return data, _read(stream, signature, archive)


def read_members(stream: BinaryIO, archive: Path) -> list[Member]:
    """The files of an archive; only headers are read.

    Raises:
        BabelRSError: It ends early, holds what is no plain file, a name twice, or more than a bundle may.
    """
    found: dict[str, Member] = {}
    place = 0
    while (member := _member(stream, place, archive)) is not None:
        if member.name in found:
            raise BabelRSError(f"{archive}: holds {member.name!r} twice.", _REFUSE)
        found[member.name] = member
        if len(found) > MAX_FILES + 2 or sum(each.size for each in found.values()) > MAX_BUNDLE_BYTES:
            what = f"{archive}: more than {MAX_FILES} files or {MAX_BUNDLE_BYTES >> 30} GiB."
            raise BabelRSError(what, _REFUSE)
        place = member.end
    _check_padding(stream, place, archive)
    return list(found.values())


def extract(stream: BinaryIO, members: Sequence[Member], folder: Path, archive: Path) -> None:
    """Write the files into an empty folder, readable by their owner only.

    Args:
        stream: The archive.
        members: What :func:`read_members` found in it.
        folder: The folder.
        archive: The archive's name, for messages.

    Raises:
        BabelRSError: The archive became shorter meanwhile.
        OSError: The folder cannot be written to.
    """
    for member in members:
        descriptor = os.open(folder / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            stream.seek(member.start)
            left = member.size
            while left:
                block = stream.read(min(left, 1 << 20))
                if not block:
                    raise _ends(archive)
                out.write(block)
                left -= len(block)


def write_archive(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Write files of a folder as an archive: same files, same bytes. It is there whole or not at all.

    Args:
        path: The file to write.
        folder: Where the files lie.
        names: Their names, in the order of the archive.

    Raises:
        BabelRSError: It cannot be written, or a file cannot be read.
    """
    partial = path.with_name(path.name + ".part")
    try:
        with tarfile.open(partial, "w:", format=tarfile.USTAR_FORMAT) as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size, member.mode = (folder / name).stat().st_size, 0o644
                with (folder / name).open("rb") as stream:
                    tar.addfile(member, stream)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BabelRSError(f"{path}: cannot be written ({error.strerror or error}).", "Free space there.") from None


def _member(stream: BinaryIO, place: int, archive: Path) -> Member | None:
    """The member whose header begins at ``place``; None at the end of the archive, which is two blocks of zeros."""
    header = _at(stream, place, _BLOCK)
    if len(header) < _BLOCK:
        raise _ends(archive)
    if not any(header):
        if len(ending := _at(stream, place + _BLOCK, _BLOCK)) < _BLOCK or any(ending):
            raise _ends(archive)
        return None
    if not _sums_up(header):
        raise BabelRSError(f"{archive}: a damaged .babelrs archive (no header at byte {place}).", _FETCH_AGAIN)
    name = header[:100].rstrip(b"\0").decode("latin-1")
    kind, prefix = header[156:157], header[345:500]
    if kind not in _REGULAR or any(prefix) or not is_plain_name(name):
        what = _KINDS.get(kind, "of an unknown kind") if kind not in _REGULAR else "not a plain name"
        raise BabelRSError(f"{archive}: holds {name!a}, which is {what}.", _REFUSE)
    size = _octal(header[124:136])
    if size is None or size > MAX_FILE_BYTES:
        raise BabelRSError(f"{archive}: {name!a} states no size up to {MAX_FILE_BYTES >> 30} GiB.", _REFUSE)
    member = Member(name, place + _BLOCK, size)
    if member.end > _size(stream):
        raise _ends(archive)
    return member


def _sums_up(header: bytes) -> bool:
    """Whether a header has its checksum: the sum of its bytes, those of the checksum itself taken as blanks."""
    stated = _octal(header[148:156])
    return stated is not None and stated == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    """A number of a header: octal digits, ended by blanks or zeros; None for whatever else there are ways to write."""
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    return int(digits, 8) if digits and all(digit in b"01234567" for digit in digits) else None


def _check_padding(stream: BinaryIO, place: int, archive: Path) -> None:
    if _size(stream) - place > _MOST_PADDING or any(_at(stream, place, _MOST_PADDING)):
        raise BabelRSError(f"{archive}: goes on behind its end at byte {place}.", _REFUSE)


def _read(stream: BinaryIO, member: Member, archive: Path) -> bytes:
    data = _at(stream, member.start, member.size)
    if len(data) < member.size:
        raise _ends(archive)
    return data


def _at(stream: BinaryIO, place: int, size: int) -> bytes:
    """Bytes of the archive; fewer at its end."""
    stream.seek(place)
    return stream.read(size)


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, os.SEEK_END)


def _ends(archive: Path) -> BabelRSError:
    return BabelRSError(f"{archive}: a damaged .babelrs archive (it ends early).", _FETCH_AGAIN)
