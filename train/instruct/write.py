"""Labelled images as instruction data in the published format: JSONL per sensor, a meta file, a summary."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from babelrs.errors import BabelRSError
from babelrs.images import ImageError, read_frame
from babelrs.sensors import Sensor
from train.data.samples import Sample
from train.instruct.concepts import CONCEPTS, concept_of, is_known
from train.instruct.grounding import hulls, to_scale
from train.instruct.questions import TASKS, Facts, Turn
from train.instruct.rows import MARKER, Row, row_json

META, SUMMARY, DESCRIPTIONS = "meta.json", "summary.json", "descriptions.jsonl"


@dataclass(frozen=True)
class WritePlan:
    """What is asked about each image.

    Attributes:
        tasks: Names out of :data:`train.instruct.questions.TASKS`.
        samples: Conversations of an image at most.
        turns: Questions of a conversation at most; answers of earlier ones can be read off by later ones.
        max_boxes: Boxes of an answer at most.
        absent_share: How often counting asks for a concept that is not there.
        max_tiles: What the meta file says as ``max_dynamic_patch``.
        seed: Of all draws.
        concepts: Class names and their concepts.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    samples: int = 3
    turns: int = 1
    max_boxes: int = 10
    absent_share: float = 0.2
    max_tiles: int = 6
    seed: int = 0
    concepts: Mapping[str, str] = field(default_factory=lambda: CONCEPTS)


@dataclass
class Summary:
    """What was written.

    Attributes:
        images: By sensor.
        rows: By sensor.
        tasks: Turns by sensor and task.
        objects: By sensor and concept, in the images that were used.
        unknown: Class names that the table does not know, by how often they occur.
        outside: Objects that lie outside their image.
        broken: Images that cannot be used, with the reason.
    """

    images: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Counter[str]] = field(default_factory=dict)
    objects: dict[str, Counter[str]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    broken: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "images": dict(self.images),
            "rows": dict(self.rows),
            "tasks": {sensor: dict(sorted(tasks.items())) for sensor, tasks in self.tasks.items()},
            "objects": {sensor: dict(sorted(found.items())) for sensor, found in self.objects.items()},
            "unknown_class_names": dict(self.unknown),
            "objects_outside_their_image": self.outside,
            "broken_images": self.broken,
        }


