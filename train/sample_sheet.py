"""A page of images with questions, true answers and the model's, to look at while a model learns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelrs.images import quiet_opencv
from train.drawing import outline
from train.evaluation.plots import plot_sheet
from train.heldout import Answered
from train.instruct.grounding import parse_grounded
from train.instruct.rows import MARKER
from train.instruct.tiles import displayed

SHOWN_PX = 320
TRUE_COLOUR, ANSWER_COLOUR, ASKED_COLOUR = (80, 255, 80), (255, 70, 70), (80, 160, 255)  # R, G, B
_LINE_LENGTH, _MOST_LINES = 44, 3

Picture = npt.NDArray[np.uint8]


def write_samples(answered: Sequence[Answered], title: str, stem: Path) -> None:
    """Write ``STEM.jsonl``, a row each with everything in words, and ``STEM.png`` with the first image of each.

    Args:
        answered: What to show.
        title: Of the page.
        stem: Path without ending; its folder is made.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_record(one), ensure_ascii=False) for one in answered]
    stem.with_suffix(".jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    pictured = [one for one in answered if one.held.row.images]
    if pictured:
        captions = [_caption(one) for one in pictured]
        plot_sheet([picture(one) for one in pictured], captions, title, stem.with_suffix(".png"))


def picture(one: Answered) -> Picture:
    """The row's first image with the boxes of the question (blue), the truth (green) and the answer (red)."""
    image = displayed(one.held.read(0), one.held.row.sensor)
    height, width = image.shape[:2]
    scale = SHOWN_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas: Picture = np.ascontiguousarray(quiet_opencv().resize(image, size))
    question = one.held.row.turns[0][0]
    for text, colour in ((question, ASKED_COLOUR), (one.truth, TRUE_COLOUR), (one.answer, ANSWER_COLOUR)):
        for grounded in parse_grounded(text, size[0], size[1]):
            outline(canvas, rectangles(grounded.boxes), colour, 1)
    return canvas


def rectangles(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Corners ``(N, 4, 2)`` of boxes ``(N, 4)`` ``x1, y1, x2, y2``."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def _record(one: Answered) -> dict[str, object]:
    row = one.held.row
    return {
        "set": one.held.item.name, "row": one.held.number, "images": list(row.images), "sensor": one.held.sensor,
        "task": one.held.task, "question": row.turns[0][0], "truth": one.truth, "answer": one.answer,
    }  # fmt: skip


def _caption(one: Answered) -> str:
    question = one.held.row.turns[0][0].replace(MARKER, "").strip()
    parts = (f"{one.held.sensor}: {question}", f"true: {one.truth}", f"answer: {one.answer}")
    return "\n".join(_shortened(part) for part in parts)


def _shortened(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in text)  # a model may write anything
    return "\n".join(textwrap.wrap(shown, _LINE_LENGTH, max_lines=_MOST_LINES, placeholder=" ..."))
