"""The meta file of instruction sets, as published: name, folder, rows, and how much of each set an epoch takes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from train.instruct.faults import refuse

KEYS = ("root", "annotation", "data_augment", "repeat_time", "length", "max_dynamic_patch")
OWN_KEYS = ("sensor",)
"""Not in the published files: the sensor of every row that names none."""

_LOGGER = logging.getLogger(__name__)
_REMEDY = "Correct the meta file, or give the folder that its relative paths start from."


@dataclass(frozen=True)
class InstructSet:
    """One instruction set.

    Attributes:
        name: Its name in the meta file.
        root: Folder that image paths start from.
        annotation: JSONL file of rows.
        repeat_time: Share of the set that an epoch takes, exact; above 1 the set is repeated.
        length: Number of rows as declared, if it is.
        max_tiles: Largest number of tiles of an image, if declared (``max_dynamic_patch``).
        data_augment: Whether images are re-encoded as JPEG of random quality.
        sensor: Sensor of every row that names none.
    """

    name: str
    root: Path
    annotation: Path
    repeat_time: Fraction = Fraction(1)
    length: int | None = None
    max_tiles: int | None = None
    data_augment: bool = False
    sensor: Sensor | None = None

    def count(self, rows: int) -> int:
        """Rows that one epoch takes of a set of ``rows``: their number times ``repeat_time``, rounded down."""
        return int(self.repeat_time * rows)


def read_meta(path: Path, base: Path | None = None) -> list[InstructSet]:
    """The sets of a meta file, in its order.

    Args:
        path: ``{name: {root, annotation, data_augment, repeat_time, length, max_dynamic_patch}}``; all but the first
            two may be left out.
        base: Folder that relative paths start from; ``None`` takes the file's own.

    Raises:
        BabelRSError: The file is no such mapping, a key is unknown, a value wrong, or a folder or file missing; all
            faults of all sets are listed.
    """
    content = _load(path)
    base = path.parent if base is None else base
    sets, faults = [], []
    for name, values in content.items():
        wrong = _faults(values, base)
        faults += [f"{name}: {fault}" for fault in wrong]
        if not wrong:
            sets.append(_parse(name, values, base))
    if not content:
        faults.append("it names no set")
    refuse(f"The meta file {path} cannot be used", faults, _REMEDY)
    return sets


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BabelRSError(f"Cannot read the meta file {path}: {error}.", "Give a JSON file of sets by name.") from None
    if not isinstance(content, dict):
        raise BabelRSError(f"The meta file {path} holds a {type(content).__name__}.", "It maps set names to sets.")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without repeated names: the earlier set would vanish unseen."""
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} occurs more than once")
    return dict(pairs)


def _faults(values: Any, base: Path) -> list[str]:
    if not isinstance(values, Mapping):
        return [f"is a {type(values).__name__}, not an object"]
    found = [f"unknown key {key!r}" for key in values if key not in KEYS + OWN_KEYS]
    for key in ("root", "annotation"):
        if not isinstance(values.get(key), str):
            found.append(f"{key} is {values[key]!r}, not a path" if key in values else f"{key} is missing")
        elif key == "root" and not (base / values[key]).is_dir():
            found.append(f"no folder {base / values[key]} (root)")
        elif key == "annotation" and not (base / values[key]).is_file():
            found.append(f"no file {base / values[key]} (annotation)")
    rate = values.get("repeat_time", 1)
    if not _is_number(rate) or not 0 < rate <= 1_000_000:
        found.append(f"repeat_time is {rate!r}, not a number above 0")
    for key, least in (("length", 0), ("max_dynamic_patch", 1)):
        value = values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            found.append(f"{key} is {value!r}, not a whole number of at least {least}")
    if not isinstance(values.get("data_augment", False), bool):
        found.append(f"data_augment is {values['data_augment']!r}, not true or false")
    return found + _sensor_fault(values.get("sensor"))


def _sensor_fault(value: Any) -> list[str]:
    try:
        if value is not None:
            Sensor.parse(value)
    except BabelRSError as error:
        return [error.what]
    return []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parse(name: str, values: Mapping[str, Any], base: Path) -> InstructSet:
    sensor = values.get("sensor")
    return InstructSet(
        name=name,
        root=base / values["root"],
        annotation=base / values["annotation"],
        repeat_time=Fraction(str(values.get("repeat_time", 1))),  # 0.03 as written, not the nearest double
        length=values.get("length"),
        max_tiles=values.get("max_dynamic_patch"),
        data_augment=values.get("data_augment", False),
        sensor=None if sensor is None else Sensor.parse(sensor),
    )


def warn_of_lengths(sets: list[InstructSet], rows: list[int]) -> None:
    """Say where a set declares another ``length`` than its file has, or gives no row: the file's counts."""
    for item, found in zip(sets, rows, strict=True):
        if item.length is not None and item.length != found:
            _LOGGER.warning("%s: length %d is declared, %s has %d rows", item.name, item.length, item.annotation, found)
        if item.count(found) == 0:
            _LOGGER.warning("%s: %d rows times %s give none", item.name, found, float(item.repeat_time))
