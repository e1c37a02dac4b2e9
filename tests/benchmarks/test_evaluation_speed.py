from __future__ import annotations

import json
from pathlib import Path

import pytest

from babelrs.errors import run_command
from benchmarks import evaluation_speed
from benchmarks.evaluation_speed import EvaluationSpeedConfig, main, measure, synthetic


def test_a_set_is_the_same_for_a_seed_and_of_the_asked_size() -> None:
    config = EvaluationSpeedConfig(classes=4)
    found, truth = synthetic(config, 300)
    again, _ = synthetic(config, 300)
    assert all((found[name].boxes == again[name].boxes).all() for name in found)
    assert sum(map(len, truth.values())) == pytest.approx(300 * 15, rel=0.3)
    assert sum(map(len, found.values())) == pytest.approx(300 * 50, rel=0.3)
    assert max(map(len, truth.values())) > 5 * 15  # crowded images are what a matching must withstand


def test_what_is_measured_is_written_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_speed, "write_plots", lambda *_: None)  # slow, and tested elsewhere
    out = tmp_path / "new" / "speed.json"
    assert run_command(main, ["--images", "5", "20", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["images"] for row in rows] == [5, 20]
    table = capsys.readouterr().out
    for stage, seconds in rows[0]["seconds"].items():
        assert stage in table and seconds >= 0
    assert rows[1]["total_s"] == pytest.approx(sum(rows[1]["seconds"].values()), abs=0.01)


def test_the_set_is_neither_trivial_nor_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_speed, "write_plots", lambda *_: None)
    row = measure(EvaluationSpeedConfig(classes=3), 60)
    assert 0.1 < row["ap"] < row["ap50"] < 0.9 and row["candidate_pairs"] > row["objects"]
