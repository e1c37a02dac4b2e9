"""What a vision-language model knows of rows that it did not learn: their loss, and its answers against the truth.

An answer counts as right where it is the true one, word for word. The tasks of ``python -m train.instruct`` whose
answers are a word, a number or a list are scored so (:data:`SCORED`), each beside the majority answer: how often the
most frequent true answer of that task and sensor would have been right. A sensor's name is the same for all of its
images, so there the most frequent answer over all sensors is taken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from babelrs.images import Frame, read_frame
from train.answering import answers
from train.instruct.corpus import InstructSet
from train.instruct.examples import ExampleMaker
from train.instruct.faults import RowFault
from train.instruct.packing import make_pack
from train.instruct.rows import JsonLines, Row, parse_row, with_sensor
from train.instruct.sampling import permutation
from train.models.csia import CSIA
from train.packed_loss import packed_losses

SCORED = ("counting", "classification", "sensor", "grounding")
"""Tasks whose answers are compared word for word; of captions and boxes only the loss is measured."""
_SAME_WITHIN_A_SENSOR = "sensor"
Made = TypeVar("Made")
_STREAM = 7
"""Of the random draws of a seed: which rows are taken."""


@dataclass(frozen=True)
class HeldOutRow:
    """A row that is not learnt.

    Attributes:
        row: The conversation.
        item: Its set.
        number: Its place in the set.
    """

    row: Row
    item: InstructSet
    number: int

    @property
    def sensor(self) -> str:
        """``rgb``, ``sar``, ``ir``, or ``unnamed``."""
        return self.row.sensor.value if self.row.sensor is not None else "unnamed"

    @property
    def task(self) -> str:
        """What the first question asks for, or ``unnamed``."""
        return self.row.tasks[0] if self.row.tasks else "unnamed"

    def read(self, index: int) -> Frame:
        """The k-th image."""
        return read_frame(self.item.root / self.row.images[index])


@dataclass(frozen=True)
class Answered:
    """A row and what was answered to its first question."""

    held: HeldOutRow
    answer: str

    @property
    def truth(self) -> str:
        """The row's own answer."""
        return self.held.row.turns[0][1].strip()

    @property
    def right(self) -> bool:
        """Whether both are the same, but for capitals."""
        return self.answer.lower() == self.truth.lower()


@dataclass(frozen=True)
class Score:
    """How many of a sensor's questions of one task were answered right.

    Attributes:
        rows: Questions.
        right: Answered as the row says.
        majority: The share that the most frequent true answer would have been right for.
    """

    rows: int
    right: int
    majority: float

    def to_dict(self) -> dict[str, float]:
        """Shares for JSON."""
        return {"rows": self.rows, "right": self.right / self.rows, "majority": self.majority}


@dataclass(frozen=True)
class Losses:
    """Mean loss of a response token in nats, over all rows and by sensor."""

    mean: float
    by_sensor: dict[str, float]


def choose_rows(sets: Sequence[InstructSet], count: int, seed: int) -> list[HeldOutRow]:
    """About ``count`` usable rows, as many of each set where it has as many; the same for a seed.

    Raises:
        BabelRSError: A file cannot be read.
    """
    chosen = []
    for index, item in enumerate(sets):
        file = JsonLines(item.annotation)
        for number in permutation(len(file), (seed, _STREAM, index))[: -(-count // len(sets))]:
            try:
                row = with_sensor(parse_row(file[int(number)]), item.sensor)
            except RowFault:
                continue
            chosen.append(HeldOutRow(row, item, int(number)))
    return chosen


@torch.no_grad()
def held_out_losses(
    csia: CSIA, held: Sequence[HeldOutRow], make: ExampleMaker, batch: int, autocast: torch.dtype
) -> Losses:
    """Losses of the rows' responses in evaluation mode; rows that cannot be used are left out.

    Args:
        csia: The model; its mode is kept.
        held: The rows.
        make: Turns them into examples.
        batch: Rows at a time.
        autocast: Type that matrix products are computed in.
    """
    sums, counts, mode = defaultdict[str, float](float), Counter[str](), csia.training
    csia.eval()
    for part in _batches(held, batch, lambda one: make(one.row, one.read, one.item.max_tiles)):
        length = max(len(example) for _, example in part)
        packs = [make_pack([example], length, make.template.pad) for _, example in part]  # one row a sequence
        found = packed_losses(csia, packs, csia.vlm.device, autocast)
        losses, tokens = found.per_sample.tolist(), found.tokens_per_sample.tolist()
        for (one, _), loss, number in zip(part, losses, tokens, strict=True):
            sums[one.sensor] += loss
            counts[one.sensor] += number
    csia.train(mode)
    total = max(1, counts.total())
    return Losses(sum(sums.values()) / total, {name: sums[name] / max(1, counts[name]) for name in sorted(sums)})


def _batches(
    held: Sequence[HeldOutRow], size: int, make: Callable[[HeldOutRow], Made]
) -> Iterator[list[tuple[HeldOutRow, Made]]]:
    """What is made of the rows, ``size`` rows at a time; those that cannot be used are left out."""
    for start in range(0, len(held), size):
        part = []
        for one in held[start : start + size]:
            try:
                part.append((one, make(one)))
            except RowFault:
                continue
        if part:
            yield part


def ask(
    csia: CSIA,
    tokenizer: PreTrainedTokenizerBase,
    held: Sequence[HeldOutRow],
    make: ExampleMaker,
    max_tokens: int,
    batch: int,
    autocast: torch.dtype,
) -> list[Answered]:
    """The model's answers to the rows' first questions; rows that cannot be used are left out."""
    found = []
    for part in _batches(held, batch, lambda one: make.prompt(one.row, one.read, one.item.max_tiles)):
        texts = answers(csia, tokenizer, [prompt for _, prompt in part], max_tokens, batch, autocast)
        found += [Answered(one, text) for (one, _), text in zip(part, texts, strict=True)]
    return found


def scores(answered: Sequence[Answered]) -> dict[str, dict[str, Score]]:
    """Scores by sensor and task, of the tasks in :data:`SCORED`."""
    truths: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in answered:
        truths[_group(one)][one.truth] += 1
    found: dict[str, dict[str, Score]] = defaultdict(dict)
    for sensor, task in sorted({(one.held.sensor, one.held.task) for one in answered}):
        if task not in SCORED:
            continue
        mine = [one for one in answered if (one.held.sensor, one.held.task) == (sensor, task)]
        known = truths[_group(mine[0])]
        majority = known.most_common(1)[0][1] / known.total()
        found[sensor][task] = Score(len(mine), sum(one.right for one in mine), majority)
    return dict(found)


def _group(one: Answered) -> tuple[str, str]:
    task = one.held.task
    return ("" if task == _SAME_WITHIN_A_SENSOR else one.held.sensor, task)


def scores_json(found: dict[str, dict[str, Score]]) -> dict[str, Any]:
    """Plain values: sensor, task, shares."""
    return {sensor: {task: score.to_dict() for task, score in tasks.items()} for sensor, tasks in found.items()}
