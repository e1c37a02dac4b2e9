"""A folder with a file for every image, each there as a whole or not at all."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from runtime.sinks import PART_SUFFIX, make_folder, unwritable, write_whole


class WholeFiles:
    """Writes files into a folder. The same file written again, after a crash say, replaces the one before.

    Args:
        folder: Made where it is not there; what a killed process left of unfinished files is removed.

    Raises:
        BabelRSError: The folder cannot be made or looked into.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = make_folder(folder)
        self._unsynced: deque[Path] = deque()  # taken by the thread that syncs
        try:
            for partial in folder.glob(f".*{PART_SUFFIX}"):
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None

    def write(self, name: str, data: bytes) -> None:
        """Write one file.

        Raises:
            BabelRSError: It cannot be written.
        """
        path = self._folder / name
        write_whole(path, data)
        self._unsynced.append(path)

    def sync(self) -> None:
        """Bring all files to the disk itself. A file that somebody took away since is theirs.

        Raises:
            BabelRSError: The disk did not take one.
        """
        if not self._unsynced:
            return
        while self._unsynced:
            sync_path(self._unsynced.popleft())
        sync_path(self._folder)


def sync_path(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk itself; nothing where it is gone.

    Raises:
        BabelRSError: The disk did not take it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        os.close(descriptor)
