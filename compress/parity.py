"""Whether the graphs in a bundle find what was measured while they were chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from babelrs.boxes import rotated_iou
from babelrs.detections import Detections

MIN_SCORE = 0.3
"""Detections below it are not compared."""
MIN_IOU, MAX_SCORE_CHANGE, MIN_SHARE = 0.95, 0.03, 0.99
"""A detection is the same with more overlap and less change of its score than this; so many must be."""


@dataclass(frozen=True)
class Parity:
    """How many detections of one side the other side has too."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    same: int
    of: int

    @property
    def share(self) -> float:
        """A fraction; 1 where there was nothing to find."""
        return self.same / self.of if self.of else 1.0

    @property
    def kept(self) -> bool:
        """Whether the share reaches :data:`MIN_SHARE`; one detection may differ where there are few."""
        return self.of - self.same <= max(1.0, (1 - MIN_SHARE) * self.of)


def compare(pairs: Iterable[tuple[Detections, Detections]]) -> Parity:
    """Compare detections of the same images.

    Args:
        pairs: What is expected and what was found, both down to scores a little below :data:`MIN_SCORE`.
    """
    same = total = 0
    for expected, found in pairs:
        wanted = expected.select(expected.scores > MIN_SCORE)
        total += len(wanted)
        if not len(wanted) or not len(found):
            continue
        overlap = rotated_iou(wanted.boxes, found.boxes)  # (N, M)
        change = np.abs(wanted.scores[:, None] - found.scores[None])
        fits = (overlap > MIN_IOU) & (change < MAX_SCORE_CHANGE) & (wanted.labels[:, None] == found.labels[None])
        same += int(fits.any(axis=1).sum())
    return Parity(same, total)
