"""Questions and true answers about a labelled image.

Difficult objects are real but not sure to be seen. So nothing is asked whose answer depends on them: a concept that has
one is neither counted nor located, and captions say ``at least``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from babelrs.sensors import Sensor
from train.instruct import phrases
from train.instruct.concepts import SENSOR_WORDS, plural
from train.instruct.grounding import Scaled, boxes_text, grounded_text

Turn = tuple[str, str]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Facts:
    """What is known about an image.

    Attributes:
        sensor: Its sensor.
        concepts: Of its M objects.
        boxes: ``(M, 4)`` horizontal hulls on the 0..1000 scale.
        unsure: ``(M,)`` bool: difficult objects.
        known: All concepts that its data set labels.
        caption: A sentence about the image, if there is one.
        texts: A description of each object, where there is one; empty without any.
        max_boxes: Boxes of an answer at most.
        absent_share: How often counting asks for a concept that is not there.
    """

    sensor: Sensor
    concepts: tuple[str, ...]
    boxes: Scaled
    unsure: npt.NDArray[np.bool_]
    known: tuple[str, ...]
    caption: str | None = None
    texts: tuple[str, ...] = ()
    max_boxes: int = 10
    absent_share: float = 0.2

    @property
    def sure(self) -> Counter[str]:
        """Objects by concept, of those that are sure to be seen."""
        return Counter(name for name, unsure in zip(self.concepts, self.unsure, strict=True) if not unsure)

    @property
    def blurred(self) -> set[str]:
        """Concepts that have a difficult object."""
        return {name for name, unsure in zip(self.concepts, self.unsure, strict=True) if unsure}

    def indices(self, concept: str) -> list[int]:
        """The objects of a concept, from top to bottom, then from left to right."""
        chosen = [index for index, name in enumerate(self.concepts) if name == concept]
        return sorted(chosen, key=lambda index: (self.boxes[index][1], self.boxes[index][0], index))


def caption(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """A sentence that names the sensor and counts what is there."""
    question = _pick(phrases.CAPTION, rng)
    if facts.caption is not None:
        return question, facts.caption
    photo = phrases.with_article(f"{SENSOR_WORDS[facts.sensor]} image").capitalize()
    sure, blurred = facts.sure, facts.blurred
    if sure:
        parts = [_number(name, count, name in blurred) for name, count in sorted(sure.items())]
        return question, _pick(phrases.CAPTION_ANSWERS, rng).format(photo=photo, content=phrases.listed(parts))
    if blurred or not facts.known:
        return None
    absent = phrases.listed([plural(name) for name in facts.known], "or")
    return question, _pick(phrases.ANSWERS_WITHOUT, rng).format(photo=photo, absent=absent)


def counting(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The number of objects of a concept, now and then of one that is not there."""
    present = sorted(set(facts.sure) - facts.blurred)
    absent = sorted(set(facts.known) - set(facts.concepts))
    ask_absent = bool(absent) and (not present or rng.random() < facts.absent_share)
    if not present and not ask_absent:
        return None
    concept = _pick(absent if ask_absent else present, rng)
    return _pick(phrases.COUNTING, rng).format(plural=plural(concept)), str(facts.sure[concept])


def classification(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """The concepts that are there."""
    if facts.blurred - set(facts.sure) or not facts.known:
        return None
    question = _pick(phrases.CLASSES, rng).format(options=", ".join(facts.known))
    return question, ", ".join(sorted(facts.sure)) or "none"


def sensor(facts: Facts, rng: np.random.Generator) -> Turn:
    """The sensor in words."""
    options = phrases.listed([SENSOR_WORDS[each] for each in Sensor], "or")
    return _pick(phrases.SENSOR, rng).format(sensors=options), SENSOR_WORDS[facts.sensor]


def referring(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """Where all objects of a concept are, or the one that a description fits alone."""
    described = _described(facts)
    if described and rng.random() < 0.5:
        index = _pick(described, rng)
        question = _pick(phrases.REFERRING_ONE, rng).format(concept=facts.texts[index])
        return question, grounded_text(facts.concepts[index], facts.boxes[[index]])
    sure, blurred = facts.sure, facts.blurred
    few = sorted(name for name, count in sure.items() if count <= facts.max_boxes and name not in blurred)
    if not few:
        return None
    concept = _pick(few, rng)
    asked = phrases.REFERRING_ONE if sure[concept] == 1 else phrases.REFERRING_ALL
    question = _pick(asked, rng).format(concept=concept, plural=plural(concept))
    return question, grounded_text(concept, facts.boxes[facts.indices(concept)])


def grounding(facts: Facts, rng: np.random.Generator) -> Turn | None:
    """What a box holds, where no object of another concept shares half of it."""
    clear = [
        index
        for index, concept in enumerate(facts.concepts)
        if not facts.unsure[index]
        and all(
            other == concept or _overlap(facts.boxes[index], facts.boxes[place]) <= 0.5
            for place, other in enumerate(facts.concepts)
        )
    ]
    if not clear:
        return None
    concept = _pick(sorted({facts.concepts[index] for index in clear}), rng)  # rare concepts as often as common ones
    index = _pick([index for index in clear if facts.concepts[index] == concept], rng)
    return _pick(phrases.GROUNDING, rng).format(box=boxes_text(facts.boxes[[index]])), concept


TASKS: Mapping[str, Callable[[Facts, np.random.Generator], Turn | None]] = {
    "caption": caption,
    "counting": counting,
    "classification": classification,
    "sensor": sensor,
    "referring": referring,
    "grounding": grounding,
}


def _described(facts: Facts) -> list[int]:
    """Objects whose description fits no other."""
    times = Counter(facts.texts)
    return [index for index, text in enumerate(facts.texts) if times[text] == 1 and not facts.unsure[index]]


def _number(concept: str, count: int, at_least: bool) -> str:
    words = f"{count} {concept if count == 1 else plural(concept)}"
    return f"at least {words}" if at_least else words


def _overlap(box: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """Which share of ``box`` lies in ``other``."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    area = max(1, int(np.prod(box[2:] - box[:2])))
    return float(np.prod(np.maximum(sides, 0)) / area)


def _pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.integers(len(choices)))]
