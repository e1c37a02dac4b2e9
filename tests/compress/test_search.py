from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.detections import Detections
from babelrs.pool import GroundTruth
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from compress.histogram import Histogram
from compress.ranges import SensorRanges, magnitude
from compress.report.record import Row, Sensitivity
from compress.search import Found, Search, SearchPlan, first_kept, most_hurtful_first
from compress.steps import Steps
from train.evaluation.inputs import Samples, Scored

PARTS = ("stem 1", "block 1", "block 2", "pyramid", "head rgb", "head ir")
IMAGES = 40


class Simulated:
    """A model whose every INT8 part loses some of the detections of a sensor, and more with a narrow range."""

    parts = PARTS
    measured_by = "pytorch simulation"

    def __init__(self, lost: dict[str, dict[Sensor, int]]) -> None:
        self.lost = lost
        self.calls: list[str] = []

    def num_weights(self) -> dict[str, int]:
        return dict.fromkeys(PARTS, 10)

    def observe(self, images: CalibrationSet, sensor: Sensor, through: Sensor | None = None) -> dict[str, Histogram]:
        self.calls.append(f"observe {sensor} through {through}")
        histogram = Histogram()
        width = {Sensor.RGB: 4.0, Sensor.IR: 1.0}[sensor]
        histogram.add(np.append(np.linspace(-width, width, 40_000), 10 * width).astype(np.float32))
        return {"trunk": histogram, f"heads.{through or sensor}": histogram}

    def errors(self, int8_parts: Collection[str], ranges: SensorRanges) -> dict[Sensor, float]:
        self.calls.append(f"errors {sorted(int8_parts)}")
        clipped = 0.0 if magnitude(ranges[next(iter(ranges))]["trunk"]) > 9 else 0.5
        return {s: sum(self.lost[part].get(s, 0) for part in int8_parts) / 100 + clipped for s in ranges}

    def predict(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, samples: Samples) -> Scored:
        self.calls.append(f"predict {sorted(int8_parts)} {half}")
        scored = Scored()
        for sensor in (Sensor.RGB, Sensor.IR):
            lost = sum(self.lost[part].get(sensor, 0) for part in int8_parts)
            for index in range(IMAGES):
                box = np.array([[20.0, 20.0, 12.0, 6.0, 0.2]], np.float32)
                truth = GroundTruth(box, np.zeros(1, np.int32), np.zeros(1, bool), ("a",), sensor)
                seen = Detections(box, np.full(1, 0.9, np.float32), np.zeros(1, np.int32), ("a",), sensor)
                scored.truth[f"{sensor}/{index}"] = truth
                scored.found[f"{sensor}/{index}"] = seen if index >= lost else Detections.empty(("a",), sensor)
        return scored

    def write_graphs(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, folder: Path) -> None:
        raise AssertionError("a search writes no graphs")


class Quiet:
    def row(self, row: Row) -> None: ...

    def step(self, text: str, done: int, total: int) -> None: ...


def lost(**parts: dict[Sensor, int]) -> dict[str, dict[Sensor, int]]:
    named = {name.replace("_", " "): value for name, value in parts.items()}
    return {part: named.get(part, {}) for part in PARTS}


def search(model: Simulated, folder: Path, limit: float, **changes: Any) -> Found:
    plan = SearchPlan(
        **{
            "scales": "per-sensor",
            "calibrators": ("percentile", "max"),
            "max_hmap_drop": limit,
            "rows": ("float16", "naive", "pooled", "per-sensor"),
            "float_heads": True,
            **changes,
        }
    )
    images = CalibrationSet({Sensor.RGB: (), Sensor.IR: ()})
    return Search(model, images, {}, plan, Steps(folder / "s", "x"), Quiet()).run()


HURTFUL = lost(block_2={Sensor.IR: 20}, pyramid={Sensor.RGB: 4}, stem_1={Sensor.IR: 2}, head_ir={Sensor.IR: 30})


def test_the_most_hurtful_parts_go_back_until_the_limit_is_kept(tmp_path: Path) -> None:
    model = Simulated(HURTFUL)
    found = search(model, tmp_path, 4.0)
    assert found.int8_parts == ("stem 1", "block 1")  # without block 2 the loss is 7.6 points, without the pyramid 2.6
    assert 0 < found.drop <= 4.0
    assert [row.name for row in found.rows] == ["float32", "float16", "naive", "pooled", "per-sensor", "mixed"]


