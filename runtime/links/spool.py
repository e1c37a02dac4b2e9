"""Messages on disk until the broker has them: a SQLite file of bounded size that outlives a kill at any moment.

SQLite, since what is taken out is seldom what came in first: the most valuable goes to the broker, the least valuable
goes when room is short. Its write-ahead log drops a torn last transaction, as every message is one.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from babelrs.errors import BabelRSError
from runtime.links.message import Message

ROW_BYTES = 128
"""What a message takes in the file besides its topic and payload."""
_SCHEMA_VERSION = 1
_EVICTED_AT_ONCE = 16
_TABLES = """
CREATE TABLE IF NOT EXISTS messages (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, priority INTEGER NOT NULL, value REAL NOT NULL, topic TEXT NOT NULL,
    payload BLOB NOT NULL, crc INTEGER NOT NULL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_worth ON messages (priority, value DESC, sequence);
CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS origin (number INTEGER NOT NULL);
"""
_COLUMNS = "sequence, priority, value, topic, payload, crc"

T = TypeVar("T")


class Spool:
    """Holds messages of a link; used by the thread that writes results and the one that publishes.

    Args:
        path: The file; messages of an earlier run that are still in it are kept.
        most_bytes: Of all messages together, :data:`ROW_BYTES` for each included.

    Raises:
        BabelRSError: The file cannot be made, is none of these, or another run has it; in any method: it cannot be
            written or read.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path, self._most_bytes = path, most_bytes
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self.dropped: Counter[int] = Counter()
        self.damaged = 0
        self._database = self._guarded(self._open)
        with self._lock:
            self._sequence, self._origin = self._guarded(self._read_head)
            self._bytes = int(self._guarded(lambda: self._one("SELECT coalesce(sum(size), 0) FROM messages")))

    @property
    def origin(self) -> int:
        """32 bits drawn when the file was made."""
        return self._origin

    @property
    def num_bytes(self) -> int:
        """Of the messages that wait, as they are counted against the bound."""
        return self._bytes

    def next_sequence(self) -> int:
        """A number that no other message has."""
        with self._lock:
            self._sequence += 1
            return self._sequence

    def add(self, messages: Collection[Message]) -> Counter[int]:
        """Keep messages, all or none; where the bound is passed, the least valuable of all go.

        Thumbnails go first, then the lowest priority, in each the oldest; what is on its way to the broker stays.

        Returns:
            How many were dropped, by priority.
        """
        with self._lock:
            return self._guarded(lambda: self._add(messages))

    def best(self, besides: Collection[int] = ()) -> Message | None:
        """What is worth most and is not among the sequences ``besides``.

        A message whose bytes are not what was written is discarded and counted in ``damaged``.
        """
        with self._lock:
            return self._guarded(lambda: self._best(besides))

    def hold(self, sequence: int) -> bool:
        """Keep a message from being dropped while it is on its way; whether it is still there."""
        with self._lock:
            query = f"SELECT count(*) FROM messages WHERE sequence = {sequence:d}"
            is_there = self._guarded(lambda: self._one(query)) > 0
            if is_there:
                self._held.add(sequence)
            return is_there

    def drop(self, message: Message) -> None:
        """Give a message up, and count it."""
        with self._lock:
            self._guarded(lambda: self._delete([message.sequence]))
            self.dropped[message.priority] += 1

    def remove(self, sequences: Collection[int]) -> None:
        """Forget messages that the broker has."""
        with self._lock:
            self._guarded(lambda: self._delete(sequences))
            self._held.difference_update(sequences)

    def release(self) -> None:
        """Nothing is on its way to the broker any more."""
        with self._lock:
            self._held.clear()

    def keep_retained(self, topic: str, payload: bytes) -> None:
        """Keep what is published on every connection, one for each topic; it counts against no bound."""
        with self._lock:
            self._guarded(lambda: self._run("INSERT OR REPLACE INTO retained VALUES (?, ?)", [(topic, payload)]))

    def retained(self) -> dict[str, bytes]:
        """What :meth:`keep_retained` kept, by topic."""
        with self._lock:
            return dict(self._guarded(lambda: self._database.execute("SELECT topic, payload FROM retained").fetchall()))

    def waiting(self) -> Counter[int]:
        """Messages by priority."""
        query = "SELECT priority, count(*) FROM messages GROUP BY priority"
        with self._lock:
            return Counter(dict(self._guarded(lambda: self._database.execute(query).fetchall())))

    def close(self) -> None:
        """Let go of the file; called once."""
        with self._lock, suppress(sqlite3.Error):  # what is written is written
            self._database.close()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=0.5, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA page_size = 1024")  # a message changes a few pages, which all go to flash
            database.execute("PRAGMA locking_mode = EXCLUSIVE")  # one run at a time
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA journal_size_limit = 1048576")
            database.execute("PRAGMA wal_autocheckpoint = 1024")  # pages
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _SCHEMA_VERSION):
                raise BabelRSError(f"{self._path}: a spool of version {version}.", "Move it away.")
            database.executescript(_TABLES)
            database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        except BaseException:
            database.close()
            raise
        return database

    def _read_head(self) -> tuple[int, int]:
        if self._one("SELECT count(*) FROM origin") == 0:
            self._run("INSERT INTO origin VALUES (?)", [(secrets.randbits(32),)])
        last = self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'messages'")
        return int(last), int(self._one("SELECT number FROM origin"))

    def _one(self, query: str) -> int:
        return self._database.execute(query).fetchone()[0]  # type: ignore[no-any-return]

    def _run(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        """One transaction, undone where it fails."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        if self._database.in_transaction:  # a full disk may have undone it already
            self._database.execute("ROLLBACK")

    def _add(self, messages: Collection[Message]) -> Counter[int]:
        if not self._path.exists():
            raise OSError("somebody removed it")  # the disk would take on without complaint
        rows: list[tuple[object, ...]] = [
            (one.sequence, one.priority, one.value, one.topic, one.payload, zlib.crc32(one.payload), size_of(one))
            for one in messages
        ]
        self._run("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._bytes += sum(map(size_of, messages))
        dropped: Counter[int] = Counter()
        while self._bytes > self._most_bytes:
            victims = self._victims()
            if not victims:
                break
            dropped.update(priority for _, priority in victims)
            self._delete([sequence for sequence, _ in victims])
        self.dropped.update(dropped)
        return dropped

    def _victims(self) -> list[tuple[int, int]]:
        """Sequence and priority of the least valuable, as many as are too much, at most a few."""
        query = "SELECT sequence, priority, size FROM messages ORDER BY priority DESC, sequence LIMIT ?"
        chosen, excess = [], self._bytes - self._most_bytes
        for sequence, priority, size in self._database.execute(query, (_EVICTED_AT_ONCE + len(self._held),)):
            if excess > 0 and sequence not in self._held:
                chosen.append((sequence, priority))
                excess -= size
        return chosen

    def _best(self, besides: Collection[int]) -> Message | None:
        order = "SELECT sequence FROM messages ORDER BY priority, value DESC, sequence LIMIT ?"  # the index alone
        for (number,) in self._database.execute(order, (len(besides) + 1,)).fetchall():
            if number in besides:
                continue
            row = self._database.execute(f"SELECT {_COLUMNS} FROM messages WHERE sequence = ?", (number,)).fetchone()
            if zlib.crc32(row[4]) == row[5]:
                return Message(*row[:5])
            self.damaged += 1
            self._delete([number])
            return self._best(besides)
        return None

    def _delete(self, sequences: Collection[int]) -> None:
        marks = ",".join("?" * len(sequences))
        found = f"FROM messages WHERE sequence IN ({marks})"
        size = self._database.execute(f"SELECT coalesce(sum(size), 0) {found}", [*sequences]).fetchone()[0]
        self._database.execute(f"DELETE {found}", [*sequences])
        self._bytes -= size

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (sqlite3.Error, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            what = f"{self._path}: the spool of messages cannot be used ({why})."
            raise BabelRSError(what, "End the run that has it, free some space, or move it away.") from None


def size_of(message: Message) -> int:
    """Bytes that a message counts in the spool."""
    return len(message.payload) + len(message.topic.encode()) + ROW_BYTES
