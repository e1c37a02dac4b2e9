"""A source that goes on leaves out what was taken of it, without looking into it, and takes all the rest."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.sensors import Sensor
from runtime.raster import Raster
from runtime.sources import Capture, Source, Unusable
from runtime.sources.files import FileSource, find_images, whole_frame
from runtime.sources.past import Past, unlike
from runtime.sources.spool import SpoolSource, SpoolTiming
from runtime.sources.standard_input import PipedSource
from tests.runtime.dots import write_dots
from tests.runtime.sources.builders import HandClock


def past_of(items: Sequence[Capture | Unusable]) -> Past:
    past = Past()
    for item in items:
        past.add(item.key, item.stem, item.sequence, isinstance(item, Capture))
    return past


def taken(source: Source) -> list[Capture | Unusable]:
    return list(source.captures(threading.Event()))


def names(items: Sequence[Capture | Unusable]) -> list[str]:
    return [item.name for item in items if isinstance(item, Capture)]


def test_files_that_were_taken_are_not_opened_again(tmp_path: Path) -> None:
    for number in range(6):
        write_dots(tmp_path / f"{number}.png", 20, 20, [(5, 5, 200)])
    opened: list[str] = []

    def opening(path: Path) -> Raster:
        opened.append(path.stem)
        return whole_frame(path)

    source = FileSource("x", Sensor.IR, find_images([str(tmp_path)]), opening)
    all_items = taken(source)
    opened.clear()
    again = taken(source.resumed(past_of(all_items[:4])))
    assert opened == ["4", "5"] and [item.sequence for item in again] == [4, 5]


def test_a_relative_name_is_the_same_file_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dots(tmp_path / "in" / "a.png", 20, 20, [(5, 5, 200)])
    monkeypatch.chdir(tmp_path)
    past = past_of(taken(FileSource("x", Sensor.IR, find_images(["in"]))))
    monkeypatch.chdir(tmp_path / "in")
    assert not taken(FileSource("x", Sensor.IR, find_images(["."])).resumed(past))


@given(st.lists(st.sampled_from(["a", "a-2", "b", "b-2", "b-2-2"]), max_size=12))
def test_names_that_are_made_different_are_all_different(stems: list[str]) -> None:
    seen: set[str] = set()
    found = [unlike(stem, seen) for stem in stems]
    assert len(set(found)) == len(found) and seen == set(found)


def test_a_video_goes_on_behind_its_last_frame_and_files_before_it_are_not_opened(tmp_path: Path) -> None:
    from runtime.sources.video import VideoFile, VideoSource
    from tests.runtime.sources.videos import write_video

    files = []
    for name in ("a", "b", "c"):
        pictures = [np.full((32, 32), 40 * number, np.uint8) for number in range(5)]
        files.append(VideoFile(write_video(tmp_path / f"{name}.mkv", pictures, "gray"), f"{name}_"))
    source = VideoSource("x", Sensor.IR, files)
    whole = taken(source)
    for count in range(len(whole) + 1):
        (tmp_path / "a.mkv").touch()
        again = taken(source.resumed(past_of(whole[:count])))
        assert names(again) == names(whole[count:]), count
        assert [item.sequence for item in again] == list(range(count, 15))
        for one, other in zip(whole[count:], again, strict=True):
            assert isinstance(one, Capture) and isinstance(other, Capture) and one.offset_s == other.offset_s
    (tmp_path / "a.mkv").unlink()
    assert names(taken(source.resumed(past_of(whole[:7])))) == names(whole[7:])
    past = past_of(whole)
    past.is_over = True
    (tmp_path / "c.mkv").unlink()
    assert not taken(source.resumed(past)), "the last file of a run that was over was opened"


def test_a_video_that_came_since_gets_names_of_its_own(tmp_path: Path) -> None:
    from runtime.sources.opening import Opening, open_source
    from tests.runtime.sources.videos import write_video

    pictures = [np.full((32, 32), 40 * number, np.uint8) for number in range(3)]
    (tmp_path / "b").mkdir()
    write_video(tmp_path / "b" / "x.mkv", pictures, "gray")
    before = taken(open_source(str(tmp_path), Sensor.IR, Opening()))
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "x.mkv", pictures, "gray")
    after = taken(open_source(str(tmp_path), Sensor.IR, Opening()).resumed(past_of(before[:2])))
    assert len(after) == 4 and len({*names(before[:2]), *names(after)}) == 6
    assert names(before[2:])[0] in names(after), "a file that was begun changed its name"


def spool(folder: Path, looks: int = 4) -> SpoolSource:
    clock = HandClock(iter([lambda: None] * looks)).clock
    return SpoolSource("spool:x", Sensor.IR, "x_", folder, timing=SpoolTiming(1.0, 2.0, 8.0), clock=clock)


def test_a_spool_takes_what_is_new_or_changed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a:b.png", "c.png", "d.png"):
        write_dots(tmp_path / name, 20, 20, [(5, 5, 200)])
        os.utime(tmp_path / name, (1000, 1000))
    past = past_of(taken(spool(tmp_path)))
    assert past.num_images == 3
    os.utime(tmp_path / "c.png", (2000, 2000))
    write_dots(tmp_path / "e.png", 20, 20, [(5, 5, 200)])
    again = taken(spool(tmp_path).resumed(past))
    assert names(again) == ["x_000003_c", "x_000004_e"]


def test_standard_input_says_that_it_cannot_be_read_again(caplog: pytest.LogCaptureFixture) -> None:
    past = Past()
    past.add("", "", 6, True)
    read, write = os.pipe()
    os.write(write, b"P5 1 1 255\n\x09")
    os.close(write)
    with caplog.at_level(logging.WARNING):
        source = PipedSource("-", Sensor.IR, "stdin_", read).resumed(past)
    assert names(taken(source)) == ["stdin_000007"] and "standard input cannot be read again" in caplog.text
    os.close(read)
