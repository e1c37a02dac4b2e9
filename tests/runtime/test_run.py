"""Sources, stages and sinks in their threads: nothing is lost, repeated or out of order, and every thread ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from babelrs.errors import BabelRSError, DeviceError
from babelrs.images import Frame, ImageError
from babelrs.sensors import Sensor
from runtime import threads
from runtime.pipeline import Detector, FrameResult, Stopwatch
from runtime.raster import FrameRaster
from runtime.run import run_sources
from runtime.sources import Capture, Unusable
from runtime.threads import UNDER_WAY
from tests.runtime.brightest import BrightestPixel, dot_entry
from tests.runtime.dots import dots_image, write_dots


def detector(sensor: Sensor = Sensor.IR, **engine: float) -> Detector:
    return Detector(BrightestPixel(**engine), dot_entry(sensor), sensor, 0.3, 2)  # type: ignore[arg-type]


@dataclass
class ListedSource:
    """Gives frames, or raises what stands among them; a live one goes on without end.

    Attributes:
        frames: Images; ``None`` is one that cannot be used.
        given: How many were asked for.
    """

    frames: list[Frame | BabelRSError | None]
    sensor: Sensor = Sensor.IR
    live: bool = False
    name: str = "listed"
    dropped: int = 0
    given: int = 0
    is_closed: bool = False
    rasters: list[TrackedRaster] = field(default_factory=list)

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        while not stop.is_set():
            if self.given >= len(self.frames) and not self.live:
                return
            frame, number = self.frames[self.given % len(self.frames)], self.given
            self.given += 1
            if isinstance(frame, BabelRSError):
                raise frame
            if frame is None:
                yield Unusable("bad", ImageError("broken", "bad", "broken.", "Mend it."), number)
                continue
            self.rasters.append(TrackedRaster(frame))
            yield Capture(self.rasters[-1], f"{self.name}-{number}", f"n{number}", self.sensor, number, "now", 1.0)

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class TrackedRaster(FrameRaster):
    """A frame that knows whether it was closed."""

    is_closed = False

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True
        super().close()


@dataclass
class ListSink:
    """Keeps results; calls ``then`` after each."""

    then: Callable[[list[FrameResult]], None] = lambda results: None
    results: list[FrameResult] = field(default_factory=list)
    closed: int = 0

    def write(self, result: FrameResult) -> None:
        self.results.append(result)
        self.then(self.results)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]


def frames(count: int, seed: int = 0) -> list[Frame | BabelRSError | None]:
    """Images of one to nine tiles."""
    rng = np.random.default_rng(seed)
    sides = rng.integers(40, 160, (count, 2))
    return [
        Frame(dots_image(int(w), int(h), [(int(rng.integers(w)), int(rng.integers(h)), int(rng.integers(120, 255)))]))
        for w, h in sides
    ]


def test_every_image_has_the_result_of_looking_at_it_alone_and_in_order() -> None:
    source, sink = ListedSource(frames(25)), ListSink()
    (summary,) = run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [sink]})
    assert [result.frame for result in sink.results] == list(range(25)) and summary.num_images == 25
    for frame, result in zip(source.frames, sink.results, strict=True):
        assert isinstance(frame, Frame)
        found, image = detector().detect(frame, Stopwatch())
        assert np.array_equal(result.detections.boxes, found.boxes) and len(found)
        assert np.array_equal(result.detections.scores, found.scores)
        assert result.image is not None and np.array_equal(result.image, image)
        assert result.latency_ms["read"] >= 1.0
    assert source.is_closed and sink.closed == 1 and all(raster.is_closed for raster in source.rasters)


def test_images_that_cannot_be_used_are_counted_and_keep_their_numbers(caplog: pytest.LogCaptureFixture) -> None:
    listed = frames(6)
    listed[2] = None
    listed[4] = Frame(np.zeros((20, 20, 2), np.uint8))  # two bands fit no sensor
    source, sink = ListedSource(listed), ListSink()
    (summary,) = run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [sink]})
    assert [result.frame for result in sink.results] == [0, 1, 3, 5]
    assert summary.num_images == 4 and dict(summary.skipped) == {"broken": 1, "band count": 1}
    assert len([record for record in caplog.records if "skipped" in record.message]) == 2
    assert all(raster.is_closed for raster in source.rasters)


@pytest.mark.parametrize("live", [True, False])
def test_no_source_runs_further_ahead_than_it_may(live: bool) -> None:
    source = ListedSource(frames(30), live=live)
    ahead: list[int] = []
    stop = threading.Event()

    def look(results: list[FrameResult]) -> None:
        time.sleep(0.01)  # time enough for the source to run away
        ahead.append(source.given - len(results) + 1)
        if len(results) == 30:
            stop.set()

    run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [ListSink(look)]}, stop)
    assert max(ahead) <= UNDER_WAY[live]


def test_a_large_image_is_under_way_alone_and_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else four images of half a gigabyte would be held at once."""
    monkeypatch.setattr(threads, "LARGE_BYTES", 1)
    source, ahead, held = ListedSource(frames(8)), [], []

    def look(results: list[FrameResult]) -> None:
        time.sleep(0.02)  # time enough for the source to read on
        ahead.append(source.given - len(results) + 1)
        held.append(sum(raster.frame.pixels.size > 0 for raster in source.rasters))

    (summary,) = run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [ListSink(look)]})
    assert summary.num_images == 8 and set(ahead) == {1} and set(held) == {0}


