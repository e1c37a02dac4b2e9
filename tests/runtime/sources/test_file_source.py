"""Image files come in order and whole; a broken one is reported in its place."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.images import ImageError
from babelrs.sensors import Sensor
from runtime.raster import Raster
from runtime.sources.files import FileSource, find_images, whole_frame
from tests.runtime.sources.builders import HandClock, faults, take, usable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (10, 9, 1, 2):
        cv2.imwrite(str(tmp_path / f"f{number}.png"), np.full((4, 5 + number), number, np.uint16))
    (tmp_path / "f3.png").write_bytes((tmp_path / "f2.png").read_bytes()[:40])
    (tmp_path / "f4.tif").write_bytes(b"")
    (tmp_path / "f5.jpg").write_bytes((tmp_path / "f1.png").read_bytes())
    return tmp_path


def test_files_come_in_order_and_broken_ones_do_not_end_it(folder: Path) -> None:
    hand = HandClock()
    items = take(FileSource("x", Sensor.IR, find_images([str(folder)]), clock=hand.clock), 99)
    assert faults(items) == [("truncated", 2), ("empty", 3)]
    found = usable(items)
    assert [(item.sequence, item.name) for item in found] == [
        (0, "f1"),
        (1, "f2"),
        (4, "f5"),
        (5, "f9"),
        (6, "f10"),
    ]
    assert [item.raster.width for item in found] == [6, 7, 6, 14, 15]
    assert found[3].raster.read(0, 0, 14, 4).pixels.tolist() == [[9] * 14] * 4
    assert found[0].source == str(folder / "f1.png") and found[0].sensor is Sensor.IR
    assert found[0].time == "2020-09-13T12:43:20.000+00:00"


def test_a_file_that_is_gone_when_its_turn_comes_is_reported(folder: Path) -> None:
    source = FileSource("x", Sensor.IR, find_images([str(folder)]))
    (folder / "f1.png").unlink()
    first, *rest = take(source, 99)
    assert faults([first]) == [("missing", 0)] and len(rest) == 6


def test_stopping_ends_it_before_the_next_file_is_opened(folder: Path) -> None:
    opened: list[Path] = []

    def open_raster(path: Path) -> Raster:
        opened.append(path)
        return whole_frame(path)

    assert len(take(FileSource("x", Sensor.IR, find_images([str(folder)]), open_raster), 2)) == 2
    assert [path.name for path in opened] == ["f1.png", "f2.png"]


def test_a_reader_of_rasters_can_be_passed_in(folder: Path) -> None:
    def refuse(path: Path) -> Raster:
        raise ImageError("too new", path, "a format from the future.", "Wait.")

    source = FileSource("x", Sensor.IR, find_images([str(folder / "f1.png")]), refuse)
    assert faults(list(source.captures(threading.Event()))) == [("too new", 0)]
