"""A file that grows by whole records, with an ending that every version of it has."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from runtime.sinks import unwritable


class AppendedFile:
    """Grows in place: each record overwrites the ending, and the ending follows it in the same write.

    The time is that of writing the records once, however many there are. Where the disk takes a record only in part,
    the file goes back to what it was.

    Args:
        path: The file; an older one is replaced.
        head: How it begins.
        tail: How it ends.

    Raises:
        BabelRSError: It cannot be written.
    """

    def __init__(self, path: Path, head: bytes = b"", tail: bytes = b"") -> None:
        self._path, self._tail, self._end = path, tail, 0
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(path, error) from None
        self.append(head)

    def append(self, record: bytes) -> None:
        """Add a record, on disk when this returns.

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

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _take_back(self) -> None:
        """End the file where it ended before; the ending fits, since the file had this size already."""
        if self._end:
            os.pwrite(self._descriptor, self._tail, self._end)
        os.ftruncate(self._descriptor, self._end + len(self._tail) if self._end else 0)
