from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.detections import Detections
from babelrs.metrics import Evaluation, GroundTruth, average_precision, evaluate, harmonic_map
from babelrs.sensors import Sensor

SQUARES = np.array([[10, 10, 8, 8, 0], [50, 50, 8, 8, 0], [90, 90, 8, 8, 0]], np.float32)


def truth(count: int = 3, ignore: tuple[int, ...] = (), sensor: Sensor = Sensor.IR) -> GroundTruth:
    """``count`` squares of class "car", those in ``ignore`` not counting."""
    flags = np.isin(np.arange(count), ignore)
    return GroundTruth(SQUARES[:count], np.zeros(count, np.int32), flags, ("car", "bus"), sensor)


def found(rows: list[int], scores: list[float], sensor: Sensor = Sensor.IR, shift: float = 0.0) -> Detections:
    """Detections of class "car" on the squares ``rows``; -1 is a false one."""
    far = np.array([[500, 500, 8, 8, 0]], np.float32)
    boxes = np.vstack([SQUARES, far])[rows] + np.array([shift, 0, 0, 0, 0], np.float32)
    return Detections(boxes, np.array(scores, np.float32), np.zeros(len(rows), np.int32), ("car", "bus"), sensor)


def ap(result: Evaluation, name: str = "car") -> float:
    return next(one.precision.ap for one in result.classes if one.name == name)


# The published rows: SAR, RGB, IR mAP and the H-mAP they give.
@pytest.mark.parametrize(
    ("sar", "rgb", "ir", "h_map"),
    [(63.30, 46.96, 51.32, 53.02), (60.64, 46.47, 48.87, 51.31), (53.46, 45.18, 44.99, 47.57)],
)
def test_h_map_reproduces_the_published_rows(sar: float, rgb: float, ir: float, h_map: float) -> None:
    per_sensor = {Sensor.SAR: sar, Sensor.RGB: rgb, Sensor.IR: ir}
    assert round(harmonic_map(per_sensor), 2) == h_map
    assert round(harmonic_map([sar, rgb, ir]), 2) == h_map


def test_published_overall_is_the_mean_over_the_union_of_classes() -> None:
    """6 SAR, 15 RGB and 5 infrared classes: the sensors' means weigh by their number of classes."""
    assert (6 * 63.30 + 15 * 46.96 + 5 * 51.32) / 26 == pytest.approx(51.57, abs=0.01)


def test_h_map_is_zero_when_a_sensor_is() -> None:
    assert harmonic_map([0.5, 0.0, 0.9]) == 0.0


@pytest.mark.parametrize("values", [[], [0.5, -0.1], [0.5, math.nan], [math.inf]])
def test_h_map_refuses_what_is_no_map(values: list[float]) -> None:
    with pytest.raises(ValueError, match="mAP"):
        harmonic_map(values)


@given(values=st.lists(st.floats(1e-6, 1), min_size=1, max_size=5))
def test_h_map_lies_between_the_worst_sensor_and_the_mean(values: list[float]) -> None:
    assert min(values) * (1 - 1e-9) <= harmonic_map(values) <= sum(values) / len(values) * (1 + 1e-9)


def test_average_precision_worked_by_hand() -> None:
    # Hit, miss, hit of two objects: precision 1 up to recall 0.5 (51 points), 2/3 up to recall 1 (50 points).
    assert average_precision([0.9, 0.8, 0.7], [True, False, True], 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # The same with a third object that is never found: recall ends at 2/3 (points 0..0.66).
    assert average_precision([0.9, 0.8, 0.7], [True, False, True], 3) == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert average_precision([0.8, 0.7, 0.9], [False, True, True], 2) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_average_precision_leaves_ignored_detections_out() -> None:
    assert average_precision([0.9, 0.8, 0.7], [True, False, True], 2, [False, True, False]) == 1


def test_average_precision_without_detections_is_zero_and_without_objects_nan() -> None:
    assert average_precision([], [], 4) == 0
    assert math.isnan(average_precision([0.3], [False], 0))


def test_average_precision_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="2 true positives for 1 objects"):
        average_precision([0.9, 0.8], [True, True], 1)
    with pytest.raises(ValueError, match=r"matched \(1,\)"):
        average_precision([0.9, 0.8], [True], 1)


def test_perfect_detections_have_precision_one() -> None:
    result = evaluate({"a": found([0, 1, 2], [0.9, 0.8, 0.7])}, {"a": truth()})
    assert (result.overall.ap50, result.overall.ap75, result.overall.ap, result.h_map) == (1, 1, 1, 1)


def test_an_object_is_found_once() -> None:
    result = evaluate({"a": found([0, 0, 1], [0.9, 0.8, 0.7])}, {"a": truth(2)})
    assert ap(result) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_overlap_counts_at_the_thresholds_it_reaches() -> None:
    # 8 px squares shifted by 1 px: IoU 7/9 = 0.778, so the first six of ten thresholds.
    result = evaluate({"a": found([0, 1, 2], [0.9, 0.8, 0.7], shift=1)}, {"a": truth()})
    assert (result.overall.ap50, result.overall.ap75) == (1, 1)
    assert result.overall.ap == pytest.approx(0.6)


def test_ignored_objects_count_neither_way() -> None:
    found_twice = {"a": found([0, 1, 1, 2], [0.9, 0.8, 0.8, 0.7])}
    assert ap(evaluate(found_twice, {"a": truth(ignore=(1,))})) == 1  # nor do detections on them, however many
    missed = {"a": found([0, 2], [0.9, 0.7])}
    assert ap(evaluate(missed, {"a": truth(ignore=(1,))})) == 1


