"""Where every quantization point is clipped, for every sensor: by its own images, by all together, or by RGB alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from babelrs.sensors import Sensor
from compress.histogram import CALIBRATORS, Histogram, pooled

Range = tuple[float, float]
"""Least and greatest value that an activation keeps; ``low <= 0 <= high``."""
Ranges = dict[str, Range]
"""The range of every quantization point of one sensor, by name."""
SensorRanges = dict[Sensor, Ranges]
Histograms = Mapping[str, Histogram]
Scales = Literal["per-sensor", "pooled"]


def clipped(histogram: Histogram, calibrator: str) -> Range:
    """The range that a calibrator keeps: as far as values reach on either side, but no further than its threshold."""
    threshold = CALIBRATORS[calibrator](histogram)
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def magnitude(kept: Range) -> float:
    """The threshold of a symmetric quantizer for a range."""
    return max(-kept[0], kept[1])


def per_sensor(histograms: Mapping[Sensor, Histograms], calibrator: str) -> SensorRanges:
    """Every sensor's ranges from its own images."""
    return {
        sensor: {name: clipped(histogram, calibrator) for name, histogram in found.items()}
        for sensor, found in histograms.items()
    }


def pooled_ranges(histograms: Mapping[Sensor, Histograms], calibrator: str) -> SensorRanges:
    """One set of ranges for all sensors, from their images together, each sensor weighing the same.

    Points that only some sensors pass (heads) are pooled over these.
    """
    names = dict.fromkeys(name for found in histograms.values() for name in found)
    joint = {name: pooled([found[name] for found in histograms.values() if name in found]) for name in names}
    shared = {name: clipped(histogram, calibrator) for name, histogram in joint.items()}
    return {sensor: {name: shared[name] for name in found} for sensor, found in histograms.items()}


def choose(scales: Scales, histograms: Mapping[Sensor, Histograms], calibrator: str) -> SensorRanges:
    """The ranges of a way to set scales."""
    return (per_sensor if scales == "per-sensor" else pooled_ranges)(histograms, calibrator)
