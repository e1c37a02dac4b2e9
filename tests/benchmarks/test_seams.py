"""The seam benchmark counts what happened, and its limit is one that merging can miss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from babelrs.boxes import rotated_iou, to_corners
from babelrs.detections import Detections
from babelrs.seams import merge_tiles
from babelrs.sensors import Sensor
from babelrs.tiling import plan_tiles
from benchmarks.seam_objects import Verdict, by_centre, judge, perfect, place_on_seams
from benchmarks.seams import SeamsConfig, format_table, keeps_limit, main, oracle_rows, summed

SMALL = SeamsConfig(objects=150, overlaps=(0.1, 0.2, 0.3), longest=(150,), engine_objects=0)


def found(boxes: list[list[float]]) -> Detections:
    count = len(boxes)
    values = np.array(boxes, np.float32).reshape(-1, 5)
    return Detections(values, np.full(count, 0.9, np.float32), np.zeros(count, np.int32), ("object",), Sensor.RGB)


def test_a_hundred_and_fifty_objects_on_seams_are_each_reported_once_and_whole() -> None:
    rows = oracle_rows(SMALL)
    assert [(row["overlap"], row["boxes"]) for row in rows] == [
        (overlap, kind) for overlap in (0.1, 0.2, 0.3) for kind in ("visible", "whole")
    ]
    assert keeps_limit(rows) and all(row["matched"] == row["objects"] == 150 for row in rows)
    assert len(format_table(rows, []).splitlines()) == 8


def test_every_object_lies_on_an_edge_inside_the_image_and_touches_no_other() -> None:
    tiles = plan_tiles(3000, 3000, 640, 640, 0.1)
    boxes = place_on_seams(np.random.default_rng(0), tiles, 3000, 80, 100)
    corners = to_corners(boxes)
    low, high = corners.min(axis=1), corners.max(axis=1)
    edges = [edge for tile in tiles for edge in (tile.x, tile.x + tile.width) if 0 < edge < 3000]
    across = np.array([[(low[:, axis] < edge) & (edge < high[:, axis]) for edge in edges] for axis in (0, 1)])
    assert len(boxes) == 80 and across.any(axis=(0, 1)).all()
    assert (rotated_iou(boxes, boxes) - np.eye(80)).max() < 1e-6


def test_a_tile_shows_the_part_inside_it() -> None:
    tile = plan_tiles(300, 100, 100, 100, 0.1)[0]
    seen = perfect(
        tile, np.array([[90, 50, 40, 10, 0], [290, 50, 10, 5, 0]], np.float32), "visible", np.random.default_rng(0)
    )
    assert seen.boxes.tolist() == [pytest.approx([85, 50, 30, 10, 0], abs=1e-3)]


def test_objects_that_are_missed_repeated_or_cut_are_counted() -> None:
    boxes = np.array([[x, 50, 40, 10, 0] for x in (100, 200, 300, 400)], np.float32)
    reports = found([[100, 50, 40, 10, 0], [190, 50, 20, 10, 0], [300, 50, 40, 10, 0], [300, 50, 30, 10, 0]])
    assert judge(boxes, reports) == Verdict(objects=4, once=2, matched=1, missed=1, repeated=1)
    assert judge(boxes, found([])) == Verdict(4, 0, 0, 4, 0)


def test_ownership_by_centre_alone_reports_a_long_object_twice() -> None:
    """The case that joining is for: without it, the limit would be missed."""
    tiles = plan_tiles(1216, 640, 640, 640, 0.1)
    box = np.array([[608, 300, 300, 30, 0.05]], np.float32)
    rng = np.random.default_rng(0)
    parts = [(tile, perfect(tile, box, "visible", rng)) for tile in tiles]
    assert judge(box, by_centre(parts, 0.3)).repeated == 1
    assert judge(box, merge_tiles(parts, 0.3)).matched == 1


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    options = ["--objects", "20", "--overlaps", "0.2", "--longest", "64", "--engine-objects", "0"]
    assert main([*options, "--out", str(tmp_path / "seams.json")]) == 0
    record = json.loads((tmp_path / "seams.json").read_text())
    assert record["schema"] == "babelrs.seams/1" and record["oracle"][0]["matched"] == 20


@pytest.mark.parametrize("sensor", [Sensor.IR])
def test_objects_on_seams_of_a_simulated_scene_are_found_by_the_demo_bundle(sensor: Sensor) -> None:
    from dataclasses import replace

    from babelrs.bundle import open_bundle
    from benchmarks.seam_scenes import outcomes, simulated
    from runtime.cli import DEMO_BUNDLE
    from runtime.engines import open_engine
    from runtime.pipeline import Detector

    if not (DEMO_BUNDLE / "manifest.json").is_file():
        pytest.skip("no demo bundle in this checkout")
    bundle = open_bundle(DEMO_BUNDLE)
    entry = replace(bundle.manifest.entry(sensor), tile_overlap=0.1)
    detector = Detector(open_engine(bundle, sensor, threads=1), entry, sensor, entry.score_threshold)
    rng, seen = np.random.default_rng(0), []
    for image, boxes in simulated(detector, 0):
        seen += outcomes(detector, image, boxes, 0.1, rng, 6 - len(seen))
        if len(seen) == 6:
            break
    counts = summed(seen)
    assert counts["objects"] == 6 and counts["once"] >= 5
