"""The cost of the checks is that of a real run with them and without, and its limit can be missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from babelrs.bundle import Bundle
from babelrs.errors import run_command
from benchmarks import defences
from benchmarks.defences import costs, main, openings
from benchmarks.pipeline_run import FOLDERS
from runtime.integrity.guarded import GuardedEngine
from tests.runtime.dots import write_dots
from tests.runtime.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("onnx", reason="the toy graphs are made with onnx")
    return write_toy_bundle(tmp_path_factory.mktemp("defences") / "bundle")


def test_on_is_the_watched_engine_of_the_command_and_off_the_plain_one(bundle: Bundle) -> None:
    sensor = next(iter(bundle.manifest.sensors))
    on, off = (opening(bundle, sensor) for opening in openings(1).values())
    assert isinstance(on, GuardedEngine) and on.watched_bytes > 0 and not isinstance(off, GuardedEngine)


def test_the_cost_is_the_share_of_the_time_with_the_checks() -> None:
    found = costs({"on": [2.0, 1.25, 9.0], "off": [1.0, 1.0, 1.5]})
    assert (found["cost"], found["least_cost"]) == (0.5, pytest.approx(0.2))


@pytest.mark.parametrize(("limit", "code"), [(1.0, 0), (-1e9, 1)])
def test_a_run_writes_every_sensor_and_says_whether_the_limit_was_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, code: int
) -> None:
    for folder in FOLDERS.values():
        write_dots(tmp_path / folder / "0.png", 96, 64, [(30, 20, 250)])
    monkeypatch.setattr(defences, "MOST_COST", limit)
    options = ["--data", str(tmp_path), "--bundle", str(bundle.folder), "--rounds", "2", "--images", "1"]
    assert run_command(main, [*options, "--out", str(tmp_path / "defences.json")]) == code
    record = json.loads((tmp_path / "defences.json").read_text())
    assert set(record["sensors"]) == {"rgb", "sar", "ir"}
    assert all(len(row["wall"]["rounds_s"]["on"]) == 2 for row in record["sensors"].values())
