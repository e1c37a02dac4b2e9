"""What a loss of power may leave of a killed run's output folder: nothing that was not synced is sure.

A machine that can be switched off is not needed: what the system would have lost is taken away afterwards.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

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
    kept = [line for line in lines if line[1] <= sure]
    standing = _standing(kept)
    _tear_outputs(out, standing, _names([record for record, _ in kept]), rng)
    another = {BOOT: "-" * len(boot_id())}  # as long, so that offsets stay
    rewritten = b"".join(line_of(another if BOOT in record else record) for record, _ in lines)
    end = rng.randint(written_end, len(rewritten))
    (out / NAME).write_bytes(rewritten[:end] + bytes(rng.randint(0, 50)))
    return _standing(lines).num_images, standing.num_images


def _standing(lines: list[tuple[Any, int]]) -> Standing:
    own = [record for record, _ in lines if BOOT not in record and SYNCED not in record]
    return standing_after(own) or Standing({"formats": []})


def _tear_outputs(out: Path, standing: Standing, names: set[tuple[str, str]], rng: random.Random) -> None:
    sure = _sure_ends(standing)
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != NAME):
        if path.parent == out:
            _tear(path, sure.get(path.name, 0), rng)
        elif (path.parent.suffix[1:], path.stem) not in names:
            _tear(path, 0, rng)
            if rng.random() < 0.3:
                path.unlink()


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


def _names(records: list[Any]) -> set[tuple[str, str]]:
    """Sensors and names of the files about the images of these records: of each an image, or of a video the number."""
    names, stems = set(), dict[int, str]()
    for record in (record for record in records if "source" in record):
        stem = stems[record["source"]] = record.get("stem", stems.get(record["source"], ""))
        names |= {(record["sensor"], stem), (record["sensor"], f"{stem}{record['sequence']:06d}")}
    return names


def _tear(path: Path, sure: int, rng: random.Random) -> None:
    data = path.read_bytes()
    whole = rng.randint(sure, max(sure, len(data)))
    path.write_bytes(data[:whole] + bytes(rng.randint(0, max(0, len(data) - whole))))
