"""How questions are put: several ways each, of which a seeded draw takes one."""

from __future__ import annotations

from collections.abc import Sequence

CAPTION: tuple[str, ...] = (
    "Describe this image.",
    "What does this image show?",
    "Write a caption for this image.",
    "Say in one sentence what can be seen here.",
)
COUNTING: tuple[str, ...] = (
    "How many {plural} are in this image? Answer with a number.",
    "Count the {plural}. Answer with a number.",
    "Give the number of {plural} that can be seen.",
    "What is the number of {plural} in the image?",
)
CLASSES: tuple[str, ...] = (
    "Which kinds of objects are in this image? Name them, separated by commas.",
    "List the classes of objects that can be seen, separated by commas.",
    "What objects does the image contain? Answer with their names only.",
    "Which of these are in the image: {options}? Answer with their names only, or none.",
)
SENSOR: tuple[str, ...] = (
    "What kind of sensor took this image?",
    "Which sensor does this image come from: {sensors}?",
    "Name the sensor of this image.",
    "Is this an image of one of these sensors: {sensors}? Name it.",
)
REFERRING_ALL: tuple[str, ...] = (
    "Where are the {plural}? Give their boxes.",
    "Find every {concept} and give its box.",
    "Give the bounding boxes of all {plural} in the image.",
    "Locate the {plural}.",
)
REFERRING_ONE: tuple[str, ...] = (
    "Where is the {concept}? Give its box.",
    "Find the {concept} and give its box.",
    "Give the bounding box of the {concept} in the image.",
    "Locate the {concept}.",
)
GROUNDING: tuple[str, ...] = (
    "What is in {box}?",
    "Name the object in {box}.",
    "What kind of object does {box} hold?",
    "Which class does the object in {box} belong to?",
)
CAPTION_ANSWERS: tuple[str, ...] = (
    "{photo} showing {content}.",
    "{photo} with {content}.",
    "{photo} in which {content} can be seen.",
)
ANSWERS_WITHOUT: tuple[str, ...] = ("{photo} showing no {absent}.", "{photo} without any {absent}.")


def listed(words: Sequence[str], joint: str = "and") -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


def with_article(words: str) -> str:
    """``a car``, ``an infrared image``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
