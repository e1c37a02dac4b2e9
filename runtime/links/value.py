"""What a detection is worth to somebody who cannot have them all: the rule, and what it remembers.

The rule is stated in ``docs/links.md``. It depends on what was detected before in this run, and on nothing else.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runtime.geo import Floats
from runtime.pipeline import FrameResult

SCORE_ALONE, RARITY, NOVELTY = 0.4, 0.3, 0.3
"""What the value of a certain detection consists of: what every one has, a rare class, a new place."""
FLOORS = (0.6, 0.4, 0.2, 0.0)
"""Least value of each priority; the first that is reached is the detection's."""
THUMBNAIL = len(FLOORS)
"""The priority of thumbnails, after all detections."""
PRIORITIES = (*range(THUMBNAIL), THUMBNAIL)
REACH_M, REACH_PX = 500.0, 64.0
"""From here on a place is wholly new: on Earth, and in images that do not say where they lie."""
REMEMBERED_PLACES = 20_000
HALF_LIFE = 1000
"""Detections after which a class's count weighs half."""
_HEAVY = 1e100
_EARTH_M = 6_371_008.8

Vector = tuple[float, float, float]
Cell = tuple[str, str, int, int, int]


@dataclass(frozen=True)
class Worth:
    """What a detection is worth.

    Attributes:
        priority: 0, which goes first, to 3.
        value: 0 to 1; within a priority, higher goes first.
    """

    priority: int
    value: float


def worth(score: float, share: float, distance: float) -> Worth:
    """The rule: ``score * (0.4 + 0.3 * rarity + 0.3 * novelty)``, and the priority whose floor that reaches.

    Args:
        score: 0 to 1.
        share: Of its class among the detections so far, 0 to 1; rarity is the rest.
        distance: To where its class was last reported, in reaches (:data:`REACH_M`, :data:`REACH_PX`); novelty is
            this, at most 1.
    """
    value = score * (SCORE_ALONE + RARITY * (1 - share) + NOVELTY * min(1.0, distance))
    return Worth(next(number for number, floor in enumerate(FLOORS) if value >= floor), value)


@dataclass
class Shares:
    """How common every class was of late: counts that halve every :data:`HALF_LIFE` detections."""

    _counts: dict[str, float] = field(default_factory=dict)
    _weight: float = 1.0

    def share(self, label: str) -> float:
        """The class's share of the detections so far; 0 before the first."""
        total = sum(self._counts.values())
        return self._counts.get(label, 0.0) / total if total else 0.0

    def add(self, label: str) -> None:
        """Count a detection."""
        self._weight *= 2 ** (1 / HALF_LIFE)  # the new weighs more, which is the same as the old weighing less
        self._counts[label] = self._counts.get(label, 0.0) + self._weight
        if self._weight > _HEAVY:
            self._counts = {name: count / self._weight for name, count in self._counts.items()}
            self._weight = 1.0


@dataclass
class PlacesSeen:
    """Where every class was reported: the last place in each cell of a grid, the oldest forgotten first.

    Attributes:
        most: Cells that are remembered.
    """

    most: int = REMEMBERED_PLACES
    _cells: OrderedDict[Cell, Vector] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._cells)

    def distance(self, label: str, ground: str, at: Vector) -> float:
        """Reaches to the nearest place remembered for the class, or infinity where none is within one reach.

        Args:
            label: The class.
            ground: What the coordinates refer to; places of another are not near.
            at: The place, in reaches.
        """
        nearest = math.inf
        _, _, column, row, layer = _cell(label, ground, at)
        for x, y, z in _NEIGHBOURS:
            if (seen := self._cells.get((label, ground, column + x, row + y, layer + z))) is not None:
                nearest = min(nearest, math.dist(seen, at))
        return nearest if nearest < 1 else math.inf

    def add(self, label: str, ground: str, at: Vector) -> None:
        """Remember a place."""
        cell = _cell(label, ground, at)
        self._cells[cell] = at
        self._cells.move_to_end(cell)
        while len(self._cells) > self.most:
            self._cells.popitem(last=False)


_NEIGHBOURS = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]


def _cell(label: str, ground: str, at: Vector) -> Cell:
    return label, ground, math.floor(at[0]), math.floor(at[1]), math.floor(at[2])


@dataclass
class Valuer:
    """Applies the rule to one result after another.

    Attributes:
        shares: How common every class was.
        places: Where it was.
    """

    shares: Shares = field(default_factory=Shares)
    places: PlacesSeen = field(default_factory=PlacesSeen)

    def judge(self, result: FrameResult) -> list[Worth]:
        """What each detection of a frame is worth; those of the frame do not make each other less worth."""
        found = result.detections
        labels = [found.classes[label] for label in found.labels]
        spots = list(zip(labels, *_spots(result), strict=True))
        judged = [
            worth(float(score), self.shares.share(label), self.places.distance(label, ground, at))
            for score, (label, ground, at) in zip(found.scores, spots, strict=True)
        ]
        for label, ground, at in spots:
            self.shares.add(label)
            self.places.add(label, ground, at)
        return judged


def _spots(result: FrameResult) -> tuple[list[str], list[Vector]]:
    """What the detections' coordinates refer to, and the coordinates in reaches."""
    boxes: npt.NDArray[np.float32] = result.detections.boxes
    grounds = [result.source] * len(boxes)
    at = [(float(x) / REACH_PX, float(y) / REACH_PX, 0.0) for x, y in boxes[:, :2]]
    if result.places is not None:
        for index in np.flatnonzero(result.places.known):
            grounds[index], at[index] = "earth", _on_earth(result.places.lonlat[index])
    return grounds, at


def _on_earth(corners: Floats) -> Vector:
    """The middle of ``(4, 2)`` longitudes and latitudes in reaches from the Earth's centre: no date line, no poles."""
    lon, lat = np.deg2rad(corners).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])  # (3, 4)
    x, y, z = points.mean(axis=1) * (_EARTH_M / REACH_M)
    return float(x), float(y), float(z)
