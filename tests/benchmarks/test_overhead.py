"""The overhead benchmark measures the real run and the real command, and knows its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.latency import main as latency
from benchmarks.overhead import OverheadConfig, main, missed, start_s, with_ratios
from benchmarks.pipeline_run import FOLDERS, chosen_images, open_detector, prepared_batches, stage_percentiles
from runtime.summary import Summary
from tests.runtime.dots import write_dots
from tests.runtime.toy_bundle import write_toy_bundle

STAGES = ("read", "preprocess", "infer", "postprocess", "total")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("onnx", reason="the toy graphs are made with onnx")
    return write_toy_bundle(tmp_path_factory.mktemp("overhead") / "bundle")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for folder in FOLDERS.values():
        for number in range(4):
            write_dots(root / folder / f"{number}.png", 130, 64, [(30, 20, 250), (100, 40, 210)])
    return root


def row(whole_s: float, engine_s: float = 10.0, spinning_s: float = 11.0) -> dict[str, Any]:
    return {"images": 3, "tiles": 4, "whole_s": whole_s, "engine_s": engine_s, "engine_spinning_s": spinning_s}


@pytest.mark.parametrize(
    ("rows", "start", "words"),
    [
        ({"rgb": row(10.9), "ir": row(11.0)}, 1.4, []),
        ({"rgb": row(11.9), "ir": row(10.0)}, 1.4, []),  # all sensors together are what the limit is for
        ({"rgb": row(11.9), "ir": row(10.5)}, 1.4, ["all: 1.120 times"]),
        ({"rgb": row(10.9, spinning_s=9.0)}, 1.4, ["all: 1.211 times"]),  # the faster way to run the engine counts
        ({"rgb": row(10.0), "scene": row(12.0)}, 1.6, ["scene: 1.200 times", "rgb: 1.60 s"]),
    ],
)
def test_every_limit_can_be_missed(rows: dict[str, Any], start: float, words: list[str]) -> None:
    faults = missed(with_ratios(rows), {"rgb": [0.1, start, 9.0]})
    assert len(faults) == len(words) and all(word in fault for word, fault in zip(words, faults, strict=True))


def test_the_engine_alone_gets_the_batches_of_the_run(bundle: Bundle, data: Path) -> None:
    detector = open_detector(bundle, Sensor.IR, 1, 2)
    images = chosen_images(data, Sensor.IR, 3)
    assert [image.name for image in images] == ["0", "2", "3"]
    shapes = [batch.shape for batch in prepared_batches(detector, images)]
    assert shapes == [(2, 64, 96, 1)] * 3  # 130 columns are two tiles of 96


def test_percentiles_are_those_of_all_runs() -> None:
    one, other = Summary(), Summary()
    for stage in STAGES:
        one.latencies_ms[stage].extend(range(50))
        other.latencies_ms[stage].extend(range(50, 101))
    assert stage_percentiles([one, other])["infer"] == {"p50": 50, "p95": 95, "p99": 99, "max": 100}


def test_a_run_writes_what_it_measured(
    bundle: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dots(tmp_path / "scene.png", 200, 200, [(30, 20, 250)])
    counts = ["--images", "7", "--rounds", "2", "--starts", "1", "--threads", "1"]
    given = ["--data", str(data), "--bundle", str(bundle.folder), "--scene", str(tmp_path / "scene.png"), *counts]
    assert run_command(main, [*given, "--out", str(tmp_path / "o")]) in (0, 1)
    record = json.loads((tmp_path / "o.json").read_text())
    assert {name: found["images"] for name, found in record["rows"].items()} == {
        "rgb": 3, "sar": 2, "ir": 2, "scene": 1, "all": 7,
    }  # fmt: skip
    assert record["rows"]["ir"]["tiles"] == 4 and record["rows"]["scene"]["tiles"] == 16
    for found in record["rows"].values():
        assert min(found["whole_s"], found["engine_s"], found["engine_spinning_s"], found["ratio"]) > 0
    assert set(record["rows"]["rgb"]["stages_ms"]) == set(STAGES) and set(record["starts_s"]) == {"rgb", "sar", "ir"}
    assert str(tmp_path) not in json.dumps(record) and str(data) not in json.dumps(record)
    assert (tmp_path / "o.png").stat().st_size > 1000 and "first line after" in capsys.readouterr().out


def test_a_start_that_fails_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    config = OverheadConfig(data=tmp_path, bundle=bundle.folder)
    with pytest.raises(BabelRSError, match="gave nothing"):
        start_s(config, Sensor.IR, tmp_path / "none.png")


def test_latency_by_stage_is_that_of_every_sensor(
    bundle: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(data), "--bundle", str(bundle.folder), "--images", "3", "--threads", "1"]
    assert run_command(latency, [*given, "--out", str(tmp_path / "l.json")]) == 0
    stages = json.loads((tmp_path / "l.json").read_text())["stages_ms"]
    assert set(stages) == {"rgb", "sar", "ir"} and set(stages["sar"]) == set(STAGES)
    values = stages["ir"]["infer"]
    assert 0 < values["p50"] <= values["p95"] <= values["p99"] <= values["max"]
    assert capsys.readouterr().out.count("postprocess") == 3


def test_latency_wants_something_to_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(latency, ["--out", str(tmp_path / "l.json")]) == 2
    assert "--data" in capsys.readouterr().err
