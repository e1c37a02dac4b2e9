"""Two live sources on one device; and the benchmark that says that neither starves can say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import BabelRSError
from benchmarks.rtsp_child import require_rtsp_server
from benchmarks.side_by_side import SideBySideConfig, missed_limits, run, table


def row(sensor: str, results: int = 100, longest_ms: float = 200.0) -> dict[str, Any]:
    return {"sensor": sensor, "results": results, "gap_ms": {"p50": 100.0, "max": longest_ms}}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("rgb"), row("ir")], []),
        ([row("rgb"), row("ir", 60)], ["ir: 60 of 160 results"]),
        ([row("rgb", longest_ms=1001), row("ir")], ["rgb: 1001 ms without a result"]),
    ],
)
def test_who_starves_is_told(rows: list[dict[str, Any]], said: list[str]) -> None:
    assert missed_limits(rows) == said


def test_two_cameras_both_get_results(tmp_path: Path) -> None:
    try:
        require_rtsp_server()
    except BabelRSError as error:
        pytest.skip(str(error))
    config = SideBySideConfig(seconds=8, side_px=160, fps=10, threads=1, out=tmp_path / "x.json")
    rows = run(config, config.sensors)
    assert [one["sensor"] for one in rows] == ["rgb", "ir"]
    assert all(one["results"] >= 5 and one["latency_ms"]["p50"] > 0 for one in rows)
    assert len(table(rows, rows).splitlines()) == 5
