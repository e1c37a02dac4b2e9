"""A folder that is written to gives each image once, when it is whole, whatever happens to the folder."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.raster import Raster
from runtime.sources import Capture, Unusable
from runtime.sources.files import whole_frame
from runtime.sources.spool import SpoolSource, SpoolTiming
from tests.runtime.sources.builders import HandClock, faults, usable

TIMING = SpoolTiming(poll_s=1.0, settle_s=2.0, empty_s=8.0)


def png(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((8, 8), value, np.uint8))[1])


def put(path: Path, data: bytes, mtime_s: int) -> None:
    path.write_bytes(data)
    os.utime(path, (mtime_s, mtime_s))


def nothing() -> None:
    """A pause between two looks in which nothing happens."""


def run(folder: Path, *happenings: Callable[[], object], quiet: int = 4) -> list[Capture | Unusable]:
    """All captures, one happening after each look, then ``quiet`` looks more."""
    hand = HandClock(iter([*happenings, *[nothing] * quiet]))
    source = SpoolSource("spool:x", Sensor.IR, "x_", folder, timing=TIMING, clock=hand.clock)
    return list(source.captures(threading.Event()))


def values(items: list[Capture | Unusable]) -> list[int]:
    return [int(item.raster.read(0, 0, 1, 1).pixels[0, 0]) for item in usable(items)]


def test_images_come_once_in_the_order_of_writing(tmp_path: Path) -> None:
    put(tmp_path / "b.png", png(2), 200)
    put(tmp_path / "a10.png", png(4), 300)
    put(tmp_path / "a9.png", png(3), 300)
    items = run(
        tmp_path,
        lambda: put(tmp_path / "z.png", png(1), 100),
        lambda: put(tmp_path / "c.png", png(5), 400),
    )
    assert values(items) == [2, 3, 4, 1, 5]
    assert [item.sequence for item in items] == [0, 1, 2, 3, 4]
    assert len({item.name for item in usable(items)}) == 5 and usable(items)[1].name == "x_000001_a9"


def test_a_file_that_grows_is_taken_when_it_has_come_to_rest(tmp_path: Path) -> None:
    whole, path = png(7), tmp_path / "slow.png"
    steps = [lambda at=at: put(path, whole[:at], 100 + at) for at in range(10, len(whole), 10)]
    items = run(tmp_path, *steps, lambda: put(path, whole, 500))
    assert values(items) == [7] and faults(items) == []


def test_a_file_that_was_taken_too_early_is_taken_again_when_it_is_whole(tmp_path: Path) -> None:
    whole, path = png(7), tmp_path / "paused.png"
    put(path, whole[:30], 100)
    items = run(tmp_path, nothing, nothing, nothing, lambda: put(path, whole, 200))
    assert faults(items) == [("truncated", 0)] and values(items) == [7]


@pytest.mark.parametrize("first", [30, 0])
def test_a_file_that_is_finished_while_it_is_read_is_taken_once(tmp_path: Path, first: int) -> None:
    """Its writer paused for so long that it looked whole, and went on between the look at the file and its reading."""
    whole, path = png(7), tmp_path / "paused.png"
    put(path, whole[:first] or whole, 100)
    reads = []

    def open_raster(opened: Path) -> Raster:
        reads.append(opened)
        if len(reads) == 1:
            put(path, whole, 200)
        return whole_frame(opened)

    hand = HandClock(iter([nothing] * 10))
    source = SpoolSource("x", Sensor.IR, "x_", tmp_path, open_raster, TIMING, hand.clock)
    items = list(source.captures(threading.Event()))
    assert values(items) == [7] and faults(items) == [] and len(reads) == 2 and items[0].sequence == 0


def test_an_empty_file_has_more_time(tmp_path: Path) -> None:
    put(tmp_path / "opened.png", b"", 100)
    put(tmp_path / "forgotten.png", b"", 100)
    items = run(tmp_path, *[nothing] * 4, lambda: put(tmp_path / "opened.png", png(7), 200), quiet=12)
    assert values(items) == [7] and faults(items) == [("empty", 1)]


def test_unfinished_hidden_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("a.png.part", ".b.png", "c.part.png", "d.tmp.tif", "~e.png", "notes.txt", "g.PNG.TMP"):
        put(tmp_path / name, png(9), 100)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    items = run(tmp_path, nothing, nothing, nothing, lambda: (tmp_path / "a.png.part").rename(tmp_path / "a.png"))
    assert values(items) == [9] and usable(items)[0].source == str(tmp_path / "a.png")


def test_files_that_vanish_before_they_are_read_are_no_fault(tmp_path: Path) -> None:
    put(tmp_path / "a.png", png(1), 100)
    put(tmp_path / "b.png", png(2), 200)

    def open_raster(path: Path) -> Raster:
        (tmp_path / "b.png").unlink(missing_ok=True)
        return whole_frame(path)

    hand = HandClock(iter([nothing] * 6))
    source = SpoolSource("x", Sensor.IR, "x_", tmp_path, open_raster, TIMING, hand.clock)
    items = list(source.captures(threading.Event()))
    assert values(items) == [1] and faults(items) == []


def test_images_that_are_away_when_they_are_read_come_when_they_are_back(tmp_path: Path) -> None:
    folder, away = tmp_path / "in", tmp_path / "away"
    folder.mkdir()
    for number, name in enumerate("abc"):
        put(folder / f"{name}.png", png(number), 100 + number)

    def open_raster(path: Path) -> Raster:
        raster = whole_frame(path)
        if path.name == "a.png":
            folder.rename(away)
        return raster

    hand = HandClock(iter([*[nothing] * 4, lambda: away.rename(folder), *[nothing] * 4]))
    source = SpoolSource("x", Sensor.IR, "x_", folder, open_raster, TIMING, hand.clock)
    assert values(list(source.captures(threading.Event()))) == [0, 1, 2]


def test_a_folder_that_goes_and_comes_back_gives_only_what_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, away = tmp_path / "in", tmp_path / "away"
    folder.mkdir()
    put(folder / "a.png", png(1), 100)

    def back() -> None:
        away.rename(folder)
        put(folder / "b.png", png(2), 200)

    def emptied() -> None:  # a mount point whose disk is gone
        shutil.copytree(folder, away)
        for path in folder.iterdir():
            path.unlink()

    def refilled() -> None:
        shutil.rmtree(folder)
        back()

    with caplog.at_level(logging.WARNING):
        items = run(folder, *[nothing] * 3, lambda: folder.rename(away), nothing, nothing, nothing, back)
    assert values(items) == [1, 2]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "cannot be listed (No such file or directory); looking again until it is back",
        "back",
    ]
    assert values(run(folder, *[nothing] * 4, emptied, nothing, refilled)) == [1, 2]


def test_looking_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    hand = HandClock(iter([nothing] * 2))
    listed = hand.clock.monotonic

    def slow() -> float:
        hand.time += 1.0  # each question takes a second: the folder is huge
        return listed()

    clock = type(hand.clock)(slow, hand.clock.now, hand.clock.wait)
    source = SpoolSource("x", Sensor.IR, "x_", tmp_path, timing=SpoolTiming(share=0.1), clock=clock)
    assert list(source.captures(threading.Event())) == []
    assert all(wait >= 10.0 for wait in hand.waits) and len(hand.waits) == 3


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, word in (("file", "no folder but a file"), ("gone", "no such folder")):
        with pytest.raises(BabelRSError, match=word):
            SpoolSource("x", Sensor.IR, "x_", tmp_path / name)


def test_a_real_writer_and_a_real_clock(tmp_path: Path) -> None:
    source = SpoolSource("x", Sensor.IR, "x_", tmp_path, timing=SpoolTiming(poll_s=0.01, settle_s=0.1))
    stop = threading.Event()

    def write() -> None:
        for number in range(20):
            whole = png(number)
            with (tmp_path / f"{number}.png").open("wb") as file:
                file.write(whole[:20])
                file.flush()
                file.write(whole[20:])

    writer = threading.Thread(target=write)
    writer.start()
    items = []
    for item in source.captures(stop):
        items.append(item)
        if len(usable(items)) == 20:
            stop.set()
    writer.join()
    assert values(items) == list(range(20))
