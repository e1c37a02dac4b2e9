"""The comparison after a crash sees what is lost, repeated, altered or in another order, in every kind of output."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from babelrs.sensors import Sensor
from benchmarks.crash_outputs import Difference, compared
from benchmarks.power_loss import lose_power
from runtime.journal import Journal, read_journal
from runtime.recorder import NAME, Recorder
from runtime.sinks.csv import CsvSink
from runtime.sinks.dota import DotaSink
from runtime.sinks.jsonl import JsonLinesSink
from runtime.standing import Ended, Standing, head_of
from tests.runtime.test_sinks import BOXES, result

SAME = Difference(0, 0, 0, False)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    out = tmp_path / "whole"
    out.mkdir()
    sinks = [JsonLinesSink(out / "d.jsonl"), CsvSink(out / "d.csv"), DotaSink(out / "dota")]
    for number in range(4):
        for sink in sinks:
            sink.write(result(BOXES[:1], number))
    for sink in sinks:
        sink.close()
    return out


def lines(change: Callable[[list[str]], list[str]], path: Path) -> None:
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))


CHANGES: dict[str, tuple[Callable[[list[str]], list[str]], Difference]] = {
    "nothing": (lambda given: given, SAME),
    "lost": (lambda given: given[:-1], Difference(1, 0, 0, False)),
    "repeated": (lambda given: [*given, given[-1]], Difference(0, 1, 0, False)),
    "altered": (lambda given: [*given[:-1], given[-1].replace("0.9", "0.8")], Difference(0, 0, 1, False)),
    "in another order": (lambda given: [given[0], *given[:0:-1]], Difference(0, 0, 0, True)),
    "at another time": (lambda given: [line.replace("2026", "2027") for line in given], SAME),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("output", ["d.jsonl", "d.csv"])
def test_what_differs_in_a_file_of_lines_is_seen(name: str, output: str, whole: Path, tmp_path: Path) -> None:
    change, expected = CHANGES[name]
    shutil.copytree(whole, tmp_path / "out")
    lines(change, tmp_path / "out" / output)
    assert compared(whole, tmp_path / "out")[output] == expected


def test_what_differs_in_a_folder_of_files_is_seen(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "dota" / "0.txt").unlink()
    (tmp_path / "out" / "dota" / "1.txt").write_text("torn")
    shutil.copy(whole / "dota" / "2.txt", tmp_path / "out" / "dota" / "2-2.txt")
    assert compared(whole, tmp_path / "out")["dota/"] == Difference(1, 1, 1, False)


def test_a_loss_of_power_leaves_what_was_synced_and_no_more_of_the_journal(tmp_path: Path) -> None:
    settings = {"formats": ["jsonl"]}
    journal = Journal(tmp_path / NAME)
    journal.append(head_of(settings))
    recorder = Recorder(tmp_path, journal, Standing(settings), pause_s=3600.0)  # synced here and nowhere else
    sink = JsonLinesSink(tmp_path / "detections.ir.jsonl")
    recorder.begin({Sensor.IR: [sink]})
    (tmp_path / "dota.ir").mkdir()
    for number in range(6):
        sink.write(result(BOXES, number))
        (tmp_path / "dota.ir" / f"folder__image{number}-2.txt").write_text("sound")
        recorder.ended(Ended(0, "ir", number, number, f"in/{number}.tif", f"folder__image{number}-2", True))
        if number == 2:
            recorder.sync()
    before = (tmp_path / "detections.ir.jsonl").read_bytes().splitlines()
    torn = 0
    for seed in range(20):
        copy = tmp_path.with_name(f"{tmp_path.name}-{seed}")
        shutil.copytree(tmp_path, copy)
        assert lose_power(copy, random.Random(seed)) == (6, 3)
        found = read_journal(copy / NAME, "another")
        assert found is not None and [one["number"] for one in found.records if "number" in one] == [0, 1, 2]
        left = (copy / "detections.ir.jsonl").read_bytes().splitlines()
        assert left[:3] == before[:3] and json.loads(left[2])["frame"] == 2
        texts = [copy / "dota.ir" / f"folder__image{number}-2.txt" for number in range(6)]
        assert all(path.read_text() == "sound" for path in texts[:3])
        torn += sum(not path.exists() or path.read_text() != "sound" for path in texts[3:])
    recorder.close()
    sink.close()
    assert torn > 30
