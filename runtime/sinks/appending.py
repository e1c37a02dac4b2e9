"""A file that grows by whole records, with an ending that every version of it has."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from babelrs.errors import BabelRSError
from runtime.sinks import unwritable


class AppendedFile:
    """Grows in place: each record overwrites the ending, and the ending follows it in the same write.

    The time is that of writing the records once, however many there are. Where the disk takes a record only in part,
    the file goes back to what it was.

    Args:
        path: The file.
        head: How it begins.
        tail: How it ends.
        end: Bytes, the ending left out, of an earlier run's file that goes on; what follows them is cut off.
            ``None``: an older file is replaced.

    Raises:
        BabelRSError: It cannot be written, or has not so many bytes.
    """

    def __init__(self, path: Path, head: bytes = b"", tail: bytes = b"", end: int | None = None) -> None:
        self._path, self._tail, self._end = path, tail, end or 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if end is None else os.O_WRONLY
        try:
            self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as error:
            raise unwritable(path, error) if end is None else _altered(path, 0, end) from None
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            if end is None:
                self.append(head)
            else:
                self._cut(end)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def end(self) -> int:
        """Bytes, the ending left out."""
        return self._end

    def append(self, record: bytes) -> None:
        """Add a record, in the file when this returns.

        Raises:
            BabelRSError: It cannot be written; the file holds what was there before.
        """
        data = record + self._tail
        try:
            if os.pwrite(self._descriptor, data, self._end) != len(data):
                raise OSError(errno.ENOSPC, "no space for the whole record")
            if os.fstat(self._descriptor).st_nlink == 0 and not self._path.exists():
                raise OSError(errno.ENOENT, "somebody removed it")  # the disk would take on without complaint
        except OSError as error:
            self._take_back()
            raise unwritable(self._path, error) from None
        self._end += len(record)

    def overwrite(self, at: int, data: bytes) -> None:
        """Replace bytes of a record that is there; that takes no space.

        Raises:
            BabelRSError: They cannot be written.
        """
        try:
            os.pwrite(self._descriptor, data, at)
        except OSError as error:
            raise unwritable(self._path, error) from None

    def sync(self) -> None:
        """Bring it to the disk itself: what is there now outlives a loss of power.

        Raises:
            BabelRSError: The disk did not take it.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise unwritable(self._path, error) from None

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _cut(self, end: int) -> None:
        size = os.fstat(self._descriptor).st_size
        if size < end:
            raise _altered(self._path, size, end)
        self._take_back()

    def _take_back(self) -> None:
        """End the file where it ended before; the ending fits, since the file had this size already."""
        try:
            if self._end:
                os.pwrite(self._descriptor, self._tail, self._end)
            os.ftruncate(self._descriptor, self._end + len(self._tail) if self._end else 0)
        except OSError as error:
            raise unwritable(self._path, error) from None


def _altered(path: Path, size: int, end: int) -> BabelRSError:
    what = f"{path}: {size} bytes, where the run that is to go on had written {end}."
    return BabelRSError(what, "Bring the file back, or leave out --resume to begin anew.")
