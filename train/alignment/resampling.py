"""How sure the change from before to after is: intervals over images drawn anew (the basic bootstrap, Davison and
Hinkley 1997, section 5.2).

Centroids of few objects hold noise, which lowers their cosines; drawing from these few adds as much again. The basic
interval is turned about the value, ``2 * value - quantile``, so that this shift is taken away and not doubled. The
value itself may then lie near an end of it, or outside: there are too few objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.sensors import Sensor
from train.alignment.features import Objects
from train.alignment.measures import FORMS, SETS, ConceptSet, Form, PairMeasures, measure_pairs, pair_means

MEAN = "mean"
"""Stands among the pairs of sensors for their mean."""
WATCHED = ("margin", "accuracy")
SHARE = 0.95
FEWEST_DRAWS = 40
"""With fewer, nothing lies beyond an end of the interval."""

Key = tuple[str, ConceptSet, Form, str]
"""Pair, set of concepts, form of the features, and which number."""


@dataclass(frozen=True)
class Change:
    """After minus before.

    Attributes:
        value: Of all images.
        low: Lower end of the 95 % interval; NaN where fewer than :data:`FEWEST_DRAWS` draws counted.
        high: Upper end.
        draws: Resampled values that counted.
    """

    value: float
    low: float
    high: float
    draws: int


def changes(
    before: Mapping[Sensor, Objects], after: Mapping[Sensor, Objects], resamples: int, seed: int
) -> dict[Key, Change]:
    """How margins and accuracies change, with intervals.

    Each sensor's images are drawn with replacement, whole, since objects of one image are alike; the same images are
    drawn for both sides, so that what is hard about an image cancels. Draws in which a sensor loses a concept are
    not counted: they would be of fewer concepts.

    Args:
        before: Objects by sensor.
        after: The same objects.
        resamples: How often images are drawn; 0: no intervals.
        seed: Of the draws.
    """
    whole = _difference(measure_pairs(before), measure_pairs(after))
    rng = np.random.default_rng([seed, 13])
    drawn = [one for _ in range(resamples) if (one := _drawn_difference(before, after, rng)) is not None]
    return {key: _change(value, [one[key] for one in drawn]) for key, value in whole.items()}


def _drawn_difference(
    before: Mapping[Sensor, Objects], after: Mapping[Sensor, Objects], rng: np.random.Generator
) -> dict[Key, float] | None:
    """One draw's; ``None`` where a sensor loses a concept."""
    draws = {sensor: _draw(found.images, rng) for sensor, found in before.items()}
    first, second = (
        {sensor: _resampled(side[sensor], draw) for sensor, draw in draws.items()} for side in (before, after)
    )
    if any(set(first[sensor].concepts) != set(found.concepts) for sensor, found in before.items()):
        return None
    return _difference(measure_pairs(first), measure_pairs(second))


def _draw(images: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    present = np.unique(images)
    return np.asarray(rng.choice(present, len(present)))


def _resampled(objects: Objects, draw: npt.NDArray[np.int64]) -> Objects:
    """The objects of the drawn images, as often as each was drawn."""
    times = np.bincount(draw, minlength=int(objects.images.max()) + 1)[objects.images]
    rows = np.repeat(np.arange(len(objects.images)), times)
    return Objects(objects.features[rows], tuple(objects.concepts[row] for row in rows), objects.images[rows])


def _difference(before: Mapping[str, PairMeasures], after: Mapping[str, PairMeasures]) -> dict[Key, float]:
    sides = [{**pairs, MEAN: pair_means(pairs)} for pairs in (before, after)]
    keys = [(pair, concepts, form) for pair in sides[0] for concepts in SETS for form in FORMS]
    found: dict[Key, float] = {}
    for pair, concepts, form in keys:
        ours, theirs = (side[pair].closeness[concepts, form] for side in sides)
        found |= {(pair, concepts, form, name): getattr(theirs, name) - getattr(ours, name) for name in WATCHED}
    return found


def _change(value: float, drawn: list[float]) -> Change:
    finite = [one for one in drawn if math.isfinite(one)]
    if len(finite) < FEWEST_DRAWS or not math.isfinite(value):
        return Change(value, math.nan, math.nan, len(finite))
    high, low = 2 * value - np.quantile(finite, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Change(value, float(low), float(high), len(finite))
