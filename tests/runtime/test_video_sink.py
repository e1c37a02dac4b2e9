"""The video can be decoded at any moment, shows what was drawn when it was taken, and never ends in half a picture."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.cli import main
from runtime.sinks import mp4
from runtime.sinks.image import annotate
from runtime.sinks.video import LONGEST_PX, Timeline, VideoSink
from tests.runtime.dots import write_dots
from tests.runtime.sources.videos import write_video
from tests.runtime.test_sinks import BOXES, result

av = pytest.importorskip("av", reason="videos are written with PyAV, the video extra")

Picture = npt.NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[2]


def decoded(video: Path | bytes) -> list[tuple[float, Picture]]:
    """Time and ``(H, W, 3)`` blue, green, red of every picture; fails on a damaged one."""
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else str(video)) as container:
        pictures = [(frame.time, frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    return pictures


def times(path: Path) -> list[float]:
    return [time_s for time_s, _ in decoded(path)]


def difference(one: Picture, other: Picture) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


@pytest.mark.parametrize("sensor", list(Sensor))
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_pictures_are_those_that_were_drawn(
    tmp_path: Path, sensor: Sensor, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    monkeypatch.setattr(mp4, "CODECS", {"no such codec": {}, codec: mp4.CODECS[codec]})
    found = [result(BOXES[:count], count, sensor=sensor) for count in range(3)]
    sink = VideoSink(tmp_path / "v.mp4")
    for one in found:
        sink.write(one)
    sink.close()
    shown = [picture for _, picture in decoded(tmp_path / "v.mp4")]
    assert len(shown) == 3
    for one, picture in zip(found, shown, strict=True):
        distances = [difference(annotate(other), picture) for other in found]
        assert np.argmin(distances) == one.frame and min(distances) < 2.0, distances
    plate = (annotate(found[1]) == (60, 220, 255)).all(axis=2)  # the first class's plate and line, yellow
    assert difference(annotate(found[1])[plate], shown[1][plate]) < 20, "colours changed"


def test_the_file_is_whole_and_has_every_picture_as_soon_as_it_is_written(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.mp4")
    for number in range(60):  # past a key picture
        assert (tmp_path / "v.mp4").exists() == (number > 0), "a file without a picture"
        sink.write(result(BOXES, number))
        if number % 7 == 1:
            assert len(decoded((tmp_path / "v.mp4").read_bytes())) == number + 1
    sink.close()
    assert times(tmp_path / "v.mp4") == pytest.approx([0.2 * number for number in range(60)])


def test_what_a_killed_process_leaves_can_be_played(tmp_path: Path) -> None:
    code = (
        "import sys, itertools\n"
        "from pathlib import Path\n"
        "from runtime.sinks.video import VideoSink\n"
        "from tests.runtime.test_sinks import BOXES, result\n"
        "sink = VideoSink(Path(sys.argv[1]))\n"
        "for number in itertools.count():\n"
        "    sink.write(result(BOXES, number))\n"
        "    print(number, flush=True)\n"
    )
    path = tmp_path / "v.mp4"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 30:
            pass
        process.send_signal(signal.SIGKILL)
        written = max([30, *map(int, process.stdout.read().split())])
    assert process.returncode == -signal.SIGKILL
    assert len(decoded(path)) >= written + 1


def test_a_full_disk_leaves_whole_pictures_only(tmp_path: Path) -> None:
    """A process that may write 40,000 bytes a file: what does not fit is an error and leaves no part of it."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from babelrs.errors import BabelRSError\n"
        "from runtime.sinks.video import VideoSink\n"
        "from tests.runtime.test_sinks import BOXES, result\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "sink = VideoSink(Path(sys.argv[1]))\n"
        "try:\n    [sink.write(result(BOXES, number)) for number in range(500)]\n"
        "except BabelRSError as error:\n    assert 'cannot be written' in str(error)\n"
        "else:\n    sys.exit('no error')\n"
        "sink.close()\n"
    )
    path = tmp_path / "v.mp4"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 0 < path.stat().st_size <= 40_000 and len(decoded(path)) > 1


def test_a_path_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").mkdir()
    with pytest.raises(BabelRSError, match=r"v\.mp4: cannot be written"):
        VideoSink(tmp_path / "v.mp4")
    sink = VideoSink(tmp_path / "gone" / "v.mp4")
    with pytest.raises(BabelRSError, match=r"v\.mp4: cannot be written"):
        sink.write(result(BOXES))
    sink.close()


def test_an_older_video_is_gone_before_the_first_picture(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text("old")
    VideoSink(tmp_path / "v.mp4").close()
    assert not (tmp_path / "v.mp4").exists()


def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BabelRSError, match=r"PyAV") as caught:
        VideoSink(tmp_path / "v.mp4")
    assert "babelrs[video]" in caught.value.remedy


def test_without_an_encoder_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "CODECS", {"no such codec": {}})
    with pytest.raises(BabelRSError, match="no encoder takes pictures of 640x480 px"):
        VideoSink(tmp_path / "v.mp4").write(result(BOXES))


