"""An append-only file of records, each whole or ignored: what survives a crash, and what survives a loss of power.

A line is a CRC-32 of eight hexadecimal digits, a blank and a JSON object. The first line that is torn or damaged ends
what can be read. A process that is killed loses nothing of what it wrote, since the system holds it; where the system
itself stopped, only what was synced is sure. So the journal knows which start of the system wrote it, and which records
describe outputs that were brought to the disk itself before.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError
from runtime.sinks import PART_SUFFIX, unwritable
from runtime.sinks.appending import AppendedFile
from runtime.sinks.whole import sync_path

BOOT, SYNCED = "boot", "synced"
"""Keys of the journal's own records: the start of the system that wrote what follows, and the bytes that are sure."""

Record = Mapping[str, Any]


def boot_id() -> str:
    """Names the start of the system, empty where it cannot be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Found:
    """What a journal holds that can be relied on.

    Attributes:
        records: In order, those of the journal itself left out.
        end: Bytes of the file that hold them.
        is_cut: Whether others follow that cannot be relied on any more, or may not have been there for long.
    """

    records: list[Record]
    end: int
    is_cut: bool


class Journal:
    """A journal that is being written. Records may come from several threads.

    Args:
        path: The file.
        found: What it goes on with; ``None``: a new one replaces an older file.

    Raises:
        BabelRSError: It cannot be written.
    """

    def __init__(self, path: Path, found: Found | None = None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file = _opened(path, found)
        self.append({BOOT: boot_id()})

    @property
    def end(self) -> int:
        """Bytes so far."""
        return self._file.end

    def append(self, record: Record) -> int:
        """Add a record; where the disk takes only a part of it, none of it stays. Returns where it ends.

        Raises:
            BabelRSError: It cannot be written.
        """
        with self._lock:
            self._file.append(line_of(record))
            return self._file.end

    def sync(self, sure: int) -> int:
        """Say that the outputs of the first ``sure`` bytes' records are on the disk itself, and bring that there too.

        Returns:
            Where the record that says it ends.

        Raises:
            BabelRSError: It cannot be written.
        """
        end = self.append({SYNCED: sure})
        self._file.sync()
        return end

    def replace(self, shortened: Callable[[bytes], bytes]) -> None:
        """Put a shorter journal in its place, on the disk itself when this returns.

        Args:
            shortened: Makes it of the journal as it is.

        Raises:
            BabelRSError: It cannot be written; the old one stays.
        """
        with self._lock:
            file = _replaced(self._path, shortened)
            self._file.close()
            self._file = file

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _opened(path: Path, found: Found | None) -> AppendedFile:
    _partial(path).unlink(missing_ok=True)
    if found is None or not found.is_cut:
        return AppendedFile(path, end=None if found is None else found.end)
    # That what is kept is sure was said behind it: it must be said again before that is gone, or a second loss of power
    # would cost all.
    return _replaced(path, lambda data: data[: found.end] + line_of({SYNCED: found.end}))


def _replaced(path: Path, made: Callable[[bytes], bytes]) -> AppendedFile:
    """Another journal in the place of one, made of it; at any time one of them is on the disk itself."""
    try:
        file = AppendedFile(_partial(path), made(path.read_bytes()))
        try:
            file.sync()
            os.replace(_partial(path), path)
        finally:
            file.close()
    except OSError as error:
        raise unwritable(path, error) from None
    sync_path(path.parent)
    return AppendedFile(path, end=file.end)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{PART_SUFFIX}")


def line_of(record: Record) -> bytes:
    """A record's line."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_journal(path: Path, boot: str) -> Found | None:
    """What can be relied on, or ``None`` where there is no journal.

    Args:
        path: The file.
        boot: :func:`boot_id` of now. Where it is the one that the last records were written under, all count that are
            whole; else those that were synced.

    Raises:
        BabelRSError: It cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BabelRSError(f"{path}: cannot be read ({error.strerror}).", "Check its permissions.") from None
    written_under, sure, end = "", 0, 0
    for record, ends in records_in(data):
        end = ends
        written_under, sure = record.get(BOOT, written_under), record.get(SYNCED, sure)
    is_cut = not boot or written_under != boot
    end = sure if is_cut else end
    return Found([record for record, _ in records_in(data[:end]) if not record.keys() & {BOOT, SYNCED}], end, is_cut)


def records_in(data: bytes) -> Iterator[tuple[Record, int]]:
    """The records and where each ends, up to the first that is not whole."""
    begin = 0
    while (end := data.find(b"\n", begin) + 1) > 0:
        text = data[begin + 9 : end - 1]
        if data[begin : begin + 9] != b"%08x " % zlib.crc32(text):
            return
        yield json.loads(text), end
        begin = end