def test_a_model_that_loses_nothing_keeps_all_but_the_heads(tmp_path: Path) -> None:
    found = search(Simulated(lost()), tmp_path, 0.5)
    assert found.int8_parts == PARTS[:4] and found.drop == 0.0


def test_heads_may_start_in_int8_and_are_given_back_like_any_part(tmp_path: Path) -> None:
    found = search(Simulated(lost()), tmp_path / "a", 0.5, float_heads=False)
    assert found.int8_parts == PARTS
    found = search(Simulated(lost(head_ir={Sensor.IR: 20})), tmp_path / "b", 0.5, float_heads=False)
    assert found.int8_parts == tuple(part for part in PARTS if part != "head ir")


def test_what_cannot_keep_the_limit_says_how_much_is_lost(tmp_path: Path) -> None:
    class Float16Hurts(Simulated):
        def predict(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, samples: Samples) -> Scored:
            return super().predict([*int8_parts, "head ir"] if half else int8_parts, ranges, half, samples)

    found = search(Float16Hurts(lost(head_ir={Sensor.IR: 20})), tmp_path, 1.0)
    assert found.int8_parts == () and found.drop > 1.0


def test_the_calibrator_of_least_error_is_taken(tmp_path: Path) -> None:
    found = search(Simulated(HURTFUL), tmp_path, 4.0)
    assert found.calibrator == "max"
    errors = {result.calibrator: result.error for result in found.calibrators}
    assert errors["percentile"] == pytest.approx(errors["max"] + 0.5)
    assert magnitude(found.ranges[Sensor.IR]["trunk"]) == 10.0  # its own
    assert magnitude(found.pooled[Sensor.IR]["trunk"]) == 40.0  # RGB's is wider


def test_naive_calibration_sees_rgb_images_only(tmp_path: Path) -> None:
    model = Simulated(lost())
    search(model, tmp_path, 1.0)
    assert "observe rgb through ir" in model.calls and "observe ir through ir" in model.calls
    model.calls.clear()
    search(model, tmp_path / "b", 1.0, rows=())
    assert "observe rgb through ir" not in model.calls and not any("True" in call for call in model.calls[:1])


def test_sensitivity_is_of_one_part_at_a_time(tmp_path: Path) -> None:
    found = search(Simulated(HURTFUL), tmp_path, 4.0).sensitivity
    table = {
        part: dict(zip(found.sensors, row, strict=True)) for part, row in zip(found.parts, found.values, strict=True)
    }
    assert table["block 2"] == {Sensor.RGB: 0.0, Sensor.IR: 0.2}
    assert table["head ir"] == {Sensor.RGB: None, Sensor.IR: 0.3}


def test_a_killed_search_computes_nothing_twice(tmp_path: Path) -> None:
    whole = Simulated(HURTFUL)
    expected = search(whole, tmp_path / "whole", 4.0)

    class Killed(Exception):
        pass

    done: list[str] = []
    for allowed in range(0, 40, 3):
        model = Simulated(HURTFUL)

        class Counted(list[str]):
            def append(self, call: str, allowed: int = allowed) -> None:
                if len(self) >= allowed:
                    raise Killed
                super().append(call)

        model.calls = Counted()
        try:
            found = search(model, tmp_path / "killed", 4.0)
        except Killed:
            done += model.calls
            continue
        done += model.calls
        assert found == expected
        observed = [call for call in done if not call.startswith("observe")]
        assert sorted(observed) == sorted(call for call in whole.calls if not call.startswith("observe"))
        return
    raise AssertionError("the search never ended")


@given(st.integers(0, 20), st.data())
def test_bisection_finds_the_least_count(most: int, data: st.DataObject) -> None:
    least = data.draw(st.integers(0, most))
    asked: list[int] = []

    def kept(count: int) -> bool:
        asked.append(count)
        return count >= least

    assert first_kept(kept, most) == least
    assert len(set(asked)) <= 10


def test_where_nothing_keeps_the_limit_all_parts_went_back() -> None:
    assert first_kept(lambda count: False, 7) == 7


def test_parts_are_ordered_by_their_worst_sensor() -> None:
    values = ((0.1, 0.1), (0.0, 0.3), (0.2, None), (0.9, 0.9))
    found = Sensitivity(("stem 1", "block 1", "pyramid", "head ir"), (Sensor.RGB, Sensor.IR), values, "x")
    assert most_hurtful_first(found, found.parts[:3]) == ["block 1", "pyramid", "stem 1"]