def test_an_object_that_counts_is_preferred_to_an_ignored_one() -> None:
    both = GroundTruth(
        np.array([[10, 10, 8, 8, 0], [11, 10, 8, 8, 0]]),
        np.zeros(2, np.int32),
        np.array([True, False]),
        ("car",),
        Sensor.IR,
    )
    exactly_on_ignored = Detections(SQUARES[:1], np.ones(1, np.float32), np.zeros(1, np.int32), ("car",), Sensor.IR)
    assert evaluate({0: exactly_on_ignored}, {0: both}).overall.ap50 == 1


def test_a_class_without_objects_is_in_no_mean() -> None:
    on_bus = replace(found([0], [0.9]), labels=np.ones(1, np.int32))
    result = evaluate({"a": Detections.concatenate([found([0, 1, 2], [0.9, 0.8, 0.7]), on_bus])}, {"a": truth()})
    assert math.isnan(ap(result, "bus")) and result.overall.ap == 1
    assert result.classes[1].num_objects == 0 and result.classes[1].num_detections == 1


def test_classes_are_compared_by_name() -> None:
    swapped = replace(found([0, 1, 2], [0.9, 0.8, 0.7]), classes=("bus", "car"), labels=np.ones(3, np.int32))
    assert ap(evaluate({"a": swapped}, {"a": truth()})) == 1


def test_a_false_detection_in_an_image_without_objects_costs_precision() -> None:
    nothing = replace(truth(0), boxes=np.zeros((0, 5), np.float32))
    result = evaluate({"a": found([0, 1, 2], [0.5, 0.5, 0.5]), "b": found([-1], [0.9])}, {"a": truth(), "b": nothing})
    assert ap(result) == pytest.approx(0.75)


def test_h_map_and_overall_over_sensors() -> None:
    truths = {"i": truth(), "s": truth(sensor=Sensor.SAR)}
    both = {"i": found([0, 1, 2], [0.9] * 3), "s": found([0, 1, 2], [0.9] * 3, Sensor.SAR, shift=1)}
    result = evaluate(both, truths)
    assert result.sensors[Sensor.IR].ap == 1 and result.sensors[Sensor.SAR].ap == pytest.approx(0.6)
    assert result.overall.ap == pytest.approx(0.8) and result.h_map == pytest.approx(2 / (1 + 1 / 0.6))
    assert evaluate({"i": both["i"]}, truths).h_map == 0  # a sensor that finds nothing


def test_no_ground_truth_at_all_is_nan_and_null_in_json() -> None:
    result = evaluate({}, {"a": truth(3, ignore=(0, 1, 2))})
    assert math.isnan(result.h_map) and json.loads(json.dumps(result.to_dict(), allow_nan=False))["h_map"] is None
    assert "-" in result.format_table()


def test_to_dict_holds_every_class_and_sensor() -> None:
    values = json.loads(json.dumps(evaluate({"a": found([0], [0.9])}, {"a": truth(1)}).to_dict(), allow_nan=False))
    assert values["sensors"]["ir"]["ap50"] == 1.0 and values["sensors"]["ir"]["num_images"] == 1
    assert values["sensors"]["ir"]["classes"]["car"] == {
        "ap50": 1.0, "ap75": 1.0, "ap": 1.0, "num_objects": 1, "num_detections": 1,
    }  # fmt: skip
    assert values["sensors"]["ir"]["classes"]["bus"]["ap"] is None


def test_table_shows_percent_per_class_and_the_means() -> None:
    table = evaluate({"a": found([0, 1, 2], [0.9] * 3, shift=1)}, {"a": truth()}).format_table()
    rows = [line.split() for line in table.splitlines()]
    assert ["ir", "car", "100.00", "100.00", "60.00", "3", "3"] in rows
    assert ["ir", "bus", "-", "-", "-", "0", "0"] in rows
    assert rows[-1] == ["H-mAP", "60.00"]


@given(order=st.permutations(list(range(6))))
def test_the_order_of_images_changes_nothing(order: list[int]) -> None:
    rng = np.random.default_rng(3)
    scores = np.round(rng.random((6, 4)), 1).tolist()
    rows = rng.integers(-1, 3, (6, 4)).tolist()
    truths = {image: truth(1 + image % 3) for image in range(6)}
    detections = {image: found(rows[image], scores[image]) for image in range(6)}
    permuted = evaluate({i: detections[i] for i in order}, {i: truths[i] for i in reversed(order)})
    assert permuted.to_dict() == evaluate(detections, truths).to_dict()


def test_detections_that_fit_no_image_are_refused() -> None:
    with pytest.raises(ValueError, match="1 images without ground truth, such as 'b'"):
        evaluate({"b": found([0], [0.9])}, {"a": truth()})
    with pytest.raises(ValueError, match="image 'a': detections are sar, the ground truth is ir"):
        evaluate({"a": found([0], [0.9], Sensor.SAR)}, {"a": truth()})


def test_ground_truth_of_disagreeing_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ignore \(2,\)"):
        GroundTruth(SQUARES, np.zeros(3, np.int32), np.zeros(2, bool), ("car",), Sensor.IR)
    with pytest.raises(ValueError, match="labels span"):
        GroundTruth(SQUARES, np.full(3, 7, np.int32), np.zeros(3, bool), ("car",), Sensor.IR)
