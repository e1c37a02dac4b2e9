"""What a loss of power may leave of a killed run's output folder: nothing that was not synced is sure.

A machine that can be switched off is not needed: what the system would have lost is taken away afterwards.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from babelrs.images import IMAGE_SUFFIXES
from runtime.journal import BOOT, SYNCED, boot_id, line_of, records_in
from runtime.recorder import NAME
from runtime.standing import Standing, standing_after

_SUFFIXES = {"jsonl": "jsonl", "geojson": "geojson", "coco": "coco.json", "csv": "csv"}


def lose_power(out: Path, rng: random.Random) -> tuple[int, int]:
    """Take away what was not synced: of files that grow, a random part becomes zeros or is missing; files of single
    images are torn, empty or missing; the journal ends in its middle and was written under another start of the system.

    Args:
        out: Output folder of a killed run.
        rng: Decides how much is lost.

    Returns:
        Images that were recorded, and those of them that were synced.
    """
    data = (out / NAME).read_bytes()
    lines = list(records_in(data))
    sure = max((record[SYNCED] for record, _ in lines if SYNCED in record), default=0)
    written_end = max((end for record, end in lines if SYNCED in record), default=0)
    standing = _standing([line for line in lines if line[1] <= sure])
    _tear_outputs(out, standing, rng)
    another = {BOOT: "-" * len(boot_id())}  # as long, so that offsets stay
    rewritten = b"".join(line_of(another if BOOT in record else record) for record, _ in lines)
    end = rng.randint(written_end, len(rewritten))
    (out / NAME).write_bytes(rewritten[:end] + bytes(rng.randint(0, 50)))
    return _standing(lines).num_images, standing.num_images


def _standing(lines: list[tuple[Any, int]]) -> Standing:
    own = [record for record, _ in lines if BOOT not in record and SYNCED not in record]
    return standing_after(own) or Standing({"formats": []})


def _tear_outputs(out: Path, standing: Standing, rng: random.Random) -> None:
    sure = _sure_ends(standing)
    names = set()
    for sensor in standing.marks:
        lines = out / f"detections.{sensor}.jsonl"
        names |= {(sensor, name) for name in _names(lines, sure.get(lines.name, 0))}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != NAME):
        if path.parent == out:
            _tear(path, sure.get(path.name, 0), rng)
        elif not {(path.parent.suffix[1:], each) for each in _possible(path.stem)} & names:
            _tear(path, 0, rng)
            if rng.random() < 0.3:
                path.unlink()


def _possible(stem: str) -> tuple[str, str]:
    """What an image may be called that a file is about: folders below the source's go before the image's name."""
    return stem, stem.rpartition("__")[2]


def _sure_ends(standing: Standing) -> dict[str, int]:
    """Bytes of every growing file that were synced, by its name."""
    found = {}
    for sensor, marks in standing.marks.items():
        for name, mark in zip(standing.settings["formats"], marks, strict=False):
            if name in _SUFFIXES:
                found[f"detections.{sensor}.{_SUFFIXES[name]}"] = mark["end"]
            elif name == "video":
                found[f"video.{sensor}.mp4"] = mark["0"]["file"]["end"]
    return found


def _names(path: Path, end: int) -> set[str]:
    """Names of the files about the images in the first ``end`` bytes of a file of lines."""
    records = [json.loads(line) for line in path.read_bytes()[:end].splitlines()]
    stems = [(Path(record["source"]), record["frame"]) for record in records]
    return {path.stem if path.suffix in IMAGE_SUFFIXES else f"{path.stem}_{frame:06d}" for path, frame in stems}


def _tear(path: Path, sure: int, rng: random.Random) -> None:
    data = path.read_bytes()
    whole = rng.randint(sure, max(sure, len(data)))
    path.write_bytes(data[:whole] + bytes(rng.randint(0, max(0, len(data) - whole))))
