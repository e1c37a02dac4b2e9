"""The scene benchmark makes its files piece by piece, measures in a process of its own and knows its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.sensors import Sensor
from benchmarks.scene import SceneConfig, format_table, missed, plot, run
from benchmarks.scene_file import write_scene
from tests.runtime.toy_bundle import write_toy_bundle

rasterio = pytest.importorskip("rasterio", reason="the geo extra is not installed")


def row(method: str, side: int, wall_s: float, engine_s: float, peak: float) -> dict[str, Any]:
    return {
        "method": method, "side_px": side, "wall_s": wall_s, "engine_s": engine_s, "tiles": 9, "detections": 3,
        "peak_bytes": peak, "us_per_px": 1e6 * wall_s / side**2, "over_engine": wall_s / engine_s,
    }  # fmt: skip


GOOD = [row("ours", 1000, 1.0, 0.95, 3e8), row("ours", 2000, 4.2, 4.0, 3e8), row("sahi", 1000, 9.0, 1.0, 2e9)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (row("ours", 2000, 4.2, 4.0, 3e8), None),
        (row("ours", 2000, 4.2, 3.5, 3e8), "times the engine's time"),
        (row("ours", 2000, 5.0, 4.9, 3e8), "varies by 25%"),
        (row("ours", 2000, 4.2, 4.0, 1.6e9), "1.60 GB at the peak"),
    ],
)
def test_every_limit_can_be_missed(changed: dict[str, Any], words: str | None) -> None:
    faults = missed([GOOD[0], changed, GOOD[2]])
    assert (words is None) == (faults == []) and (words is None or words in faults[0])


def test_rows_are_shown(tmp_path: Path) -> None:
    assert format_table(GOOD, "why").splitlines()[-1] == "SAHI: why" and len(format_table(GOOD, None).splitlines()) == 4
    plot(GOOD, tmp_path / "scene.png")
    assert (tmp_path / "scene.png").stat().st_size > 1000


def test_a_scene_of_parts_is_georeferenced_and_has_no_seams_of_its_own(tmp_path: Path) -> None:
    parts = [np.full((3, 1024, 1024), value, np.uint8) for value in (10, 200)]
    write_scene(tmp_path / "a.tif", 1500, parts, seed=1)
    with rasterio.open(tmp_path / "a.tif") as file:
        pixels = file.read()
        assert (file.width, file.height, file.count) == (1500, 1500, 3) and file.crs.to_epsg() == 32632
        assert file.block_shapes[0] == (512, 512)
    assert set(np.unique(pixels)) <= {10, 200} and (pixels[:, :1024, :1024] == pixels[0, 0, 0]).all()


def test_a_run_in_a_process_of_its_own_reports_time_and_memory(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the toy graphs are made with onnx")
    write_toy_bundle(tmp_path / "bundle", {Sensor.RGB: (64, 64)})
    config = SceneConfig(sizes=(512,), bundle=tmp_path / "bundle", folder=tmp_path, parts=1, threads=1)
    noise = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), np.uint8)
    write_scene(tmp_path / "scene-512-1-0.tif", 512, [noise], seed=0)
    found = run(config, "ours", 512)
    assert found["tiles"] == 100 and found["detections"] > 0 and 0 < found["engine_s"] < found["wall_s"]
    assert 30e6 < found["peak_bytes"] < 600e6
    assert json.loads(json.dumps(found)) == found
