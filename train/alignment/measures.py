"""How near the same concept lies across sensors: cosines of centroids, and whose centroid is nearest.

All numbers are of pairs of sensors and in float64. A concept's centroid at a sensor is the plain mean of its objects'
features there. Two sets of concepts are measured: ``shared``, those that both sensors of the pair have, and ``all``,
every concept of either. Two forms of the features: ``raw``, as they are, and ``centred``, each sensor's mean
subtracted, which takes away what merely tells the sensors apart (the modality gap, Liang et al. 2022). A sensor's mean
is that of its centroids over the set's concepts: each weighs alike, so that what is frequent at a sensor is no part of
the gap.

BabelRS (arXiv 2603.01758) argues that language draws the same concept of different sensors together; here is whether.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from babelrs.sensors import Sensor
from train.alignment.features import Objects

Floats = npt.NDArray[np.float64]
Form = Literal["raw", "centred"]
ConceptSet = Literal["shared", "all"]
FORMS: tuple[Form, ...] = ("raw", "centred")
SETS: tuple[ConceptSet, ...] = ("shared", "all")
ZERO = 1e-9
"""A vector this many times shorter than the features has no direction: it is rounding."""


@dataclass(frozen=True)
class Closeness:
    """One pair of sensors over a set of concepts, in one form of the features; NaN is "cannot be measured".

    Attributes:
        same: Mean over the shared concepts of the cosine of the two sensors' centroids of the concept.
        different: Mean of that cosine over all two centroids, one of each sensor, of different concepts.
        margin: ``same - different``.
        forward: The first sensor's objects among the second's centroids, by largest cosine: the share that finds its
            own concept, mean over the shared concepts (balanced accuracy). Objects of other concepts are not asked.
        backward: The second's objects among the first's centroids.
        chance_forward: What guessing gives: 1 over the second sensor's concepts in the set; NaN where nobody guesses.
        chance_backward: 1 over the first's.
    """

    same: float
    different: float
    margin: float
    forward: float
    backward: float
    chance_forward: float
    chance_backward: float

    @property
    def accuracy(self) -> float:
        """Mean of both directions that can be measured."""
        return finite_mean([self.forward, self.backward])

    @property
    def chance(self) -> float:
        """What guessing gives in these."""
        return finite_mean([self.chance_forward, self.chance_backward])


@dataclass(frozen=True)
class PairMeasures:
    """Two sensors.

    Attributes:
        concepts: By set of concepts: those of either sensor in it; in ``shared``, those that both have.
        gaps: By set of concepts: distance of the sensors' means over the mean length of a feature (mean over the
            objects of each sensor in the set, then of the two). 0: the sensors lie in one place. NaN without concepts.
        closeness: By set of concepts and form of the features.
    """

    concepts: dict[ConceptSet, tuple[str, ...]]
    gaps: dict[ConceptSet, float]
    closeness: dict[tuple[ConceptSet, Form], Closeness]


@dataclass(frozen=True)
class _Side:
    """One sensor in a pair: its K concepts in the set and, for each, centroid, objects, and their lengths' sum."""

    concepts: tuple[str, ...]
    centroids: Floats  # (K, C)
    members: tuple[npt.NDArray[np.float32], ...]  # (n, C) each
    lengths: Floats  # (K,)

    @property
    def mean(self) -> Floats:
        return np.asarray(self.centroids.mean(0))

    @property
    def length(self) -> float:
        """Mean length of an object's feature."""
        return float(self.lengths.sum()) / sum(len(one) for one in self.members)


def pair_name(first: Sensor, second: Sensor) -> str:
    """A pair as files have it, such as ``ir-rgb``."""
    return "-".join(sorted((first.value, second.value)))


def measure_pairs(objects: Mapping[Sensor, Objects]) -> dict[str, PairMeasures]:
    """Every pair of sensors, by :func:`pair_name`; the first of the pair is the first in the name."""
    sides = {sensor: _side(found) for sensor, found in objects.items()}
    return {
        pair_name(first, second): _measure(sides[first], sides[second])
        for first, second in combinations(sorted(objects), 2)
    }


def pair_means(pairs: Mapping[str, PairMeasures]) -> PairMeasures:
    """Each number's mean over the pairs in which it can be measured, NaN where none; concepts that any pair shares."""
    some = list(pairs.values())
    names = [field.name for field in fields(Closeness)]
    closeness = {
        key: Closeness(*[finite_mean([getattr(pair.closeness[key], name) for pair in some]) for name in names])
        for key in ((concepts, form) for concepts in SETS for form in FORMS)
    }
    gaps = {concepts: finite_mean([pair.gaps[concepts] for pair in some]) for concepts in SETS}
    concepts = {key: tuple(sorted({name for pair in some for name in pair.concepts[key]})) for key in SETS}
    return PairMeasures(concepts, gaps, closeness)


def finite_mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def what_cannot_be_measured(objects: Mapping[Sensor, Objects]) -> list[str]:
    """In words, what the sensors' concepts do not allow, pair by pair."""
    notes = []
    for first, second in combinations(sorted(objects), 2):
        ours, theirs = (sorted(set(objects[sensor].concepts)) for sensor in (first, second))
        shared = sorted(set(ours) & set(theirs))
        pair = pair_name(first, second)
        if not shared:
            notes.append(
                f"{pair}: no concept is shared ({first}: {', '.join(ours)}; {second}: {', '.join(theirs)}): the cosine "
                "of the same concept, margin and accuracy cannot be measured; if two names mean one, set concepts."
            )
        elif len(shared) == 1:
            notes.append(
                f"{pair}: one concept is shared ({shared[0]}): over shared concepts there is no different one, so "
                "neither margin nor accuracy, and nothing is left of it once the sensor's mean is subtracted."
            )
        elif len(shared) == 2:
            notes.append(
                f"{pair}: two concepts are shared ({', '.join(shared)}): centred over these, they are opposite by "
                "construction, so that `different` is minus `same` and accuracy nearly all or nothing."
            )
    return notes


