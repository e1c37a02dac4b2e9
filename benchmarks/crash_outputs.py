"""What a run's output folder holds, image by image, so that two runs can be compared: lost, repeated, altered."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ALIKE = 8.0
"""Largest mean difference of two pictures that are the same: an encoder that begins anew rounds otherwise."""

Entry = tuple[str, str]
"""What it is about, and all that must be the same whenever it is written."""


@dataclass(frozen=True)
class Difference:
    """How one output differs from that of an undisturbed run.

    Attributes:
        lost: Entries that are missing.
        repeated: Entries that are there once more than they should be.
        altered: Entries with another content.
        is_reordered: Whether all are there in another order.
    """

    lost: int
    repeated: int
    altered: int
    is_reordered: bool


def compared(expected: Path, found: Path) -> dict[str, Difference]:
    """Every output of an undisturbed run against the same of another, by name."""
    other = contents(found, expected)
    return {name: _difference(entries, other.get(name, [])) for name, entries in contents(expected, expected).items()}


def contents(out: Path, expected: Path) -> dict[str, list[Entry]]:
    """The entries of every output in a folder, the journal left out; without times and latencies.

    Args:
        out: The folder.
        expected: That of the undisturbed run, whose pictures say which those of a video are.
    """
    found: dict[str, list[Entry]] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != "run.journal"):
        name = path.relative_to(out)
        if len(name.parts) > 1:
            entry = str(name), hashlib.sha256(path.read_bytes()).hexdigest()
            found.setdefault(f"{name.parts[0]}/", []).append(entry)
        elif path.suffix == ".mp4":
            found[str(name)] = list(_named_pictures(path, expected / name))
        else:
            found[str(name)] = list(_READERS[path.suffix](path))
    return found


def _difference(expected: list[Entry], found: list[Entry]) -> Difference:
    should, does = Counter(about for about, _ in expected), Counter(about for about, _ in found)
    lost, repeated = (should - does).total(), (does - should).total()
    altered = (Counter(found) - Counter(expected)).total() - repeated
    return Difference(lost, repeated, max(0, altered), sorted(expected) == sorted(found) and expected != found)


def _lines(path: Path) -> Iterator[Entry]:
    for line in path.read_text().splitlines():
        record = json.loads(line)
        del record["time"], record["latency_ms"]
        yield f"{record['source']} {record['frame']}", _text(record)


def _features(path: Path) -> Iterator[Entry]:
    for feature in json.loads(path.read_text())["features"]:
        del feature["properties"]["time"]
        yield f"{feature['properties']['source']} {feature['properties']['frame']}", _text(feature)


def _results(path: Path) -> Iterator[Entry]:
    for entry in json.loads(path.read_text()):
        yield f"{entry['file_name']} {entry['image_id']}", _text(entry)


def _rows(path: Path) -> Iterator[Entry]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            del row["time"]
            yield f"{row['source']} {row['frame']}", _text(row)


def _named_pictures(path: Path, expected: Path) -> Iterator[Entry]:
    """Times, and which picture of the undisturbed video it is."""
    known = np.stack([picture for _, picture in _pictures(expected)])
    for time, picture in _pictures(path):
        apart = np.abs(known - picture).mean(axis=(1, 2, 3))
        yield time, str(apart.argmin()) if apart.min() < ALIKE else "none"


def _pictures(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            small = cv2.resize(frame.to_ndarray(format="bgr24"), (96, 96), interpolation=cv2.INTER_AREA)
            yield f"{frame.time:.3f}", small.astype(np.float32)


def _text(record: Any) -> str:
    return json.dumps(record, sort_keys=True)


_READERS = {".jsonl": _lines, ".geojson": _features, ".json": _results, ".csv": _rows}