def test_two_sensors_share_the_engines_and_neither_starves() -> None:
    stop = threading.Event()
    fast = ListedSource(frames(5), live=True, name="fast")
    slow = ListedSource(frames(12), Sensor.SAR, name="slow")
    written: list[str] = []

    def note(results: list[FrameResult]) -> None:
        written.append(results[-1].sensor)
        if results[-1].sensor is Sensor.SAR and len(results) == 12:
            stop.set()

    detectors = {Sensor.IR: detector(pause_s=0.002), Sensor.SAR: detector(Sensor.SAR, pause_s=0.002)}
    summaries = run_sources([fast, slow], detectors, {Sensor.IR: [ListSink(note)], Sensor.SAR: [ListSink(note)]}, stop)
    assert [summary.num_images for summary in summaries][1] == 12 and summaries[0].num_images >= 6
    last = len(written) - written[::-1].index("sar")
    gaps = [written[:last][start : start + 8].count("sar") for start in range(0, last - 8)]
    assert min(gaps) >= 1  # while it lasts, none waits for more than a few of the other
    assert all(len(summary.latencies_ms["total"]) == summary.num_images for summary in summaries)


def test_a_live_source_does_not_wait_for_the_end_of_a_scene_beside_it() -> None:
    """The scene has some 150 batches: while it lasts, the live source has a result for each of them or so."""
    scene = ListedSource([Frame(np.full((900, 900), 90, np.uint8))], Sensor.SAR, name="scene")
    live, stop, order = ListedSource(frames(5), live=True, name="live"), threading.Event(), []

    def note(results: list[FrameResult]) -> None:
        order.append(results[-1].sensor)
        if results[-1].sensor is Sensor.SAR:
            stop.set()

    detectors = {Sensor.IR: detector(pause_s=0.001), Sensor.SAR: detector(Sensor.SAR, pause_s=0.001)}
    run_sources([scene, live], detectors, {Sensor.IR: [ListSink(note)], Sensor.SAR: [ListSink(note)]}, stop)
    assert order.index(Sensor.SAR) >= 10


def test_a_flood_of_unusable_images_is_counted_and_not_said_image_by_image(caplog: pytest.LogCaptureFixture) -> None:
    source = ListedSource([*([None] * 100), *frames(1)])
    (summary,) = run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [ListSink()]})
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert summary.skipped["broken"] == 100 and len(said) == 10 + 3 and "(64 of this cause so far)" in said[-1]


def test_what_was_accepted_when_the_run_is_stopped_is_written() -> None:
    stop = threading.Event()
    source = ListedSource(frames(5), live=True)
    sink = ListSink(lambda results: stop.set() if len(results) == 7 else None)
    run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [sink]}, stop)
    assert [result.frame for result in sink.results] == list(range(source.given)) and source.given >= 7