def centroid_cosines(objects: Mapping[Sensor, Objects], form: Form) -> tuple[list[tuple[Sensor, str]], Floats]:
    """Cosines of all centroids with each other, over all concepts.

    Returns:
        Sensor and concept of each of K centroids, by concept, then sensor; and ``(K, K)``, NaN where one is zero.
    """
    keys, rows, floor = [], [], 0.0
    for sensor, found in objects.items():
        side = _side(found)
        keys += [(sensor, concept) for concept in side.concepts]
        rows.append(_formed(side.centroids, side, form))
        floor = max(floor, ZERO * side.length)
    units = _units(np.concatenate(rows), floor)
    order = sorted(range(len(keys)), key=lambda index: (keys[index][1], list(Sensor).index(keys[index][0])))
    return [keys[index] for index in order], (units @ units.T)[np.ix_(order, order)]


def to_record(pair: PairMeasures) -> dict[str, Any]:
    """A pair as JSON has it; NaN becomes null."""
    names = [*(field.name for field in fields(Closeness)), "accuracy", "chance"]
    return {
        "shared_concepts": list(pair.concepts["shared"]),
        "gap": {concepts: or_none(gap) for concepts, gap in pair.gaps.items()},
        **{
            concepts: {
                form: {name: or_none(getattr(pair.closeness[concepts, form], name)) for name in names} for form in FORMS
            }
            for concepts in SETS
        },
    }


def or_none(value: float) -> float | None:
    """NaN and infinity as JSON has them."""
    return value if math.isfinite(value) else None


def _side(objects: Objects) -> _Side:
    concepts = tuple(sorted(set(objects.concepts)))
    names = np.array(objects.concepts)
    members = tuple(objects.features[names == concept] for concept in concepts)
    centroids = np.stack([one.mean(0, dtype=np.float64) for one in members])
    squares = [np.einsum("nc,nc->n", one, one, dtype=np.float64) for one in members]
    return _Side(concepts, centroids, members, np.array([np.sqrt(one).sum() for one in squares]))


def _only(side: _Side, concepts: Sequence[str]) -> _Side:
    kept = [index for index, concept in enumerate(side.concepts) if concept in concepts]
    return _Side(
        tuple(side.concepts[index] for index in kept),
        side.centroids[kept],
        tuple(side.members[index] for index in kept),
        side.lengths[kept],
    )


def _measure(first: _Side, second: _Side) -> PairMeasures:
    shared = tuple(concept for concept in first.concepts if concept in second.concepts)
    sides: dict[ConceptSet, tuple[_Side, _Side]] = {
        "shared": (_only(first, shared), _only(second, shared)),
        "all": (first, second),
    }
    gaps = {concepts: _gap(*pair) if pair[0].concepts else math.nan for concepts, pair in sides.items()}
    either = tuple(sorted({*first.concepts, *second.concepts}))
    closeness: dict[tuple[ConceptSet, Form], Closeness] = {}
    for form in FORMS:
        one = closeness["shared", form] = _closeness(*sides["shared"], form)
        closeness["all", form] = one if shared == either else _closeness(first, second, form)
    return PairMeasures({"shared": shared, "all": either}, gaps, closeness)


def _gap(first: _Side, second: _Side) -> float:
    length = (first.length + second.length) / 2
    return float(np.linalg.norm(first.mean - second.mean)) / length if length else math.nan


def _closeness(first: _Side, second: _Side, form: Form) -> Closeness:
    if not first.concepts or not second.concepts:
        return Closeness(*[math.nan] * 7)
    floor = ZERO * max(first.length, second.length)
    ours, theirs = (_units(_formed(side.centroids, side, form), floor) for side in (first, second))
    cosines = ours @ theirs.T
    equal = np.array(first.concepts)[:, None] == np.array(second.concepts)[None]
    same, different = _mean(cosines[equal]), _mean(cosines[~equal])
    usable = bool(np.isfinite(cosines).all())  # a single concept is zero once centred, and its objects are noise
    forward, chance_forward = _accuracy(first, second, theirs, form) if usable else (math.nan, math.nan)
    backward, chance_backward = _accuracy(second, first, ours, form) if usable else (math.nan, math.nan)
    return Closeness(same, different, same - different, forward, backward, chance_forward, chance_backward)


def _accuracy(asked: _Side, known: _Side, directions: Floats, form: Form) -> tuple[float, float]:
    """Balanced accuracy of ``asked``'s objects among ``known``'s centroids, of unit ``directions``; and chance.

    An object's own length does not change which is nearest. One that is as near to all of them counts as wrong.
    """
    if len(known.concepts) < 2 or not set(asked.concepts) & set(known.concepts):
        return math.nan, math.nan
    shares = []
    for concept, members in zip(asked.concepts, asked.members, strict=True):
        if concept in known.concepts:
            scores = _formed(members.astype(np.float64), asked, form) @ directions.T  # (n, K)
            nearest = np.where(np.ptp(scores, 1) > 0, scores.argmax(1), -1)
            shares.append(float(np.mean(nearest == known.concepts.index(concept))))
    return _mean(np.array(shares)), 1 / len(known.concepts)


def _formed(rows: Floats, side: _Side, form: Form) -> Floats:
    return rows - side.mean if form == "centred" else rows


def _units(rows: Floats, floor: float) -> Floats:
    """Rows of length 1; NaN where a row's length is at most ``floor``."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.full_like(rows, math.nan), where=lengths > floor))


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
