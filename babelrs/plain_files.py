"""Regular files, opened so that nothing else takes their place: no link, pipe or device, and no more than expected."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from babelrs.errors import BabelRSError

_FETCH_AGAIN = "Fetch it again."


def is_there(path: Path) -> bool:
    """Whether something has this name, be it a link to nowhere.

    Raises:
        BabelRSError: Its folder may not be looked into.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BabelRSError(f"{path}: cannot be read ({error.strerror}).", "Check its permissions.") from None
    return True


def open_plain(path: Path, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading; a pipe is refused, not waited for.

    Args:
        path: The file.
        follow: Whether the file itself may be a link; folders on the way to it may always be.

    Raises:
        BabelRSError: It is missing, no regular file, or may not be read.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BabelRSError(f"{path}: missing.", "Name a file that is there.") from None
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise BabelRSError(f"{path}: a link, which may lead anywhere.", "Put the file itself there.") from None
        raise BabelRSError(f"{path}: cannot be read ({error.strerror}).", "Check its permissions.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BabelRSError(f"{path}: not a regular file.", _FETCH_AGAIN)
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, most: int, what: str, follow: bool = False) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file.
        most: Bytes that it may have; of a larger one nothing is read.
        what: What the file should be, with its article, for messages.
        follow: Whether the file itself may be a link.

    Raises:
        BabelRSError: As :func:`open_plain`; or it is too large.
    """
    with open_plain(path, follow) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(most + 1) if size <= most else b""
    if size > most or len(data) > most:  # the latter: it grows
        raise BabelRSError(f"{path}: {max(size, len(data))} bytes, too many for {what}.", _FETCH_AGAIN)
    return data


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal.

    Raises:
        BabelRSError: As :func:`open_plain`; or it cannot be read to its end.
    """
    with open_plain(path, follow=True) as stream:
        return sha256_of_stream(stream, path)


def sha256_of_stream(stream: BinaryIO, path: Path) -> str:
    """SHA-256 of an open file from where it stands to its end, hexadecimal.

    Args:
        stream: The file.
        path: Its name, for messages.

    Raises:
        BabelRSError: It cannot be read to its end.
    """
    digest = hashlib.sha256()
    try:
        while block := stream.read(1 << 20):
            digest.update(block)
    except OSError as error:
        raise BabelRSError(f"{path}: cannot be read ({error.strerror}).", "Check the storage.") from None
    return digest.hexdigest()