def write_instructions(
    samples: Mapping[Sensor, Sequence[Sample]], root: Path, split: str, out: Path, plan: WritePlan
) -> Summary:
    """Write ``SENSOR.jsonl`` for each sensor, ``meta.json`` and ``summary.json``.

    Args:
        samples: Labelled images below ``root``.
        root: The data folder; image paths in the rows start from it.
        split: Part of the sets' names.
        out: Folder to write.
        plan: What to ask.

    Raises:
        BabelRSError: A file cannot be written, or the simulator's descriptions cannot be read.
    """
    summary, meta = Summary(), dict[str, dict[str, Any]]()
    descriptions = read_descriptions(root)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for sensor, group in samples.items():
            with (out / f"{sensor}.jsonl").open("w", encoding="utf-8") as file:
                for row in _rows(group, root, descriptions, plan, summary):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            meta[f"{sensor}_{split}"] = _meta_entry(sensor, root, out, summary.rows[sensor.value], plan)
        (out / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        (out / SUMMARY).write_text(json.dumps(summary.to_dict(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BabelRSError(f"Cannot write to {out}: {error.strerror}.", "Name another folder.") from error
    return summary


def _meta_entry(sensor: Sensor, root: Path, out: Path, rows: int, plan: WritePlan) -> dict[str, Any]:
    return {
        "root": str(root.resolve()),
        "annotation": f"{sensor}.jsonl",
        "data_augment": False,
        "repeat_time": 1,
        "length": rows,
        "max_dynamic_patch": plan.max_tiles,
    }


def read_descriptions(root: Path) -> dict[str, dict[str, Any]]:
    """The simulator's descriptions by image path; empty where the folder is not of the simulator.

    Raises:
        BabelRSError: The file is there but cannot be read.
    """
    path = root / DESCRIPTIONS
    if not path.is_file():
        return {}
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {str(entry["image"]): entry for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BabelRSError(f"Cannot read {path}: {type(error).__name__}: {error}.", "Simulate again.") from None


def _rows(
    group: Sequence[Sample],
    root: Path,
    descriptions: Mapping[str, Mapping[str, Any]],
    plan: WritePlan,
    summary: Summary,
) -> Iterator[dict[str, Any]]:
    known = tuple(sorted({concept_of(name, plan.concepts) for sample in group for name in sample.names}))
    for sample in group:
        try:
            frame = read_frame(sample.path)
        except ImageError as error:
            summary.broken.append(str(error))
            continue
        relative = sample.path.relative_to(root).as_posix()
        size = frame.width, frame.height
        facts = make_facts(sample, size, known, plan, descriptions.get(relative))
        _count(sample, facts, plan, summary)
        for number, turns in enumerate(conversations(facts, sample.name, plan)):
            tasks = tuple(task for task, _ in turns)
            marked = _marked([turn for _, turn in turns])
            row = Row(f"{sample.name}#{number}", (relative,), marked, None, sample.sensor, tasks)
            summary.rows[sample.sensor.value] += 1
            summary.tasks.setdefault(sample.sensor.value, Counter()).update(tasks)
            yield row_json(row, width=size[0], height=size[1])


def make_facts(
    sample: Sample,
    size: tuple[int, int],
    known: tuple[str, ...],
    plan: WritePlan,
    description: Mapping[str, Any] | None = None,
) -> Facts:
    """What is known about a labelled image; objects outside it are left out.

    Args:
        sample: The image's labels.
        size: Width and height, pixels.
        known: All concepts that its data set labels.
        plan: What to ask.
        description: The simulator's, if it made the image.
    """
    boxes = hulls(sample.boxes)
    inside = (boxes[:, 0] < size[0]) & (boxes[:, 1] < size[1]) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    kept = np.flatnonzero(inside)
    concepts = tuple(concept_of(sample.names[index], plan.concepts) for index in kept)
    texts = _texts(sample, description)
    return Facts(
        sensor=sample.sensor,
        concepts=concepts,
        boxes=to_scale(boxes[kept], *size),
        unsure=sample.ignore[kept],
        known=known,
        caption=None if description is None else str(description["text"]),
        texts=tuple(texts[index] for index in kept) if texts else (),
        max_boxes=plan.max_boxes,
        absent_share=plan.absent_share,
    )


def _texts(sample: Sample, description: Mapping[str, Any] | None) -> list[str]:
    """Descriptions of the objects, where they are the annotation's objects in its order."""
    objects = [] if description is None else description.get("objects", [])
    same = [entry["class"] for entry in objects] == list(sample.names)
    return [str(entry["text"]) for entry in objects] if same else []


def conversations(facts: Facts, name: str, plan: WritePlan) -> Iterator[list[tuple[str, Turn]]]:
    """An image's conversations, each a list of task and turn; no question is put twice.

    Tasks come in turn from a drawn order, so that an image's conversations differ in task.

    Args:
        facts: About the image.
        name: Of the image: its draws depend on seed and name only.
        plan: What to ask.
    """
    rng = np.random.default_rng([plan.seed, zlib.crc32(name.encode())])
    order = [plan.tasks[index] for index in rng.permutation(len(plan.tasks))]
    asked: set[str] = set()
    turns: list[tuple[str, Turn]] = []
    written = 0
    for attempt in range(2 * plan.samples * plan.turns + len(order)):
        task = order[attempt % len(order)]
        turn = TASKS[task](facts, rng)
        if turn is None or turn[0] in asked:
            continue
        asked.add(turn[0])
        turns.append((task, turn))
        if len(turns) == plan.turns:
            yield turns
            turns, written = [], written + 1
        if written == plan.samples:
            return
    if turns:
        yield turns


def _marked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The picture goes before the first question."""
    (question, answer), *others = turns
    return ((f"{MARKER}\n{question}", answer), *others)


def _count(sample: Sample, facts: Facts, plan: WritePlan, summary: Summary) -> None:
    summary.images[sample.sensor.value] += 1
    summary.objects.setdefault(sample.sensor.value, Counter()).update(facts.concepts)
    summary.outside += len(sample.names) - len(facts.concepts)
    summary.unknown.update(name for name in sample.names if not is_known(name, plan.concepts))
