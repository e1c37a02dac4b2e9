"""What stands on a command line becomes the source a user expects, or a message that lists what there is."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.sources.files import FileSource
from runtime.sources.opening import ADDRESS_FORMS, Opening, open_source, open_together, parse_source
from runtime.sources.spool import SpoolSource
from runtime.sources.supervised import SupervisedSource
from runtime.sources.video import VideoSource
from tests.runtime.sources.builders import take, usable
from tests.runtime.sources.rtsp import require_gst_launch


def png(path: Path) -> Path:
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ir=rtsp://host/x?a=b", (Sensor.IR, "rtsp://host/x?a=b")),
        ("RGB=/dev/video0", (Sensor.RGB, "/dev/video0")),
        ("sar=-", (Sensor.SAR, "-")),
        ("ir=gst:v4l2src device=/dev/video0", (Sensor.IR, "gst:v4l2src device=/dev/video0")),
        ("gst:v4l2src device=/dev/video0", (None, "gst:v4l2src device=/dev/video0")),
        ("rtsp://host/user=a_password=b", (None, "rtsp://host/user=a_password=b")),
        ("ir=scenes/a=b.png", (Sensor.IR, "scenes/a=b.png")),
        ("scenes/a=b.png", (None, "scenes/a=b.png")),
        ("gsd=0.3.tif", (None, "gsd=0.3.tif")),
        ("-", (None, "-")),
    ],
)
def test_a_sensor_may_stand_before_an_address(text: str, expected: tuple[Sensor | None, str]) -> None:
    assert parse_source(text) == expected


def test_a_file_whose_name_looks_like_a_sensor_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    png(tmp_path / "ir=1.png")
    assert parse_source("ir=1.png") == (None, "ir=1.png")
    assert parse_source("ir=2.png") == (Sensor.IR, "2.png")


@pytest.mark.parametrize("text", ["lidar=rtsp://host/x", "lidar=/dev/video0", "ir=", ""])
def test_wrong_sensors_and_empty_addresses_are_refused(text: str) -> None:
    with pytest.raises(BabelRSError) as caught:
        parse_source(text)
    assert ("rgb, sar, ir" if "lidar" in text else "spool:FOLDER") in str(caught.value)


def test_every_form_becomes_its_source(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos and streams are read with PyAV, the video extra")
    from tests.runtime.sources.videos import noise, write_video

    png(tmp_path / "a.png")
    video = write_video(tmp_path / "v.mkv", noise(2, 16, 16), "gray")
    (tmp_path / "in").mkdir()
    for address, kind in (
        (tmp_path / "a.png", FileSource),
        (f"{tmp_path}/*.png", FileSource),
        (tmp_path, FileSource),
        (video, VideoSource),
        (f"{tmp_path}/*.mkv", VideoSource),
        (f"spool:{tmp_path}/in", SpoolSource),
        ("/dev/video7?fps=5", SupervisedSource),
        ("rtsp://host/x", SupervisedSource),
        ("udp://@:5000", SupervisedSource),
    ):
        source = open_source(str(address), Sensor.IR, Opening())
        assert type(source) is kind and source.sensor is Sensor.IR and source.name == str(address).replace("@", "***@")
        assert source.live == (kind is SupervisedSource) and source.dropped == 0
        source.close()


def test_a_pipeline_becomes_a_live_source() -> None:
    require_gst_launch()
    assert open_source("gst:videotestsrc", Sensor.RGB, Opening()).live


def test_content_says_what_a_file_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("av", reason="videos are read with PyAV, the video extra")
    from tests.runtime.sources.videos import noise, write_video

    png(tmp_path / "a.png").rename(tmp_path / "image.mp4")
    write_video(tmp_path / "v.mkv", noise(2, 16, 16), "gray").rename(tmp_path / "video.png")
    assert isinstance(open_source(str(tmp_path / "image.mp4"), Sensor.IR, Opening()), FileSource)
    assert isinstance(open_source(str(tmp_path / "video.png"), Sensor.IR, Opening()), VideoSource)
    png(tmp_path / "b.png")
    with caplog.at_level(logging.WARNING):
        open_source(str(tmp_path), Sensor.IR, Opening())
    assert "1 videos beside the images are left out" in caplog.text


def test_names_are_unique_across_the_sources_of_a_run(tmp_path: Path) -> None:
    opening = Opening()
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        png(tmp_path / folder / "x.png")
        names += [item.name for item in usable(take(open_source(str(tmp_path / folder), Sensor.IR, opening), 9))]
    assert names == ["x", "x-2"]


def test_a_file_of_two_sources_comes_once_and_where_it_was_named_first(tmp_path: Path) -> None:
    a, b = png(tmp_path / "a.png"), png(tmp_path / "b.png")
    named = [(Sensor.IR, str(b)), (Sensor.RGB, str(a)), (Sensor.IR, str(tmp_path / "*.png"))]
    rgb, ir = open_together(named, Opening())
    assert isinstance(rgb, FileSource) and isinstance(ir, FileSource)
    assert [image.path for image in ir.images] == [b, a] and [image.path for image in rgb.images] == [a]


def test_standard_input_is_one_source() -> None:
    with pytest.raises(BabelRSError, match="name it once"):
        open_together([(Sensor.IR, "-"), (Sensor.RGB, "-")], Opening())


@pytest.mark.parametrize("form", ["{}", "ir={}", "spool:{}", "foo://{}"])
def test_a_name_that_the_system_cannot_take_is_an_error_of_the_user(form: str) -> None:
    pipeline = form.format("nvarguscamerasrc ! queue " * 20)  # somebody left out gst:
    with pytest.raises(BabelRSError, match="gst:PIPELINE"):
        open_together([(Sensor.IR, parse_source(pipeline)[1])], Opening())


@pytest.mark.parametrize("address", ["gopher://user:secret@host/x", "ftp://user:secret@host/a.tif"])
def test_an_unknown_kind_is_answered_with_those_there_are(address: str) -> None:
    with pytest.raises(BabelRSError) as caught:
        open_source(address, Sensor.RGB, Opening())
    assert ADDRESS_FORMS in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("none.png", ["none.png", "no such file"]),
        ("*.tif", ["no image file matches"]),
        ("spool:none", ["none", "no such folder"]),
        ("http://host/clips/a.mp4?key=secret", ["a file, not a live stream", "Download"]),
        ("/dev/video0?speed=9", ["unknown setting speed"]),
    ],
)
def test_what_cannot_be_opened_is_explained_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BabelRSError) as caught:
        open_source(address, Sensor.RGB, Opening())
    assert all(word in str(caught.value) for word in words) and "secret" not in str(caught.value)


def test_importing_sources_loads_no_decoder(repository: Path) -> None:
    code = "import sys, runtime.sources.opening; sys.exit(','.join({'av', 'cv2', 'rasterio'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
