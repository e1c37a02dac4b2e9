"""The cost of the checks is that of a real run with them and without, and its limit can be missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks import defences
from benchmarks.attended_run import attended_s
from benchmarks.defences import costs, main, openings
from benchmarks.mosquitto import Mosquitto
from benchmarks.pipeline_run import FOLDERS
from runtime.integrity.guarded import GuardedEngine
from runtime.pipeline import Detector
from runtime.sources.files import find_images
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


def test_an_attended_run_is_watched_and_sends_what_it_finds(bundle: Bundle, tmp_path: Path, capfd: Any) -> None:
    broker = Mosquitto(tmp_path, {"allow_anonymous": "true", "log_type": "all"})
    try:
        broker.start()
    except BabelRSError as error:
        pytest.skip(str(error))
    images = [write_dots(tmp_path / f"{number}.png", 96, 64, [(30, 20, 250)]) for number in range(3)]
    entry = bundle.manifest.entry(Sensor.IR)
    detector = Detector(openings(1)["on"](bundle, Sensor.IR), entry, Sensor.IR, entry.score_threshold, 1)
    try:
        _, summary = attended_s(detector, find_images([str(tmp_path / "*.png")]), broker.port)
    finally:
        broker.stop()
    assert summary.num_images == len(images) and sum(summary.detections.values()) >= len(images)
    said = (tmp_path / "mosquitto.log").read_text()
    assert said.count("Received PUBLISH") > len(images) and "ir/detections" in said
    report = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert report["schema"] == "babelrs.health/1" and report["images"] == 3 and report["link"]["messages"] >= 3


@pytest.mark.parametrize(("limit", "code", "beside"), [(1.0, 0, "journal"), (-1e9, 1, "nothing")])
def test_a_run_writes_every_sensor_and_says_whether_the_limit_was_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, code: int, beside: str
) -> None:
    for folder in FOLDERS.values():
        write_dots(tmp_path / folder / "0.png", 96, 64, [(30, 20, 250)])
    monkeypatch.setattr(defences, "MOST_COST", limit)
    options = [
        "--data",
        str(tmp_path),
        "--bundle",
        str(bundle.folder),
        "--rounds",
        "2",
        "--images",
        "1",
        "--beside",
        beside,
    ]
    assert run_command(main, [*options, "--out", str(tmp_path / "defences.json")]) == code
    record = json.loads((tmp_path / "defences.json").read_text())
    assert set(record["sensors"]) == {"rgb", "sar", "ir"}
    assert all(len(row["wall"]["rounds_s"]["on"]) == 2 for row in record["sensors"].values())
