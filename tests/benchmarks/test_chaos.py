"""Faults at random cost no image; and the benchmark that says so can say otherwise."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.chaos import ChaosConfig, flown
from benchmarks.chaos_flight import FORMATS, Camera
from benchmarks.chaos_outputs import Judged, images_with_detections, judged
from benchmarks.chaos_report import missed_promises
from benchmarks.mosquitto import mosquitto_program
from benchmarks.scene_file import simulated_parts
from runtime.cli import main as run

SOUND = Judged(0, 0, 0, 0)
OUTPUTS = ("detections.ir.jsonl", "detections.ir.csv", "detections.ir.coco.json", "dota.ir")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run leaves of four images."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "images").mkdir()
    camera = Camera(folder / "images", [simulated_parts(1, 0, Sensor.IR, 256)[0][0]], 1, 0)
    for number in range(4):
        (folder / "images" / f"frame{number}.png").write_bytes(camera.picture())
    given = ["--sensor", "ir", str(folder / "images"), "--out", str(folder / "out"), "--format", FORMATS, "--quiet"]
    assert run_command(run, [*given, "--threads", "1"]) == 0
    assert len(images_with_detections(folder / "out")) == 4
    return folder / "out"


@pytest.fixture
def other(whole: Path, tmp_path: Path) -> Path:
    """The same, as a run from a spool would have left it: under other numbers, at another time."""
    shutil.copytree(whole, tmp_path / "other")
    lines = [json.loads(line) for line in (whole / OUTPUTS[0]).read_text().splitlines()]
    for line in lines:
        line["frame"] += 7
        line["time"] = "2000-01-01T00:00:00.000+00:00"
    (tmp_path / "other" / OUTPUTS[0]).write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    for path in sorted((tmp_path / "other" / OUTPUTS[3]).iterdir()):
        path.rename(path.with_name(f"spool_000007_{path.name}"))
    return tmp_path / "other"


def test_numbers_times_and_order_are_no_difference(whole: Path, other: Path) -> None:
    assert judged(whole, other) == dict.fromkeys(OUTPUTS, SOUND)


def _edit_lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        for name in OUTPUTS[:2]:
            lines = (out / name).read_text().splitlines()
            (out / name).write_text("".join(f"{line}\n" for line in change(lines)))

    return edit


def _edit_results(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Path], None]:
    def edit(out: Path) -> None:
        path = out / OUTPUTS[2]
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return edit


def _texts(out: Path) -> list[Path]:
    return sorted((out / OUTPUTS[3]).iterdir())


FAULTY: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "lost lines": (_edit_lines(lambda lines: lines[:-1]), OUTPUTS[:2], "lost"),
    "repeated lines": (_edit_lines(lambda lines: [*lines, lines[-1]]), OUTPUTS[:2], "repeated"),
    "altered lines": (
        _edit_lines(lambda lines: [line.replace("0.4", "0.5") for line in lines]), OUTPUTS[:2], "altered",
    ),
    "strangers": (
        _edit_lines(lambda lines: [*lines, lines[-1].replace("frame", "bad")]), OUTPUTS[:2], "strangers",
    ),
    "lost results": (_edit_results(lambda found: found[:-1]), OUTPUTS[2:3], "lost"),
    "repeated results": (_edit_results(lambda found: [*found, found[-1]]), OUTPUTS[2:3], "repeated"),
    "a lost file": (lambda out: _texts(out)[0].unlink(), OUTPUTS[3:], "lost"),
    "a file written twice": (
        lambda out: _texts(out)[0].with_name("spool_000099_frame0.txt").write_text(""), OUTPUTS[3:], "repeated",
    ),
    "an altered file": (lambda out: _texts(out)[0].write_text(""), OUTPUTS[3:], "altered"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_wrong_is_told(name: str, whole: Path, other: Path) -> None:
    edit, outputs, fault = FAULTY[name]
    edit(other)
    found = judged(whole, other)
    assert {each for each in OUTPUTS if found[each] != SOUND} == set(outputs)
    assert all(getattr(found[each], fault) for each in outputs)


def record(**changes: Any) -> dict[str, Any]:
    sound = {"outputs": {"a": {"lost": 0}}, "bad_files_unsaid": 0, "images_whose_messages_are_lost": 0}
    return {**sound, "tracebacks": 0, "exit_codes": {"0": 2, "2": 3, "-9": 1}, "last_exit_code": 0, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"outputs": {"a": {"lost": 2}}}, ["a: 2 images lost"]),
        ({"bad_files_unsaid": 1}, ["1 bad files were never named"]),
        ({"images_whose_messages_are_lost": 3}, ["3 images' messages did not arrive"]),
        ({"tracebacks": 1}, ["1 tracebacks"]),
        ({"exit_codes": {"-11": 1, "0": 1}}, ["exit code -11, 1 times"]),
        ({"last_exit_code": 3}, ["the last end was 3"]),
    ],
)
def test_every_promise_can_be_missed(changes: dict[str, Any], said: list[str]) -> None:
    assert missed_promises(record(**changes)) == said


def test_faults_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValidationError, match="no such faults: rain"):
        ChaosConfig(faults=("rain",))


def test_half_a_minute_of_faults_costs_nothing(tmp_path: Path) -> None:
    try:
        mosquitto_program()
    except BabelRSError as error:
        pytest.skip(str(error))
    if os.geteuid():
        pytest.skip("a disk of its own can be mounted by root only")
    kinds = ("kill -9", "garbage", "full disk", "image in pieces")
    found = flown(ChaosConfig(minutes=0.5, every_s=1, faults=kinds), tmp_path)
    assert missed_promises(found) == []
    assert found["images"] > 10 and found["bad_files"] and found["starts"] > 2
    assert {fault["name"] for fault in found["happened"]} == set(kinds)
