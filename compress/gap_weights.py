"""How much each sensor's distillation weighs: the more of its gap to the teacher is left, the more.

A joint student that follows the plain sum spends its capacity where the gap closes fastest. Here a sensor's share
follows what is left of its own gap, ``r_m = average gap / gap at the start``, so that the sensor that has come the
least way is pulled most: ``w_m = clip(c * r_m, least, most)`` with the one ``c`` for which the weights average to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from babelrs.sensors import Sensor
from compress.distill_config import DistillConfig

_NOTHING = 1e-9
"""A sensor without a gap still counts as this share of the widest, so that ``c`` exists."""


class GapWeights:
    """Weights of the sensors' gaps, all 1 until the start is known.

    Args:
        sensors: That the student learns.
        config: Decay and bounds.

    Attributes:
        weights: By sensor, for the next step.
        left: By sensor, which share of the gap at the start is left; 1 until the start is known.
    """

    def __init__(self, sensors: Sequence[Sensor], config: DistillConfig) -> None:
        self.config = config
        self.steps = 0
        self._average = dict.fromkeys(sensors, 0.0)
        self._start = dict.fromkeys(sensors, 0.0)
        self.weights = dict.fromkeys(sensors, 1.0)
        self.left = dict.fromkeys(sensors, 1.0)

    def update(self, gaps: Mapping[Sensor, float]) -> None:
        """Take in a step's gaps of the whole batch."""
        self.steps += 1
        starting = self.steps <= self.config.gap_start_steps
        share = 1 / self.steps if starting else 1 - self.config.gap_decay
        for sensor, average in self._average.items():
            self._average[sensor] = average + share * (gaps[sensor] - average)
        if starting:
            self._start = dict(self._average)
        self._weigh()

    def state(self) -> dict[str, Any]:
        """All that it remembers, as plain values for JSON."""
        return {"steps": self.steps, "average": _named(self._average), "start": _named(self._start)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.steps = int(state["steps"])
        self._average = {sensor: float(state["average"][sensor.value]) for sensor in self._average}
        self._start = {sensor: float(state["start"][sensor.value]) for sensor in self._start}
        self._weigh()

    def _weigh(self) -> None:
        if self.steps <= self.config.gap_start_steps:
            return
        self.left = {sensor: _share(average, self._start[sensor]) for sensor, average in self._average.items()}
        found = bounded_weights(
            list(self.left.values()), self.config.least_sensor_weight, self.config.most_sensor_weight
        )
        self.weights = dict(zip(self.left, found, strict=True))


def bounded_weights(ratios: Sequence[float], least: float, most: float) -> list[float]:
    """Weights in proportion to ``ratios`` where the bounds allow it, with a mean of 1.

    ``clip(c * ratio, least, most)`` rises with ``c`` from ``least <= 1`` to ``most >= 1``, so bisection finds the mean.

    Args:
        ratios: Finite, not negative.
        least: Least weight, above 0 and at most 1.
        most: Largest weight, at least 1.
    """
    widest = max(ratios)
    if widest <= 0:
        return [1.0] * len(ratios)
    shares = [max(ratio / widest, _NOTHING) for ratio in ratios]
    low, high = math.log(least), math.log(most / min(shares))
    for _ in range(100):
        middle = (low + high) / 2
        mean = sum(_clipped(shares, math.exp(middle), least, most)) / len(shares)
        low, high = (middle, high) if mean < 1 else (low, middle)
    return _clipped(shares, math.exp((low + high) / 2), least, most)


def _clipped(shares: Sequence[float], factor: float, least: float, most: float) -> list[float]:
    return [min(max(factor * share, least), most) for share in shares]


def _share(average: float, start: float) -> float:
    """What is left of a gap; a student that started as its teacher has all of nothing left."""
    return average / start if start > 0 else 1.0


def _named(values: Mapping[Sensor, float]) -> dict[str, float]:
    return {sensor.value: value for sensor, value in values.items()}