def test_a_sink_that_fails_ends_the_run_and_closes_everything() -> None:
    def full(results: list[FrameResult]) -> None:
        if len(results) == 3:
            raise BabelRSError("No space left.", "Free some.")

    source, sink, other = ListedSource(frames(5), live=True), ListSink(full), ListSink()
    with pytest.raises(BabelRSError, match="No space left"):
        run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [sink, other]})
    assert source.is_closed and (sink.closed, other.closed) == (1, 1)


@pytest.mark.parametrize("fault", [BabelRSError("No space left.", "Free some."), KeyboardInterrupt()])
def test_a_failure_does_not_wait_for_a_scene_that_is_under_way(
    fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime import scene

    def fail(results: list[FrameResult]) -> None:
        raise fault

    monkeypatch.setattr(scene, "EXACT_PX", 0)
    large = Frame(np.full((1500, 1500), 200, np.uint8))  # 841 tiles of 64 px, 421 batches
    source, model = ListedSource([Frame(dots_image(40, 40, [(5, 5, 200)])), large]), detector(pause_s=0.005)
    with pytest.raises(type(fault)):
        run_sources([source], {Sensor.IR: model}, {Sensor.IR: [ListSink(fail)]})
    assert isinstance(model.engine, BrightestPixel) and len(model.engine.batches) < 200 and source.is_closed


def test_results_before_a_source_that_cannot_go_on_are_written_and_the_error_is_raised() -> None:
    broken = ListedSource([*frames(4), BabelRSError("The folder is gone.", "Bring it back.")])
    whole = ListedSource(frames(9), Sensor.SAR)
    sinks = {Sensor.IR: [ListSink()], Sensor.SAR: [ListSink()]}
    with pytest.raises(BabelRSError, match="The folder is gone"):
        run_sources([broken, whole], {Sensor.IR: detector(), Sensor.SAR: detector(Sensor.SAR)}, sinks)
    assert len(sinks[Sensor.IR][0].results) == 4 and len(sinks[Sensor.SAR][0].results) == 9


def test_a_source_that_ends_in_an_error_is_named_while_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    broken = ListedSource([BabelRSError("The folder is gone.", "Bring it back.")], name="spool")
    live = ListedSource(frames(5), Sensor.SAR, live=True)

    def until_said(results: list[FrameResult]) -> None:
        if "spool gives no more images: The folder is gone. Bring it back." in caplog.messages or len(results) == 2000:
            stop.set()

    sinks = {Sensor.IR: [ListSink()], Sensor.SAR: [ListSink(until_said)]}
    with pytest.raises(BabelRSError, match="The folder is gone"):
        run_sources([broken, live], {Sensor.IR: detector(), Sensor.SAR: detector(Sensor.SAR)}, sinks, stop)
    assert 0 < len(sinks[Sensor.SAR][0].results) < 2000


def test_results_before_an_engine_that_fails_are_written_and_the_error_is_raised() -> None:
    small: list[Frame | BabelRSError | None] = [Frame(dots_image(40, 40, [(5, 5, 200)])) for _ in range(9)]
    source, sink = ListedSource(small), ListSink()
    with pytest.raises(DeviceError, match="The engine failed"):
        run_sources([source], {Sensor.IR: detector(breaks_at=5)}, {Sensor.IR: [sink]})
    assert [result.frame for result in sink.results] == [0, 1, 2, 3, 4] and source.is_closed


def test_a_scene_that_breaks_in_the_middle_has_no_result_and_the_next_image_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from runtime import scene

    class Torn(TrackedRaster):
        def read(self, x: int, y: int, width: int, height: int) -> Frame:
            if y > 100:
                raise ImageError("damaged", "torn", "torn.", "Fetch it again.")
            return super().read(x, y, width, height)

    monkeypatch.setattr(scene, "EXACT_PX", 0)
    source, sink = ListedSource(frames(3)), ListSink()
    original = source.captures

    def captures(stop: threading.Event) -> Iterator[Capture | Unusable]:
        yield Capture(Torn(Frame(np.full((400, 400), 9, np.uint8))), "torn", "t", Sensor.IR, 0, "now", 0.0)
        yield from original(stop)

    source.captures = captures  # type: ignore[method-assign]
    (summary,) = run_sources([source], {Sensor.IR: detector()}, {Sensor.IR: [sink]}, with_pictures=True)
    assert dict(summary.skipped) == {"damaged": 1} and [result.frame for result in sink.results] == [1, 2, 3]
    assert all(result.image is not None for result in sink.results)  # asked for, though no image is held


def babelrs_run(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_run_with_everything_written(number: signal.Signals, tmp_path: Path) -> None:
    spool, out = tmp_path / "spool", tmp_path / "out"
    spool.mkdir()
    for count in range(3):
        write_dots(spool / f"{count}.png", 80, 60, [(20, 20, 250)])
    running = babelrs_run("--sensor", "ir", f"spool:{spool}", "--out", str(out), "--format", "jsonl,geojson,csv")
    lines = out / "detections.ir.jsonl"
    deadline = time.monotonic() + 60
    while (not lines.exists() or len(lines.read_text().splitlines()) < 3) and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    running.send_signal(number)
    output, errors = running.communicate(timeout=30)
    assert running.returncode == 0 and "3 images" in output and "stopping" in errors
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0, 1, 2]
    assert json.loads((out / "detections.ir.geojson").read_text())["features"] == []


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "| true"])
def test_a_standard_stream_that_takes_nothing_does_not_fail_the_run(closing: str, tmp_path: Path) -> None:
    write_dots(tmp_path / "0.png", 80, 60, [(20, 20, 250)])
    arguments = f"--sensor ir {tmp_path}/0.png --out {tmp_path}/out --format jsonl,csv"
    command = f"({sys.executable} -m runtime.cli {arguments}; echo $? > {tmp_path}/code) {closing}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (tmp_path / "code").read_text() == "0\n" and done.stderr == "", done
    (line,) = (tmp_path / "out" / "detections.ir.jsonl").read_text().splitlines()
    assert json.loads(line)["frame"] == 0


