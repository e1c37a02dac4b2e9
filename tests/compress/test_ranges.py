from __future__ import annotations

import numpy as np
import pytest

from babelrs.sensors import Sensor
from compress.histogram import Histogram
from compress.ranges import choose, clipped, magnitude


def uniform(low: float, high: float, count: int = 2000) -> Histogram:
    histogram = Histogram()
    histogram.add(np.linspace(low, high, count).astype(np.float32))
    return histogram


FOUND = {
    Sensor.RGB: {"trunk": uniform(-1, 8), "head rgb": uniform(-2, 2)},
    Sensor.SAR: {"trunk": uniform(-0.5, 2), "head sar": uniform(0, 5)},
}


def test_a_one_sided_activation_keeps_its_one_side() -> None:
    assert clipped(uniform(-0.25, 8.0), "max") == (-0.25, 8.0)
    assert magnitude((-0.25, 8.0)) == 8.0 and magnitude((-3.0, 1.0)) == 3.0


def test_sensors_keep_their_own_ranges() -> None:
    ranges = choose("per-sensor", FOUND, "max")
    assert ranges[Sensor.RGB]["trunk"] == (-1, 8) and ranges[Sensor.SAR]["trunk"] == (-0.5, 2)


def test_pooled_ranges_hold_all_sensors_and_leave_heads_to_their_own() -> None:
    ranges = choose("pooled", FOUND, "max")
    assert ranges[Sensor.RGB]["trunk"] == ranges[Sensor.SAR]["trunk"] == (-1, 8)
    assert ranges[Sensor.SAR]["head sar"] == (0, 5) and "head sar" not in ranges[Sensor.RGB]


def test_pooling_does_not_depend_on_how_many_values_a_sensor_brought() -> None:
    more = {**FOUND, Sensor.SAR: {"trunk": uniform(-0.5, 2, 50_000), "head sar": uniform(0, 5)}}
    few, many = (choose("pooled", found, "mse")[Sensor.RGB]["trunk"] for found in (FOUND, more))
    assert few == pytest.approx(many, rel=0.02)
