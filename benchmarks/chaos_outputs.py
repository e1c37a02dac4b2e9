"""What a flight left of every image, whatever its number in the run, held against an undisturbed run."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Contents = dict[str, list[str]]
"""Everything that an output holds of an image, by the image's file name."""

_OF_THE_RUN = ("time", "latency_ms", "source", "frame", "image_id", "file_name")
"""Fields that say where and when, not what."""
_DOTA_NAME = re.compile(r"(?:spool_\d{6}_)?(?P<stem>.+)\.txt")


@dataclass(frozen=True)
class Judged:
    """One output against that of the undisturbed run, in images.

    Attributes:
        lost: Without an entry that belongs there.
        repeated: With more entries than belong there.
        altered: With others.
        strangers: That are there and should not be.
    """

    lost: int
    repeated: int
    altered: int
    strangers: int

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.repeated or self.altered or self.strangers)


def judged(expected: Path, found: Path) -> dict[str, Judged]:
    """Every output in a folder against that of the undisturbed run, by name."""
    return {name: _compared(read(expected / name), read(found / name)) for name, read in _READERS.items()}


def _compared(expected: Contents, found: Contents) -> Judged:
    both = expected.keys() & found.keys()
    differing = [(sorted(expected[name]), sorted(found[name])) for name in both]
    return Judged(
        lost=len(expected.keys() - found.keys()) + sum(len(had) > len(has) for had, has in differing),
        repeated=sum(len(had) < len(has) for had, has in differing),
        altered=sum(len(had) == len(has) and had != has for had, has in differing),
        strangers=len(found.keys() - expected.keys()),
    )


def images_with_detections(out: Path) -> Collection[str]:
    """File names of the images in which something was found."""
    return _gathered(_rows(out / "detections.ir.csv")).keys()


def _gathered(entries: Iterator[tuple[str, dict[str, Any]]]) -> Contents:
    found: Contents = {}
    for name, entry in entries:
        kept = {field: value for field, value in entry.items() if field not in _OF_THE_RUN}
        found.setdefault(os.path.basename(name), []).append(json.dumps(kept, sort_keys=True))
    return found


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in path.read_text().splitlines():
        record = json.loads(line)
        yield record["source"], record


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["source"], row


def _results(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in json.loads(path.read_text()):
        yield entry["file_name"], entry


def _texts(folder: Path) -> Contents:
    found: Contents = {}
    for path in sorted(folder.iterdir()):
        name = _DOTA_NAME.fullmatch(path.name)
        found.setdefault(path.name if name is None else f"{name['stem']}.png", []).append(path.read_text())
    return found


_READERS: dict[str, Callable[[Path], Contents]] = {
    "detections.ir.jsonl": lambda path: _gathered(_lines(path)),
    "detections.ir.csv": lambda path: _gathered(_rows(path)),
    "detections.ir.coco.json": lambda path: _gathered(_results(path)),
    "dota.ir": _texts,
}
