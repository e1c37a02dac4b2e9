"""Where detections go. Every sink leaves valid files on disk at any moment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from babelrs.errors import BabelRSError
from runtime.pipeline import FrameResult

PART_SUFFIX = ".part"
"""Of a file that is being written."""


class Sink(Protocol):
    """Takes results one by one."""

    def write(self, result: FrameResult) -> None:
        """Take one frame's result.

        Raises:
            BabelRSError: It cannot be written.
        """

    def close(self) -> None:
        """Bring everything to disk; called once, also when the run ends in an error."""


def make_folder(folder: Path) -> Path:
    """Create an output folder.

    Raises:
        BabelRSError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside and rename it, so that no reader ever sees half of it.

    Raises:
        BabelRSError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}{PART_SUFFIX}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # on a full disk, it takes space from others
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> BabelRSError:
    """The error for a file or folder that cannot be written."""
    return BabelRSError(f"{path}: cannot be written ({error.strerror}).", "Choose another --out, or free some space.")