def test_a_second_ctrl_c_ends_the_run_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    write_dots(tmp_path / "large.png", 8000, 8000, [])
    running = babelrs_run("--sensor", "ir", str(tmp_path / "large.png"), "--out", str(tmp_path / "out"), "--verbose")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "detections.ir.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None
    while "stopping" not in running.stderr.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and errors == "interrupted\n"


def test_several_sources_each_with_its_sensor(tmp_path: Path) -> None:
    for sensor in ("ir", "sar"):
        for count in range(3):
            write_dots(tmp_path / sensor / f"{count}.png", 80, 60, [(20, 20, 250)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sources = [f"--source={sensor}={tmp_path / sensor}" for sensor in ("ir", "sar")]
    running = babelrs_run(*sources, "--out", str(tmp_path / "out"), env=environment)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert sum("3 images" in line for line in output.splitlines()) == 2
    for sensor in ("ir", "sar"):
        records = (tmp_path / "out" / f"detections.{sensor}.jsonl").read_text().splitlines()
        assert [json.loads(record)["sensor"] for record in records] == [sensor] * 3


WRONG = {
    "no source": ([], "No source was named"),
    "no sensor": (["nowhere.png"], "Give --sensor"),
    "several that are not there": (
        ["--sensor", "ir", "a.png", "--source", "sar=b.png"],
        "These sources cannot be opened",
    ),
    "no sensor of an address with a password": (["rtsp://user:secret@host/x"], "rtsp://***@host/x"),
    "an address with a slash too few": (["--sensor", "ir", "rtsp:/user:secret@host/x"], "rtsp:/***@host/x"),
    "no folder": (["--sensor", "ir", "a.png", "--out", ""], "--out is empty"),
    "an unknown kind": (["--sensor", "ir", "gopher://host/x"], "no source of this kind"),
    "another sensor": (["--source", "radar=spool:x"], "radar"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sources_are_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    arguments, said = WRONG[name]
    running = babelrs_run("--out", str(tmp_path / "out"), *arguments)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 2 and said in errors and "Traceback" not in errors and not output
    assert "secret" not in errors
    assert not list(tmp_path.iterdir())