@pytest.mark.parametrize(
    ("size", "shown"), [((61, 33), (244, 132)), ((1001, 777), (1002, 778)), ((1, 3000), (2, 1920)), ((3, 3), (12, 12))]
)
def test_sizes_are_even_and_within_what_decoders_take(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    sink = VideoSink(tmp_path / "v.mp4")
    sink.write(result([], size=size))
    sink.close()
    assert decoded(tmp_path / "v.mp4")[0][1].shape[:2] == shown and max(shown) <= LONGEST_PX


def test_pictures_of_another_size_are_fitted_into_the_first_with_black_around(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.mp4")
    sink.write(result(BOXES, 0, (1000, 1000)))
    for number, size in ((1, (300, 150)), (2, (2000, 4000)), (3, (1000, 1000))):
        sink.write(result([], number, size))
    sink.close()
    same, tall, wide, again = (picture for _, picture in decoded(tmp_path / "v.mp4"))
    assert same.shape == tall.shape == wide.shape == again.shape == (1000, 1000, 3)
    for picture, inside in ((tall, np.s_[10:-10, 260:740]), (wide, np.s_[260:740, 10:-10])):
        bars = np.ones(picture.shape[:2], bool)
        bars[tuple(slice(s.start - 20, s.stop + 20) if s.start > 100 else np.s_[:] for s in inside)] = False
        assert np.abs(picture[inside].astype(int) - 90).max() < 10 and picture[bars].max() < 10
    assert np.abs(again.astype(int) - 90).max() < 10


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([None, None, None], [0, 0.2, 0.4]),
        ([70.0, 70.04, 75.0], [0, 0.04, 5.0]),
        ([0.0, 1.0, 0.0, 0.5], [0, 1.0, 1.2, 1.7]),  # the second recording begins
        ([0.0, 1.0, None, 3.0], [0, 1.0, 1.2, 3.0]),
        ([None, None, 0.0, 0.5], [0, 0.2, 0.4, 0.9]),
    ],
)
def test_pictures_are_shown_when_they_were_taken(offsets: list[float | None], expected: list[float]) -> None:
    timeline = Timeline()
    assert [timeline.place(offset) for offset in offsets] == pytest.approx(expected)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_last_picture_is_shown_as_long_as_any(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    monkeypatch.setattr(mp4, "CODECS", {codec: mp4.CODECS[codec]})
    sink = VideoSink(tmp_path / "v.mp4")
    for number in range(3):
        sink.write(result(BOXES, number))
    sink.close()
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(0.6)


def test_times_reach_the_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.mp4")
    given = [3.0, 3.04, 3.0405, 3.1, 63.1]
    for number, offset_s in enumerate(given):
        sink.write(replace(result(BOXES, number), offset_s=offset_s))
    sink.close()
    assert times(tmp_path / "v.mp4") == pytest.approx([0, 0.04, 0.041, 0.1, 60.1], abs=5e-4)


def test_a_run_writes_a_video_for_every_source(toy_bundle: Bundle, tmp_path: Path) -> None:
    write_dots(tmp_path / "images" / "a.png", 96, 64, [(30, 20, 250)])
    write_dots(tmp_path / "images" / "b.png", 96, 64, [(70, 44, 160)])
    clip = write_video(tmp_path / "clip.mkv", [np.full((64, 96), 10 * n, np.uint8) for n in range(4)], "gray")
    options = ["--sensor", "ir", "--bundle", str(toy_bundle.folder), "--out", str(tmp_path / "out"), "--save-video"]
    assert main([str(tmp_path / "images"), str(clip), *options, "--quiet"]) == 0
    assert times(tmp_path / "out" / "video.ir.mp4") == pytest.approx([0, 0.2])
    second = decoded(tmp_path / "out" / "video.ir.2.mp4")
    assert [at for at, _ in second] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [picture.mean() for _, picture in second] == pytest.approx([0, 10, 20, 30], abs=4)


def test_a_large_scene_is_thinned(toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.scene.EXACT_PX", 100)  # "large" is more than that
    monkeypatch.setattr("runtime.scene.OVERVIEW_PX", 96 * 64 // 4)
    write_dots(tmp_path / "a.png", 96, 64, [(30, 20, 250)])
    options = ["--sensor", "ir", "--bundle", str(toy_bundle.folder), "--out", str(tmp_path), "--save-video", "--quiet"]
    assert main([str(tmp_path / "a.png"), *options]) == 0
    ((_, picture),) = decoded(tmp_path / "video.ir.mp4")
    assert picture.shape == (4 * 32, 4 * 48, 3)


def test_no_index_is_kept_of_written_pictures(tmp_path: Path) -> None:
    """It would take memory for every picture of a camera that runs for weeks, and be written at the end."""
    sink = mp4.Mp4File(tmp_path / "v.mp4", 16, 16)
    picture = np.zeros((16, 16, 3), np.uint8)
    for number in range(200):
        sink.add(picture, number / 5)
    size = (tmp_path / "v.mp4").stat().st_size
    sink.close()
    assert (tmp_path / "v.mp4").stat().st_size - size < 1000, "an index was written"
