"""Broken rows: named one by one in a file, counted by cause, and a stop when they are too many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError, collected


class RowFault(Exception):
    """One row cannot be used; the run goes on without it.

    Args:
        cause: A few words that group such rows in a summary.
        detail: What is wrong with this one.
        identity: The row's ``id``, where it could be read.
    """

    def __init__(self, cause: str, detail: str, identity: str = "") -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail, self.identity = cause, detail, identity


@dataclass(frozen=True)
class Fault:
    """A broken row.

    Attributes:
        dataset: Name of its set.
        row: Its number in the set, from 0.
        id: Its own ``id``; empty where it could not be read.
        cause: What groups it with others.
        detail: What is wrong.
    """

    dataset: str
    row: int
    id: str
    cause: str
    detail: str


@dataclass
class Tally:
    """Rows read, and the broken ones by cause."""

    rows: int = 0
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def broken(self) -> int:
        """Number of broken rows."""
        return sum(self.causes.values())

    def add(self, rows: int, faults: Iterable[Fault]) -> None:
        """Count ``rows`` more rows read, ``faults`` among them."""
        self.rows += rows
        self.causes.update(fault.cause for fault in faults)

    def check(self, max_share: float, from_rows: int, where: str = "") -> None:
        """Stop where too many rows are broken.

        Args:
            max_share: Largest share of broken rows.
            from_rows: The share is taken of at least so many rows, so that one early fault stops nothing.
            where: Which file lists them.

        Raises:
            BabelRSError: More rows are broken; with the counts by cause.
        """
        if self.broken <= max_share * max(self.rows, from_rows):
            return
        causes = [f"{cause}: {count}" for cause, count in self.causes.most_common()]
        what = f"{self.broken} of {self.rows} rows are broken, more than the share of {max_share:g} that may be"
        remedy = f"Mend the data{f'; {where} lists every row' if where else ''}, or raise max_broken_share."
        raise BabelRSError("\n".join([f"{what}; by cause:", *(f"  - {cause}" for cause in causes)]), remedy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"rows": self.rows, "causes": dict(self.causes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """What :meth:`to_dict` described."""
        return cls(int(values["rows"]), Counter(values["causes"]))


def summed(tallies: Iterable[Tally]) -> Tally:
    """The tallies of several processes as one."""
    total = Tally()
    for tally in tallies:
        total.rows += tally.rows
        total.causes.update(tally.causes)
    return total


class FaultFile:
    """The list of broken rows, one JSON object a line: set, row, id, cause, detail.

    Args:
        path: The file; each process has its own.
        size: How much of an earlier file to keep, bytes; what lies beyond was written after the checkpoint.

    Raises:
        BabelRSError: The file cannot be written.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.truncate(min(size, file.tell()))
        except OSError as error:
            raise BabelRSError(f"Cannot write {path}: {error.strerror}.", "Name another folder.") from error

    @property
    def size(self) -> int:
        """Bytes written so far, for a checkpoint."""
        return self.path.stat().st_size

    def add(self, faults: Iterable[Fault]) -> None:
        """Append ``faults``."""
        lines = [json.dumps(_renamed(fault), ensure_ascii=False) + "\n" for fault in faults]
        if lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)


def _renamed(fault: Fault) -> dict[str, Any]:
    values = asdict(fault)
    return {"set": values.pop("dataset"), **values}


def refuse(what: str, faults: list[str], remedy: str) -> None:
    """Raise one error that lists ``faults``, if there are any.

    Raises:
        BabelRSError: There are.
    """
    if faults:
        raise collected(what, faults, remedy)
