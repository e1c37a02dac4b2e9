from __future__ import annotations

import json
import logging
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from tests.train.instruct.builders import random_rows, write_meta, write_set
from train.instruct.corpus import read_meta, warn_of_lengths
from train.instruct.rows import JsonLines

# 26 sets of the published file's shape: rates as they are written there (below 1, whole, fractional above 1), and
# sizes small enough to write. The expected counts are worked out by hand.
SHAPE: list[tuple[int, float | int, int]] = [
    (1394, 0.01, 13), (100, 1, 100), (100, 0.2, 20), (64, 1, 64), (38, 1, 38), (27, 1, 27), (223, 1, 223),
    (50, 0.2, 10), (33, 1, 33), (920, 0.03, 27), (52, 1, 52), (1126, 0.6, 675), (10, 2.5, 25), (7, 2.5, 17),
    (9, 3, 27), (100, 0.29, 29), (50, 0.58, 29), (3, 1.0, 3), (1000, 0.001, 1), (5, 0.5, 2), (40, 0.1, 4),
    (11, 1.5, 16), (12, 4, 48), (6, 0.34, 2), (8, 0.125, 1), (15, 10, 150),
]  # fmt: skip


def faults_of(path: Path) -> list[str]:
    with pytest.raises(BabelRSError) as caught:
        read_meta(path)
    assert caught.value.remedy
    return [line.strip() for line in str(caught.value).splitlines() if line.startswith("  - ")]


def test_a_file_of_the_published_shape_is_read_and_gives_the_right_counts(tmp_path: Path) -> None:
    assert len(SHAPE) == 26
    entries: dict[str, Any] = {}
    for number, (size, rate, _) in enumerate(SHAPE):
        rows = random_rows(size, number)
        more = {"data_augment": number % 2 == 0, "max_dynamic_patch": 6, "repeat_time": rate}
        entries[f"set_{number}"] = write_set(tmp_path, f"set_{number}", rows, **more)
    sets = read_meta(write_meta(tmp_path, entries))
    assert [item.name for item in sets] == list(entries)
    sizes = [len(JsonLines(item.annotation)) for item in sets]
    assert sizes == [size for size, _, _ in SHAPE] == [item.length for item in sets]
    assert [item.count(size) for item, size in zip(sets, sizes, strict=True)] == [count for _, _, count in SHAPE]
    assert {item.max_tiles for item in sets} == {6} and sets[0].data_augment and not sets[1].data_augment


@pytest.mark.parametrize(("rate", "size"), [(0.29, 100), (0.58, 50), (0.07, 100), (1.1, 10), (0.3, 10)])
def test_counts_are_exact_where_doubles_would_round_down_too_far(tmp_path: Path, rate: float, size: int) -> None:
    entry = write_set(tmp_path, "a", random_rows(1, 0), repeat_time=rate)
    count = read_meta(write_meta(tmp_path, {"a": entry}))[0].count(size)
    assert count == math.floor(Fraction(repr(rate)) * size) == round(rate * size)


def test_paths_start_from_the_files_folder_or_from_a_given_one(tmp_path: Path) -> None:
    entry = write_set(tmp_path / "data", "a", random_rows(2, 0), sensor="SAR")
    (tmp_path / "data/images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "meta.json"
    path.write_text(json.dumps({"a": entry}))
    item = read_meta(path, tmp_path / "data")[0]
    assert item.annotation.is_file() and item.root.is_dir() and item.sensor is Sensor.SAR
    assert len(faults_of(path)) == 2


def test_all_that_is_missing_or_wrong_is_listed_at_once(tmp_path: Path) -> None:
    good = write_set(tmp_path, "good", random_rows(2, 0))
    entries = {
        "good": good,
        "lost": {**good, "root": "nowhere", "annotation": "none.jsonl"},
        "odd": {**good, "reapeat_time": 2, "repeat_time": 0, "max_dynamic_patch": 0, "data_augment": "yes"},
        "bare": {"length": -1, "sensor": "sonar"},
        "text": "x",
    }
    faults = faults_of(write_meta(tmp_path, entries))  # type: ignore[arg-type]
    for part in (
        "lost: no folder", "lost: no file", "odd: unknown key 'reapeat_time'", "odd: repeat_time is 0",
        "odd: max_dynamic_patch is 0", "odd: data_augment is 'yes'", "bare: root is missing",
        "bare: annotation is missing", "bare: length is -1", "bare: Unknown sensor 'sonar'", "text: is a str",
    ):  # fmt: skip
        assert any(part in fault for fault in faults), part
    assert len(faults) == 11 and not any(fault.startswith("- good") for fault in faults)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"a": {}, "a": {}}'])
def test_a_file_that_is_no_mapping_of_sets_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "meta.json"
    path.write_text(text)
    with pytest.raises(BabelRSError, match=r"meta\.json"):
        read_meta(path)


def test_another_length_than_declared_and_an_empty_share_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = write_set(tmp_path, "a", random_rows(5, 0), length=7, repeat_time=0.1)
    sets = read_meta(write_meta(tmp_path, {"a": entry}))
    with caplog.at_level(logging.WARNING):
        warn_of_lengths(sets, [5])
    assert "length 7" in caplog.text and "give none" in caplog.text
