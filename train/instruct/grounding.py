"""Boxes as text on the 0..1000 scale: ``<ref>car</ref><box>[[x1, y1, x2, y2]]</box>``, written and read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners

SCALE = 1000
"""What an image's width and height are in text."""

_NUMBER = r"\s*-?\d+(?:\.\d+)?\s*"
_GROUNDED = re.compile(r"(?:<ref>([^<]*)</ref>\s*)?<box>([^<]*)</box>")
_BOX = re.compile(rf"\[({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})\]")

Floats = npt.NDArray[np.float64]
Scaled = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grounded:
    """What a text says is where.

    Attributes:
        name: The text in ``<ref>``; empty without one.
        boxes: ``(N, 4)`` float64 ``x1, y1, x2, y2`` in pixels.
    """

    name: str
    boxes: Floats


def hulls(boxes: npt.ArrayLike) -> Floats:
    """The smallest horizontal boxes around oriented ones: ``(N, 5)`` to ``(N, 4)`` ``x1, y1, x2, y2`` in pixels."""
    corners = to_corners(boxes)  # (N, 4, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def to_scale(boxes: npt.ArrayLike, width: int, height: int) -> Scaled:
    """Boxes ``(N, 4)`` in pixels as whole numbers of the 0..1000 scale, clipped to the image."""
    sides = np.array([width, height, width, height], np.float64)
    pixels = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.rint(np.clip(pixels / sides, 0.0, 1.0) * SCALE).astype(np.int64)


def from_scale(boxes: npt.ArrayLike, width: int, height: int) -> Floats:
    """Boxes ``(N, 4)`` of the 0..1000 scale in pixels."""
    sides = np.array([width, height, width, height], np.float64)
    return np.asarray(boxes, np.float64).reshape(-1, 4) / SCALE * sides


def boxes_text(boxes: Scaled | Sequence[Sequence[int]]) -> str:
    """``<box>[[x1, y1, x2, y2], ...]</box>`` of scaled boxes ``(N, 4)``."""
    rows = ", ".join(f"[{', '.join(str(int(value)) for value in box)}]" for box in boxes)
    return f"<box>[{rows}]</box>"


def grounded_text(name: str, boxes: Scaled | Sequence[Sequence[int]]) -> str:
    """``<ref>name</ref><box>[[...]]</box>`` of scaled boxes ``(N, 4)``."""
    return f"<ref>{name}</ref>{boxes_text(boxes)}"


def parse_grounded(text: str, width: int, height: int) -> list[Grounded]:
    """All boxes that a text holds, by name, in order.

    A model may write anything: what is not four numbers is passed over, numbers beyond the scale are clipped, and
    swapped corners are put in order.

    Args:
        text: An answer.
        width: Of the image, pixels.
        height: Alike.
    """
    found = []
    for name, content in _GROUNDED.findall(text):
        numbers = [[float(value) for value in box] for box in _BOX.findall(content)]
        clipped = np.clip(np.array(numbers, np.float64).reshape(-1, 2, 2), 0, SCALE)
        ordered = np.concatenate([clipped.min(axis=1), clipped.max(axis=1)], axis=1)  # (N, 4)
        if len(ordered):
            found.append(Grounded(name.strip(), from_scale(ordered, width, height)))
    return found
