from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.boxes import rotated_iou
from benchmarks.nms import agreement, main, missed_limits, timed_ms
from benchmarks.suppression import METHODS, SCENES, detections


@pytest.mark.parametrize("scene", SCENES)
def test_rivals_solve_the_same_problem(scene: str) -> None:
    boxes, scores = detections(scene, 600, seed=1)
    kept = {name: prepare(boxes, scores, 0.3)() for name, prepare in METHODS.items()}
    assert kept["shapely"].tolist() == kept["babelrs"].tolist()
    assert agreement(kept["opencv"], kept["babelrs"]) > 0.97  # float32 and an intersection of its own


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_repeat_by_seed_and_give_valid_detections(scene: str) -> None:
    boxes, scores = detections(scene, 500, seed=3)
    again, _ = detections(scene, 500, seed=3)
    np.testing.assert_array_equal(boxes, again)
    assert boxes.shape == (500, 5) and (boxes[:, 2:4] > 0).all() and (0 < scores).all() and (scores < 1).all()


def test_scenes_get_denser_from_sea_to_harbour() -> None:
    neighbours = {}
    for scene, objects in SCENES.items():
        boxes = objects(np.random.default_rng(0), 4_000)
        reach = np.hypot(boxes[:, 2], boxes[:, 3]) / 2
        apart = np.hypot(*(boxes[:, None, :2] - boxes[None, :, :2]).transpose(2, 0, 1))
        neighbours[scene] = int((apart < reach[:, None] + reach).sum()) / len(boxes) - 1
        overlap = rotated_iou(boxes, boxes) - np.eye(len(boxes))
        assert (overlap.max(axis=1) < 0.3).mean() > 0.9  # objects themselves hardly overlap
    assert neighbours["sea"] < neighbours["city"] < neighbours["harbour"]


def test_a_median_is_of_as_many_calls_as_the_budget_allows() -> None:
    assert timed_ms(lambda: 7, 5, 10)[1:] == (5, 7)
    assert timed_ms(lambda: sum(range(100_000)), 5, 1e-9)[1] == 1


def _row(scene: str, boxes: int, own: float, opencv: float | None, shapely: float | None) -> dict[str, Any]:
    return {"scene": scene, "boxes": boxes, "ms": {"babelrs": own, "opencv": opencv, "shapely": shapely}}


@pytest.mark.parametrize(
    ("row", "errors", "said"),
    [
        (_row("sea", 2_000, 1, 20, 20), {"thin": 1e-6}, []),
        (_row("sea", 2_000, 1, 19, 20), {}, ["opencv"]),
        (_row("sea", 1_000, 1, 2, 2), {}, []),
        (_row("sea", 10_000, 21, None, None), {}, []),
        (_row("harbour", 10_000, 21, None, None), {}, ["21.0 ms"]),
        (_row("sea", 100, 1, 1, 1), {"thin": 2e-6}, ["thin"]),
    ],
)
def test_missed_limits_are_named(row: dict[str, Any], errors: dict[str, float], said: list[str]) -> None:
    missed = missed_limits([row], errors)
    assert len(missed) == len(said) and all(word in line for word, line in zip(said, missed, strict=True))


def test_the_command_writes_table_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--counts", "10", "30", "--repeats", "1", "--pairs", "5", "--limit-s", "1e-9"]
    assert main([*settings, "--out", str(tmp_path / "new" / "nms")]) == 0
    record = json.loads((tmp_path / "new" / "nms.json").read_text())
    assert [row["boxes"] for row in record["rows"]] == [10, 30] * 3 and record["missed_limits"] == []
    assert all(row["ms"]["opencv"] is None for row in record["rows"][1::2])  # over the limit of time: left out
    assert (tmp_path / "new" / "nms.png").read_bytes()[:4] == b"\x89PNG"
    assert "harbour" in capsys.readouterr().out
