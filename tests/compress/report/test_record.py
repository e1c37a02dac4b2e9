"""What report.json holds is what was measured, and the same bytes every time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.detections import Detections
from babelrs.errors import BabelRSError
from babelrs.metrics import GroundTruth, evaluate
from babelrs.sensors import Sensor
from compress.report.record import CalibratorResult, Limit, Report, Row, Sensitivity
from tests.compress.report.builders import sample_report, sample_row


def test_a_report_comes_back_from_its_json_as_it_was() -> None:
    report = sample_report()
    assert Report.from_dict(json.loads(report.to_json())) == report


def test_equal_reports_have_equal_bytes_whatever_the_order_of_their_mappings() -> None:
    report = sample_report()
    rows = tuple(
        replace(row, sensors={sensor: row.sensors[sensor] for sensor in reversed(Sensor)}) for row in report.rows
    )
    assert replace(report, rows=rows).to_json() == report.to_json()
    assert replace(report, seed=4).to_json() != report.to_json()


def test_numpy_numbers_are_written_as_numbers() -> None:
    row = sample_row("mixed", size_bytes=np.int64(7), latency_ms={Sensor.SAR: np.float32(0.5)})
    values = json.loads(sample_report(rows=(row,)).to_json())["rows"][0]
    assert values["size_bytes"] == 7 and values["latency_ms"] == {"sar": 0.5}


def test_of_a_path_among_the_settings_only_its_last_part_is_told() -> None:
    text = sample_report(settings={"checkpoint": Path("/home/somebody/runs/first")}).to_json()
    assert "somebody" not in text and json.loads(text)["settings"] == {"checkpoint": "first"}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    report = sample_report(limit=Limit(0.5, number, False))
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.to_json()
    with pytest.raises(BabelRSError, match=r"limit\.drop"):
        Report.from_dict(report.to_dict())


def test_every_fault_of_a_file_is_told_at_once() -> None:
    values: dict[str, Any] = sample_report().to_dict()
    values["rows"][1]["h_map"] = "high"
    values["rows"][2]["speed"] = 3
    values["parts"][0]["precision"] = "int4"
    del values["seed"]
    with pytest.raises(BabelRSError) as raised:
        Report.from_dict(values, "somewhere.json")
    message = str(raised.value)
    assert message.startswith("somewhere.json is no report (4):")
    assert all(place in message for place in ("rows.1.h_map", "rows.2.speed", "parts.0.precision", "seed"))


def test_another_schema_is_refused_by_name() -> None:
    with pytest.raises(BabelRSError, match=r"babelrs\.quantization-report/2"):
        Report.from_dict({**sample_report().to_dict(), "schema": "babelrs.quantization-report/2"})


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": (sample_row("mixed"), sample_row("mixed"))},
        {"rows": (sample_row("float32"),), "final": "mixed"},
        {"calibrators": (CalibratorResult("max"),), "chosen_calibrator": "mse"},
    ],
)
def test_contradictions_are_refused_where_they_are_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not distinct|not among"):
        sample_report(**changes)


def test_a_sensitivity_map_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of 1"):
        Sensitivity(("a", "b"), (Sensor.SAR,), ((0.1,), (0.2, 0.3)), "error")


def test_a_row_has_the_numbers_of_the_evaluation() -> None:
    boxes = np.array([[20, 20, 10, 6, 0.2], [50, 50, 12, 8, -0.4]], np.float32)
    found = Detections(boxes[:1], np.ones(1, np.float32), np.zeros(1, np.int32), ("ship",), Sensor.SAR)
    truth = GroundTruth(boxes, np.zeros(2, np.int32), np.zeros(2, bool), ("ship",), Sensor.SAR)
    row = Row.from_evaluation("per-sensor", evaluate({"a": found}, {"a": truth}), "onnxruntime")
    half = 51 / 101  # of the recalls 0, 0.01 .. 1 half is reached, with precision 1
    assert row.sensors[Sensor.SAR].ap50 == pytest.approx(half) and row.overall.ap == pytest.approx(half)
    assert row.h_map == pytest.approx(half) and row.size_bytes is None and row.latency_ms is None


def test_without_latency_nothing_else_is_lost() -> None:
    report = sample_report()
    bare = report.without_latency()
    assert all(row.latency_ms is None for row in bare.rows)
    pairs = zip(bare.rows, report.rows, strict=True)
    assert replace(bare, rows=tuple(replace(row, latency_ms=timed.latency_ms) for row, timed in pairs)) == report
