"""``python -m benchmarks.engines`` without a GPU: it says so and writes nothing; on a fake one, what it saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from babelrs.bundle import Bundle
from babelrs.errors import run_command
from benchmarks import engines
from runtime.engines import choice, tensorrt_api, trial
from tests.runtime.engines.fakes import FakeTensorRT
from tests.runtime.toy_bundle import write_toy_bundle


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    return write_toy_bundle(tmp_path / "toy")


def test_without_a_gpu_nothing_is_written(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runtime.engines.cuda_driver.LIBRARY", "libcuda-none.so")
    monkeypatch.setattr(tensorrt_api, "find_tensorrt", lambda name="auto": FakeTensorRT().api())
    out = tmp_path / "engines.json"
    assert run_command(engines.main, ["--bundle", str(toy.folder), "--out", str(out)]) == 3
    assert "No GPU" in capsys.readouterr().err and not out.exists()


def test_every_way_to_run_has_its_row(
    toy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeTensorRT()
    monkeypatch.setattr(tensorrt_api, "find_tensorrt", lambda name="auto": fake.api())
    monkeypatch.setattr(choice, "find_tensorrt", lambda name="auto": fake.api())
    monkeypatch.setattr("runtime.engines.cuda.open_cuda", lambda: fake.cuda)
    monkeypatch.setattr(choice, "open_cuda", lambda: fake.cuda)
    monkeypatch.setattr(trial, "RUNS", 2)
    monkeypatch.setattr(engines, "WARM_UP", 1)
    out = tmp_path / "engines.json"
    assert run_command(engines.main, ["--bundle", str(toy.folder), "--out", str(out), "--runs", "3"]) == 0
    record = json.loads(out.read_text())
    assert record["gpu"]["name"] == "Orin" and record["tensorrt"]["version"] == "10.3.0.30"
    ways = {(row["sensor"], row["engine"].split()[0], row["launch"], row["batch"]) for row in record["rows"]}
    expected = {(name, "tensorrt", how, batch) for name in ("ir", "rgb", "sar") for how in ("graph", "stream")
                for batch in (1, 4)}  # fmt: skip
    expected |= {(name, "onnxruntime", "-", batch) for name in ("ir", "rgb", "sar") for batch in (1, 4)}
    assert ways == expected and all(row["passed"] for row in record["rows"])
    for row in record["rows"]:
        for times in row["stages"].values():
            assert 0 < times["least_ms"] <= times["median_ms"] <= times["p95_ms"]
    assert capsys.readouterr().out.count("\n") == 1 + len(expected)
