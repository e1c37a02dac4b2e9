"""The quantization experiment keeps what reports say, over draws."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.experiment import Arm
from benchmarks.quantization import format_table, record_of, summary


def report(h_map: float) -> dict[str, Any]:
    def row(name: str, lost: float) -> dict[str, Any]:
        sensors = {sensor: {"ap50": 0.5, "ap": h_map - lost, "ap75": 0.1} for sensor in ("rgb", "sar", "ir")}
        return {
            "name": name,
            "h_map": h_map - lost,
            "size_bytes": None,
            "sensors": sensors,
            "measured_by": "onnxruntime",
        }

    return {
        "rows": [row("float32", 0.0), row("per-sensor", 0.01), row("mixed", 0.002)],
        "limit": {"drop": 0.2, "max_hmap_drop": 0.5, "met": True},
        "chosen_calibrator": "max",
        "calibrators": [{"calibrator": "max", "error": 0.02}, {"calibrator": "mse", "error": 0.05}],
        "parts": [{"name": "head ir", "precision": "float16"}, {"name": "stem 1", "precision": "int8"}],
        "parity": {"ir": {"of": 4, "same": 3}},
    }


def test_a_record_holds_rows_errors_float_parts_and_parity() -> None:
    record = record_of(Arm("cpu-x86", 2), report(0.1))
    assert (record["arm"], record["seed"], record["float_parts"]) == ("cpu-x86", 2, ["head ir"])
    assert record["errors"] == {"max": 0.02, "mse": 0.05} and record["parity"]["ir"] == {"of": 4, "same": 3}
    assert record["rows"]["mixed"]["sensors"]["sar"] == {"ap50": 0.5, "ap": pytest.approx(0.098)}


def test_the_table_has_the_mean_and_the_range_over_the_draws() -> None:
    records = [record_of(Arm("cpu-x86", draw), report(h_map)) for draw, h_map in enumerate((0.1, 0.12, 0.11))]
    found = summary(records)["cpu-x86"]
    assert found["per-sensor"]["h_map"] == {
        "mean": pytest.approx(0.1), "least": pytest.approx(0.09), "greatest": pytest.approx(0.11), "draws": 3
    }  # fmt: skip
    (line,) = [line for line in format_table(summary(records)).splitlines() if line.startswith("per-sensor")]
    assert line.split()[1:4] == ["10.00", "9.00", "11.00"]
