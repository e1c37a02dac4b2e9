"""Videos give every picture in order with its counts, and what is left of a damaged file with a word about the rest."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.sources import Capture, Unusable
from runtime.sources.video import VideoFile, VideoSource
from tests.runtime.sources.builders import faults, usable
from tests.runtime.sources.videos import av, noise, write_video


def play(*paths: Path, sensor: Sensor = Sensor.RGB) -> list[Capture | Unusable]:
    files = [VideoFile(path, f"{path.stem}_") for path in paths]
    return list(VideoSource("x", sensor, files).captures(threading.Event()))


def message(item: Capture | Unusable) -> str:
    assert isinstance(item, Unusable)
    return str(item.error)


@pytest.mark.parametrize(
    ("format", "dtype", "bands", "most"),
    [
        ("gray", "uint8", 0, 255),
        ("gray16le", "uint16", 0, 65535),
        ("gray10le", "uint16", 0, 1023),
        ("rgb24", "uint8", 3, 255),
    ],
)
def test_counts_come_as_they_were_recorded(tmp_path: Path, format: str, dtype: str, bands: int, most: int) -> None:
    pictures = [picture & most for picture in noise(5, 34, 46, dtype, bands)]
    path = write_video(tmp_path / "v.mkv", pictures, format, "ffv1", "bgr0" if bands else format)
    items = play(path)
    assert faults(items) == [] and len(items) == 5
    for item, picture in zip(usable(items), pictures, strict=True):
        counts = item.raster.read(0, 0, 46, 34).pixels
        assert counts.dtype == dtype and np.array_equal(counts, picture)


def test_captures_say_which_frame_they_are_and_when(tmp_path: Path) -> None:
    dated = {"creation_time": "2024-05-01T10:00:00.000000Z"}
    write_video(tmp_path / "a.mkv", noise(3, 16, 16), "gray", metadata=dated)
    write_video(tmp_path / "b.mkv", noise(2, 16, 16), "gray")
    items = usable(play(tmp_path / "a.mkv", tmp_path / "b.mkv"))
    assert [item.sequence for item in items] == [0, 1, 2, 3, 4]
    assert [item.name for item in items] == ["a_000000", "a_000001", "a_000002", "b_000000", "b_000001"]
    assert [item.offset_s for item in items] == pytest.approx([0, 0.1, 0.2, 0, 0.1])
    assert [item.time for item in items[:3]] == [f"2024-05-01T10:00:00.{tenth}00+00:00" for tenth in range(3)]
    assert items[3].time > "2026"  # when it was read
    assert {item.source for item in items[3:]} == {str(tmp_path / "b.mkv")}


def test_gray_video_in_a_colour_format_is_one_band_for_sensors_with_one(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    write_video(tmp_path / "gray.mp4", [ramp] * 3, "gray", "libx264", "yuv420p")
    write_video(tmp_path / "colour.mp4", [np.dstack([ramp, ramp.T, 255 - ramp])] * 3, "rgb24", "libx264", "yuv420p")
    (thermal, *_) = usable(play(tmp_path / "gray.mp4", sensor=Sensor.IR))
    found = thermal.raster.read(0, 0, 64, 64).pixels
    assert found.ndim == 2 and np.abs(found.astype(int) - ramp).mean() < 3  # full range, not 16 to 235
    (colour, *_) = usable(play(tmp_path / "colour.mp4", sensor=Sensor.IR))
    assert colour.raster.read(0, 0, 64, 64).pixels.shape == (64, 64, 3)
    (visible, *_) = usable(play(tmp_path / "gray.mp4", sensor=Sensor.RGB))
    assert visible.raster.read(0, 0, 64, 64).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_file_that_was_cut_gives_what_came_before_and_says_how_much_is_missing(tmp_path: Path, kind: str) -> None:
    pictures = noise(40, 64, 64)
    options = {"movflags": "faststart"} if kind == "mp4" else {}
    path = write_video(tmp_path / f"v.{kind}", pictures, "gray", "libx264", "yuv420p", options)
    complete = usable(play(path))
    assert len(complete) == 40
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    items = play(path)
    found = usable(items)
    assert 10 < len(found) < 30
    for item, reference in zip(found, complete, strict=False):
        assert item.offset_s == reference.offset_s
        assert np.array_equal(item.raster.read(0, 0, 64, 64).pixels, reference.raster.read(0, 0, 64, 64).pixels)
    assert "truncated" in message(items[-1]) and "of 4.000 s" in message(items[-1])
    assert str(path) in message(items[-1]) and "ffmpeg" in message(items[-1])


def test_a_file_without_its_index_says_that_it_was_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", noise(20, 64, 64), "gray", "libx264", "yuv420p")
    path.write_bytes(path.read_bytes()[:-200])
    (item,) = play(path)
    assert "index is missing" in message(item)


def test_damaged_pictures_are_reported_and_the_others_come(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", noise(40, 64, 64), "gray", "libx264", "yuv420p")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(data)
    items = play(path)
    assert {cause for cause, _ in faults(items)} == {"damaged"}
    assert len(usable(items)) >= 20
    assert [item.sequence for item in items] == list(range(len(items)))


def test_what_is_no_video_is_reported_and_the_next_file_comes(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mkv", noise(2, 16, 16), "gray")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(2).bytes(50_000))
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    names = ("empty.mp4", "noise.mp4", "text.mp4", "folder.mp4", "sound.mkv", "gone.mp4")
    items = play(*(tmp_path / name for name in names), good)
    assert faults(items) == [
        ("empty", 0),
        ("undecodable", 1),
        ("undecodable", 2),
        ("undecodable", 3),
        ("format", 4),
        ("missing", 5),
    ]
    assert [item.sequence for item in usable(items)] == [6, 7]
    assert "holds audio" in message(items[4])
    for item, name in zip(items, names, strict=False):
        assert str(tmp_path / name) in message(item) and message(item).endswith(".")


def test_pictures_may_change_their_size_in_the_middle(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.ts", noise(6, 64, 96), "gray", "libx264", "yuv420p", container_format="mpegts")
    large = write_video(tmp_path / "b.ts", noise(6, 128, 160), "gray", "libx264", "yuv420p", container_format="mpegts")
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    sizes = [(item.raster.width, item.raster.height) for item in usable(play(tmp_path / "c.ts"))]
    assert sizes == [(96, 64)] * 6 + [(160, 128)] * 6


def test_stopping_ends_it_within_a_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", noise(9, 16, 16), "gray")
    stop, count = threading.Event(), 0
    for _ in VideoSource("x", Sensor.IR, [VideoFile(path, "v_")]).captures(stop):
        count += 1
        stop.set()
    assert count == 1


def test_a_colon_in_the_name_is_no_protocol(tmp_path: Path) -> None:
    path = write_video(tmp_path / "concat:a.mkv", noise(2, 16, 16), "gray")
    assert len(usable(play(path))) == 2


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BabelRSError, match=r"pip install 'babelrs\[video\]'"):
        VideoSource("x", Sensor.RGB, [])
