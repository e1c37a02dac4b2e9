"""GStreamer pipelines hand over their frames count by count, and their child processes never outlive their use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.images import ImageError
from babelrs.sensors import Sensor
from runtime.sources import gstreamer
from runtime.sources.gstreamer import GStreamerStream
from runtime.sources.live import Patience, StreamFault
from runtime.sources.opening import Opening, open_source
from runtime.sources.supervised import Supervision
from tests.runtime.sources.builders import take, usable
from tests.runtime.sources.rtsp import require_gst_launch

QUICK = Patience(open_s=3.0, stall_s=1.0)
LIVE = "videotestsrc is-live=true"
PATIENT_S = 20.0


@pytest.fixture(autouse=True)
def _gstreamer(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        require_gst_launch()


@contextmanager
def running(pipeline: str, patience: Patience = QUICK) -> Iterator[GStreamerStream]:
    stream = GStreamerStream(pipeline, patience, threading.Event())
    try:
        yield stream
    finally:
        stream.close()


@pytest.mark.parametrize("encoder", ["pnmenc", "pngenc"])
@pytest.mark.parametrize(
    ("format", "dtype", "bands"),
    [
        ("GRAY8", "uint8", ()),
        ("GRAY16_LE", "uint16", ()),
        ("GRAY16_BE", "uint16", ()),
        ("RGB", "uint8", (3,)),
        ("BGRx", "uint8", (3,)),
    ],
)
def test_counts_come_as_the_pipeline_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, format: str, dtype: str, bands: tuple[int, ...]
) -> None:
    monkeypatch.setattr(gstreamer, "_ENCODERS", {encoder: gstreamer._ENCODERS[encoder]})
    counts = np.random.default_rng(4).integers(0, np.iinfo(dtype).max, (30, 50, *bands), dtype, endpoint=True)
    stored = counts.astype(">u2" if format == "GRAY16_BE" else dtype)
    if format == "BGRx":
        stored = np.dstack([counts[..., ::-1], np.zeros((30, 50), np.uint8)])
    raw = np.zeros(
        (30, -(-50 * stored.itemsize * (stored.size // 1500) // 4) * 4), np.uint8
    )  # rows of 4-byte multiples
    raw[:, : stored.nbytes // 30] = np.frombuffer(stored.tobytes(), np.uint8).reshape(30, -1)
    (tmp_path / "frame.raw").write_bytes(raw.tobytes())
    parse = f"filesrc location={tmp_path}/frame.raw ! rawvideoparse use-sink-caps=false"
    with running(f"{parse} width=50 height=30 format={format.lower().replace('_', '-')}") as stream:
        received = stream.receive()
    assert received.frame.pixels.dtype == dtype and np.array_equal(received.frame.pixels, counts)
    assert received.read_ms >= 0


def test_a_pipeline_may_change_the_size_of_its_frames(tmp_path: Path) -> None:
    for number, width in enumerate((40, 64, 40)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((30, width), number, np.uint8))
    pipeline = f"multifilesrc location={tmp_path}/%d.png caps=image/png,framerate=2/1 ! pngdec ! identity sync=true"
    with running(pipeline) as stream:
        widths = [stream.receive().frame.width for _ in range(3)]
    assert widths == [40, 64, 40]


def test_a_pipeline_for_opencv_is_taken_too() -> None:
    with running(
        f"{LIVE} ! videoconvert ! video/x-raw,format=BGR,width=64,height=48 ! appsink drop=1 max-buffers=1"
    ) as stream:
        assert stream.receive().frame.pixels.shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("pipeline", "word"),
    [
        ("no-such-element ! x", "no-such-element"),
        ("videotestsrc !", "syntax error"),
        ("", "empty"),
        ('x y="', "quotation"),
    ],
)
def test_a_pipeline_that_can_never_run_is_the_users_to_mend(pipeline: str, word: str) -> None:
    with pytest.raises(BabelRSError, match=word) as caught, running(pipeline) as stream:
        stream.receive()
    assert f"gst:{pipeline}" in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("pipeline", "word"),
    [
        ("v4l2src device=/dev/video94", "the pipeline ended: ERROR: .*/dev/video94"),
        (f"{LIVE} num-buffers=2", "the pipeline ended$"),
        (f"{LIVE} num-buffers=2 ! identity eos-after=9 ! valve name=v", "the pipeline ended"),
        ("videotestsrc ! identity sleep-time=60000000", "no picture for 3 s"),
        ("rtspsrc location=rtsp://a:hunter2@127.0.0.1:1/x ! decodebin", "the pipeline ended: ERROR"),
    ],
)
def test_a_pipeline_that_breaks_or_stalls_is_a_fault_with_its_reason(pipeline: str, word: str) -> None:
    with pytest.raises(StreamFault, match=word) as caught, running(pipeline) as stream:
        for _ in range(99):
            stream.receive()
    assert "hunter2" not in str(caught.value)


def test_a_camera_that_freezes_is_a_stall_and_its_child_is_killed() -> None:
    stream = GStreamerStream(f"{LIVE} ! video/x-raw,width=64,height=48", QUICK, threading.Event())
    stream.receive()
    child = stream._process
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(StreamFault, match="no picture for 1 s"):
        for _ in range(10_000):
            stream.receive()
    stream.close()
    assert child.poll() is not None


def test_it_is_restarted_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    opening = Opening(patience=QUICK, supervision=Supervision(0.01, longest_wait_s=0.01))
    live = open_source(f"gst:{LIVE} num-buffers=3 ! video/x-raw,width=64,height=48", Sensor.RGB, opening)
    items = usable(take(live, 12))
    assert len(items) == 12 and live.live
    assert [record.getMessage() for record in caplog.records] == [
        f"{live.name}: the pipeline ended; connecting again until it is back"
    ]


def test_the_child_ends_with_a_process_that_is_killed() -> None:
    code = (
        "import sys, threading; from runtime.sources.gstreamer import *; from runtime.sources.live import Patience\n"
        f"stream = GStreamerStream('{LIVE} ! identity sleep-time=60000000', Patience(), threading.Event())\n"
        "print(stream._process.pid, flush=True); threading.Event().wait()"
    )
    root = Path(__file__).resolve().parents[3]
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + PATIENT_S
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _alive(child)


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_gstreamer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BabelRSError, match=r"gst-launch-1\.0.*apt-get install gstreamer1\.0-tools"):
        open_source("gst:videotestsrc", Sensor.RGB, Opening())


def test_without_an_encoder_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_gst_launch()
    monkeypatch.setattr(gstreamer, "_ENCODERS", {"noenc": ""})
    with pytest.raises(BabelRSError, match=r"noenc.*gstreamer1\.0-plugins-bad"):
        gstreamer.launch_command("videotestsrc", 1)


def test_a_pipeline_that_gives_damaged_images_only_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(LIVE, Patience(open_s=5.0, stall_s=0.0)) as stream:
        monkeypatch.setattr(stream, "_next_item", lambda: ImageError("damaged", "x", "y.", "z."))
        with pytest.raises(StreamFault, match="data comes, but no picture"):
            stream.receive()
