"""Rows of instruction data: a line of JSON becomes a checked conversation; files are read by byte offset."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from train.instruct.faults import RowFault

MARKER = "<image>"
"""Where a picture goes in a conversation."""
IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
RESERVED = (IMAGE_START, IMAGE_CONTEXT, IMAGE_END, TURN_START, TURN_END, TEXT_END)
"""Tokens of the template: in a row's own text they would forge turns or pictures."""

_LONGEST_DETAIL = 200
_SHORT = 8  # bytes; only lines as short as this are looked at for being blank


@dataclass(frozen=True)
class Row:
    """A checked conversation.

    Attributes:
        id: The row's own identity, as text.
        images: Paths relative to the set's root, in the order of their markers.
        turns: Questions and answers in turn.
        system: System message, if the row has one.
        sensor: Sensor of all its images, if named.
        tasks: What each turn asks for, where the row says so (``python -m train.instruct`` does).
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    system: str | None = None
    sensor: Sensor | None = None
    tasks: tuple[str, ...] = ()


def parse_row(line: bytes | str) -> Row:
    """Read one row ``{id, image, conversations: [{from, value}]}``.

    ``image`` is a path, a list of paths, null or missing; ``from`` is ``human``, ``gpt`` or, first, ``system``; a
    ``sensor`` and the ``tasks`` of the turns may be named. Other fields are not looked at.

    Raises:
        RowFault: The row cannot be used; with cause, detail and the row's id.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # includes bytes that are not UTF-8
        raise RowFault("not JSON", _cut(str(error))) from None
    if not isinstance(values, dict):
        raise RowFault("not JSON", f"a {type(values).__name__}, not an object")
    identity = str(values.get("id", ""))
    try:
        system, turns = _turns(values.get("conversations"))
        images = _images(values.get("image"))
        _check_markers(turns, len(images))
        _check_reserved([system or "", *(text for turn in turns for text in turn)])
        return Row(identity, images, turns, system, _sensor(values.get("sensor")), _tasks(values.get("tasks"), turns))
    except RowFault as fault:
        raise RowFault(fault.cause, _cut(fault.detail), identity) from None


def row_json(row: Row, **more: Any) -> dict[str, Any]:
    """A row as plain values in the published format; ``more`` adds fields."""
    talk = [{"from": "system", "value": row.system}] if row.system is not None else []
    for question, answer in row.turns:
        talk += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    values: dict[str, Any] = {"id": row.id}
    if row.images:
        values["image"] = row.images[0] if len(row.images) == 1 else list(row.images)
    if row.sensor is not None:
        values["sensor"] = row.sensor.value
    if row.tasks:
        values["tasks"] = list(row.tasks)
    return {**values, **more, "conversations": talk}


def _turns(talk: Any) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    if not isinstance(talk, list) or not talk:
        raise RowFault("no conversation", f"conversations is {_cut(repr(talk))}")
    if not all(isinstance(part, dict) and isinstance(part.get("value"), str) for part in talk):
        raise RowFault("no conversation", "a turn is not an object with a text as value")
    roles = [part.get("from") for part in talk]
    if unknown := [role for role in roles if role not in ("human", "gpt", "system")]:
        raise RowFault("unknown role", f"{unknown[0]!r} is none of human, gpt, system")
    system = talk[0]["value"] if roles[0] == "system" else None
    roles, talk = (roles[1:], talk[1:]) if system is not None else (roles, talk)
    if not roles or roles != ["human", "gpt"] * (len(roles) // 2):
        raise RowFault("roles do not alternate", " ".join(map(str, roles)) or "a system message only")
    texts = [part["value"] for part in talk]
    if empty := [number for number, text in enumerate(texts[1::2], 1) if not text.strip()]:
        raise RowFault("empty answer", f"answer {empty[0]} of {len(texts) // 2}")
    return system, tuple(zip(texts[::2], texts[1::2], strict=True))


def _images(value: Any) -> tuple[str, ...]:
    paths = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise RowFault("image path", f"image is {_cut(repr(value))}, not a path or a list of paths")
    return tuple(paths)


def _check_markers(turns: Sequence[tuple[str, str]], images: int) -> None:
    markers = sum(question.count(MARKER) for question, _ in turns)
    if any(MARKER in answer for _, answer in turns):
        raise RowFault("image marker in an answer", f"an answer holds {MARKER}")
    if markers == 0 and images:
        raise RowFault("no image marker", f"{images} images, no {MARKER}")
    if markers > images:
        raise RowFault("too many image markers", f"{markers} times {MARKER}, {images} images")
    if markers < images:
        raise RowFault("too few image markers", f"{markers} times {MARKER}, {images} images")


def _check_reserved(texts: Sequence[str]) -> None:
    for text in texts:
        if found := [token for token in RESERVED if token in text]:
            raise RowFault("reserved token", f"the text holds {found[0]}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise RowFault("not Unicode", "the text holds half of a surrogate pair")


def _sensor(value: Any) -> Sensor | None:
    try:
        return None if value is None else Sensor.parse(value)
    except BabelRSError:
        raise RowFault("unknown sensor", f"sensor {value!r}") from None


def _tasks(value: Any, turns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """One for each turn; no row is broken for naming them otherwise, as they teach nothing."""
    named = isinstance(value, list) and len(value) == len(turns) and all(isinstance(task, str) for task in value)
    return tuple(value) if named else ()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 3] + "..."


class JsonLines:
    """The lines of a JSONL file, found by byte offset: 16 bytes of memory a row.

    Blank lines do not count. Reading is safe from several processes, also after a fork.

    Args:
        path: The file.

    Raises:
        BabelRSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        try:
            self._starts, self._ends = line_bounds(path)
        except OSError as error:
            raise BabelRSError(f"Cannot read {path}: {error.strerror}.", "Give a readable JSONL file.") from error

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        start, end = int(self._starts[index]), int(self._ends[index])
        return os.pread(self._file, end - start, start)  # leaves no file position that a forked process would share

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def rows(self) -> Iterator[Row]:
        """All usable rows in order; broken ones are passed over."""
        for index in range(len(self)):
            try:
                yield parse_row(self[index])
            except RowFault:
                continue


def line_bounds(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First byte of every line that is not blank, and the byte after its last, ``(N,)`` each."""
    size = path.stat().st_size
    if size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        step = 1 << 24
        breaks = [
            np.flatnonzero(np.frombuffer(data[at : at + step], np.uint8) == 10) + at for at in range(0, size, step)
        ]
        ends = np.concatenate(breaks).astype(np.int64)
        if len(ends) == 0 or ends[-1] != size - 1:
            ends = np.append(ends, size)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        kept = ends > starts
        for index in np.flatnonzero(ends - starts <= _SHORT):
            kept[index] = bool(data[starts[index] : ends[index]].strip())
    return starts[kept], ends[kept]


def with_sensor(row: Row, sensor: Sensor | None) -> Row:
    """The row with ``sensor`` where it names none."""
    return replace(row, sensor=sensor) if row.sensor is None and sensor is not None else row
