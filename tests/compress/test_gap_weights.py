from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from babelrs.sensors import Sensor
from compress.distill_config import DistillConfig
from compress.gap_weights import GapWeights, bounded_weights


def gap_weights(**changes: Any) -> GapWeights:
    fields = {"gap_start_steps": 2, "gap_decay": 0.5, "least_sensor_weight": 0.25, "most_sensor_weight": 3.0}
    return GapWeights(list(Sensor), DistillConfig.model_validate({**fields, **changes}))


def gaps(rgb: float, sar: float, ir: float) -> dict[Sensor, float]:
    return {Sensor.RGB: rgb, Sensor.SAR: sar, Sensor.IR: ir}


@given(
    ratios=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 50)), min_size=1, max_size=3),
    least=st.floats(0.01, 1),
    most=st.floats(1, 10),
)
@example(ratios=[0.0, 0.0, 1.0], least=0.1, most=2.0)
@example(ratios=[1.0, 1.0, 1.0], least=1.0, most=1.0)
@example(ratios=[0.0, 0.0], least=0.5, most=2.0)
def test_weights_average_to_one_stay_in_bounds_and_follow_the_order(
    ratios: list[float], least: float, most: float
) -> None:
    weights = bounded_weights(ratios, least, most)
    assert sum(weights) / len(weights) == pytest.approx(1, abs=1e-9)
    assert all(least - 1e-12 <= weight <= most + 1e-12 for weight in weights)
    for ratio, weight in zip(ratios, weights, strict=True):
        for other, second in zip(ratios, weights, strict=True):
            assert ratio <= other or weight >= second
    assert weights[ratios.index(max(ratios))] == max(weights)


def test_weights_are_in_proportion_where_no_bound_is_met() -> None:
    assert bounded_weights([0.5, 1.0, 1.5], 0.1, 5.0) == pytest.approx([0.5, 1.0, 1.5])
    assert bounded_weights([0.2, 0.4, 0.6], 0.1, 5.0) == pytest.approx([0.5, 1.0, 1.5])


def test_what_a_bound_takes_from_one_sensor_the_others_share_in_proportion() -> None:
    assert bounded_weights([8.0, 1.0, 1.0], 0.1, 2.0) == pytest.approx([2.0, 0.5, 0.5])
    assert bounded_weights([0.0, 1.0, 2.0], 0.3, 9.0) == pytest.approx([0.3, 0.9, 1.8])


def test_averages_follow_the_recursion_and_the_sensor_that_came_least_far_weighs_most() -> None:
    found = gap_weights()
    for step, gap in enumerate([gaps(2, 10, 4), gaps(4, 10, 4)], start=1):
        found.update(gap)
        assert found.weights == gaps(1, 1, 1), f"step {step} still sets the start"
    start, average = {"rgb": 3.0, "sar": 10.0, "ir": 4.0}, {"rgb": 3.0, "sar": 10.0, "ir": 4.0}
    for gap in [gaps(1, 10, 2), gaps(1, 8, 2), gaps(1, 9, 1)]:
        found.update(gap)
        average = {name: 0.5 * average[name] + 0.5 * gap[Sensor(name)] for name in average}
    left = {name: average[name] / start[name] for name in start}
    assert {sensor.value: share for sensor, share in found.left.items()} == pytest.approx(left)
    mean = sum(left.values()) / 3
    assert [found.weights[sensor] for sensor in Sensor] == pytest.approx([left[s.value] / mean for s in Sensor])
    assert max(found.weights, key=lambda sensor: found.weights[sensor]) is Sensor.SAR, "its gap is also the widest left"


def test_the_size_of_a_gap_alone_gives_no_weight() -> None:
    found = gap_weights()
    for _ in range(5):
        found.update(gaps(0.1, 100, 3))
    assert found.weights == pytest.approx(gaps(1, 1, 1))


def test_a_sensor_without_any_gap_does_not_spoil_the_others() -> None:
    found = gap_weights()
    for gap in (gaps(0, 2, 2), gaps(0, 2, 2), gaps(0, 1, 2), gaps(0.5, 1, 2)):
        found.update(gap)
    assert sum(found.weights.values()) == pytest.approx(3) and found.weights[Sensor.IR] > found.weights[Sensor.SAR]


@pytest.mark.parametrize("before", [1, 2, 4])
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(before: int) -> None:
    course = [gaps(2.1, 9.7, 4.3), gaps(1.9, 9.1, 4.4), gaps(1.1, 9.3, 2.2), gaps(0.7, 8.9, 3.1), gaps(0.9, 7.7, 1.3)]
    whole, first, second = gap_weights(), gap_weights(), gap_weights()
    for gap in course:
        whole.update(gap)
    for gap in course[:before]:
        first.update(gap)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.weights == first.weights and second.left == first.left
    for gap in course[before:]:
        second.update(gap)
    assert second.weights == whole.weights and second.left == whole.left and second.state() == whole.state()
