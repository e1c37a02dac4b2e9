"""Whatever moment a run ended at, one that goes on leaves what an undisturbed one does: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from babelrs.errors import BabelRSError, DeviceError
from babelrs.images import Frame, read_frame
from babelrs.sensors import Sensor
from benchmarks.crash_outputs import compared, contents
from benchmarks.power_loss import lose_power
from runtime import journal
from runtime.geo import GeoReference
from runtime.outputs import SINKS, open_sinks
from runtime.pipeline import Detector, FrameResult
from runtime.raster import FrameRaster, Raster
from runtime.recorder import NAME, Recorder, open_recorder
from runtime.run import run_sources
from runtime.sinks import Sink, mp4
from runtime.sources import Capture
from runtime.sources.live import Received
from runtime.sources.opening import Opening, open_together
from runtime.sources.past import Past
from runtime.sources.supervised import SupervisedSource
from runtime.standing import Ended
from runtime.summary import Summary
from tests.runtime.brightest import BrightestPixel, dot_entry
from tests.runtime.dots import dots_image, write_dots
from tests.runtime.sources.videos import write_video

pytest.importorskip("rasterio", reason="GeoJSON needs places, which need the geo extra")

Named = Sequence[tuple[Sensor, str]]
FORMATS = tuple(SINKS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, one of them broken, and a video of four."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(5):
        write_dots(folder / "images" / f"{number}.png", 90, 70, [(10 + 15 * number, 30, 200 + 10 * number)])
    (folder / "images" / "2.png").write_bytes(b"no image")
    pictures = [dots_image(80, 60, [(10 + 15 * number, 20, 250)]) for number in range(4)]
    write_video(folder / "clip.mkv", pictures, "gray")
    return folder


def both(inputs: Path) -> Named:
    return [(Sensor.IR, str(inputs / "images")), (Sensor.SAR, str(inputs / "clip.mkv"))]


def with_place(path: Path) -> Raster:
    import rasterio.crs

    geo = GeoReference(rasterio.crs.CRS.from_epsg(32632).to_wkt(), (0.5, 0, 500_000, 0, -0.5, 5_000_000))
    return FrameRaster(read_frame(path), geo)


def detect(
    named: Named,
    out: Path,
    resume: bool = True,
    formats: Sequence[str] = FORMATS,
    engine: Mapping[str, float] | None = None,
    more: Callable[[Recorder], list[Sink]] = lambda recorder: [],
    stop: threading.Event | None = None,
) -> list[Summary]:
    """A run as the command line makes it, without a process and with an engine of a test."""
    out.mkdir(exist_ok=True)
    recorder = open_recorder(out, {"formats": list(formats)}, resume)
    sources = recorder.resumed(open_together(named, Opening(open_raster=with_place)))
    sensors = {source.sensor for source in sources}
    model = BrightestPixel(**(engine or {}))  # type: ignore[arg-type]
    detectors = {sensor: Detector(model, dot_entry(sensor), sensor, 0.3, 2) for sensor in sensors}
    sinks = open_sinks(out, sensors, formats, recorder.standing.marks)
    behind = more(recorder)
    for group in sinks.values():
        group.extend(behind)
    return run_sources(sources, detectors, sinks, stop, with_pictures=True, recorder=recorder)


class Photographer:
    """Keeps what a kill would leave: the output folder after every image's last sink, and after its record."""

    def __init__(self, out: Path, into: Path) -> None:
        self._out, self._into, self._numbers = out, into, itertools.count()

    def sinks(self, recorder: Recorder) -> list[Sink]:
        ended = recorder.ended

        def then(one: Ended) -> None:
            ended(one)
            self.take()

        recorder.ended = then  # type: ignore[method-assign]
        return [self]

    def write(self, result: FrameResult) -> None:
        self.take()

    def take(self) -> None:
        shutil.copytree(self._out, self._into / str(next(self._numbers)))

    def close(self) -> None:
        self.take()


def assert_same(whole: Path, out: Path) -> None:
    for name, found in compared(whole, out).items():
        assert (found.lost, found.repeated, found.altered, found.is_reordered) == (0, 0, 0, False), (name, found)
    assert contents(whole, whole).keys() == contents(out, whole).keys()
    assert not list(out.rglob("*.part"))


@pytest.fixture(scope="module")
def moments(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An undisturbed run's output and, before it, what a kill would have left at each of its moments."""
    folder = tmp_path_factory.mktemp("moments")
    photographer = Photographer(folder / "whole", folder / "moments")
    detect(both(inputs), folder / "whole", more=photographer.sinks)
    return [*sorted((folder / "moments").iterdir(), key=lambda path: int(path.name)), folder / "whole"]


def test_a_run_that_goes_on_from_any_moment_leaves_what_an_undisturbed_one_leaves(
    inputs: Path, moments: list[Path], tmp_path: Path
) -> None:
    *killed, whole = moments
    assert len(killed) > 16
    for moment in killed[::3]:  # before and after a record in turns
        out = tmp_path / moment.name
        shutil.copytree(moment, out)
        detect(both(inputs), out)
        assert_same(whole, out)


def test_a_loss_of_power_at_any_moment_costs_nothing_either(inputs: Path, moments: list[Path], tmp_path: Path) -> None:
    *killed, whole = moments
    for moment in killed[1::4]:
        out = tmp_path / moment.name
        shutil.copytree(moment, out)
        lose_power(out, random.Random(int(moment.name)))
        detect(both(inputs), out)
        assert_same(whole, out)


def test_what_was_synced_before_a_loss_of_power_is_not_done_again(
    inputs: Path, moments: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(moments[-1], tmp_path / "out")
    monkeypatch.setattr(journal, "boot_id", lambda: "another")
    monkeypatch.setattr("runtime.recorder.boot_id", lambda: "another")
    summaries = detect(both(inputs), tmp_path / "out")
    assert [(one.num_images, one.num_before, one.num_skipped_before) for one in summaries] == [(0, 4, 1), (0, 4, 0)]


def test_what_a_killed_run_had_not_synced_is_synced_before_the_next_one_says_so(
    inputs: Path, moments: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill, and then a loss of power: nobody else knows which files the killed process had written last."""
    shutil.copytree(moments[len(moments) // 2], tmp_path / "out")
    before, said = (tmp_path / "out" / NAME).read_bytes().count(b"synced"), []
    monkeypatch.setattr(
        "runtime.recorder.os.sync", lambda: said.append((tmp_path / "out" / NAME).read_bytes().count(b"synced"))
    )
    detect(both(inputs), tmp_path / "out")
    assert said == [before]


def test_a_run_that_was_done_has_nothing_to_do_and_changes_nothing(
    inputs: Path, moments: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(moments[-1], tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != NAME}
    summaries = detect(both(inputs), tmp_path / "out")
    assert [one.num_images for one in summaries] == [0, 0] and "by the run before" in summaries[0].line()
    assert {path: path.read_bytes() for path in before} == before


def test_files_that_came_since_are_taken_under_names_and_numbers_of_their_own(inputs: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("b.tif", "c.png"):
        write_dots(images / name, 90, 70, [(30, 30, 250)])
    detect([(Sensor.IR, str(images))], tmp_path / "out")
    write_dots(images / "b.png", 90, 70, [(50, 30, 250)])  # comes before b.tif, and would be called b as well
    (summary,) = detect([(Sensor.IR, str(images))], tmp_path / "out")
    assert (summary.num_images, summary.num_before) == (1, 2)
    names = {path.name for path in (tmp_path / "out" / "dota.ir").iterdir()}
    assert names == {"b.txt", "c.txt", "b-2.txt"}
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.ir.jsonl").read_text().splitlines()]
    assert [(Path(line["source"]).name, line["frame"]) for line in lines] == [("b.tif", 0), ("c.png", 1), ("b.png", 2)]


def test_two_sources_of_one_sensor_share_numbers_without_a_gap_after_a_kill(inputs: Path, tmp_path: Path) -> None:
    named = [(Sensor.IR, str(inputs / "images")), (Sensor.IR, str(inputs / "clip.mkv"))]
    photographer = Photographer(tmp_path / "whole", tmp_path / "moments")
    detect(named, tmp_path / "whole", formats=("jsonl", "video"), more=photographer.sinks)
    for moment in (tmp_path / "moments").iterdir():
        detect(named, moment, formats=("jsonl", "video"))
        lines = [json.loads(line) for line in (moment / "detections.ir.jsonl").read_text().splitlines()]
        by_source = [(Path(line["source"]).name, line["frame"]) for line in lines]
        assert len({number for _, number in by_source}) == 8 and max(number for _, number in by_source) == 8
        assert sorted(name for name, _ in by_source) == ["0.png", "1.png", "3.png", "4.png", *["clip.mkv"] * 4]


def test_other_settings_are_refused_with_what_differs_and_nothing_is_touched(tmp_path: Path) -> None:
    open_recorder(tmp_path, {"score": 0.5, "formats": ["csv"]}, False).close()
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(BabelRSError, match=r"other settings \(score: then 0.5, now 0.3\)"):
        open_recorder(tmp_path, {"score": 0.3, "formats": ["csv"]}, True)
    assert (tmp_path / NAME).read_bytes() == before


def test_without_resume_an_unfinished_run_is_replaced_and_that_is_said(
    inputs: Path, moments: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *killed, whole = moments
    shutil.copytree(killed[9], tmp_path / "out")
    detect(both(inputs), tmp_path / "out", resume=False)
    assert len([line for line in caplog.messages if "an unfinished run of" in line]) == 1
    assert_same(whole, tmp_path / "out")
    caplog.clear()
    detect(both(inputs), tmp_path / "out", resume=False)
    assert "unfinished" not in caplog.text, "it had come to its end"


def test_after_an_engine_that_failed_the_run_goes_on(inputs: Path, moments: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        detect(both(inputs), tmp_path / "out", engine={"breaks_at": 3})
    detect(both(inputs), tmp_path / "out")
    assert_same(moments[-1], tmp_path / "out")


def test_a_stopped_run_goes_on_without_loss(inputs: Path, moments: list[Path], tmp_path: Path) -> None:
    stop = threading.Event()

    class Stopping(Photographer):
        def take(self) -> None:
            stop.set()

    detect(both(inputs), tmp_path / "out", more=Stopping(tmp_path, tmp_path).sinks, stop=stop)
    first = (tmp_path / "out" / NAME).read_bytes()
    assert b'"over"' not in first, "it did not come to its end"
    detect(both(inputs), tmp_path / "out")
    assert_same(moments[-1], tmp_path / "out")


def test_an_output_that_was_altered_since_is_an_error_and_not_gone_on_with(
    inputs: Path, moments: list[Path], tmp_path: Path
) -> None:
    for number, name in enumerate(["detections.ir.jsonl", "detections.ir.csv", "video.ir.mp4"]):
        out = tmp_path / str(number)
        shutil.copytree(moments[-1], out)
        (out / name).write_bytes((out / name).read_bytes()[:-10])
        with pytest.raises(BabelRSError, match="where the run that is to go on had written"):
            detect(both(inputs), out)
        (out / name).unlink()
        with pytest.raises(BabelRSError, match="0 bytes, where the run that is to go on had written"):
            detect(both(inputs), out)


def test_with_another_encoder_the_video_goes_on_in_a_further_file(
    inputs: Path, moments: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    out, named = tmp_path / "out", [(Sensor.SAR, str(inputs / "clip.mkv"))]
    photographer = Photographer(tmp_path / "whole", tmp_path / "moments")
    detect(named, tmp_path / "whole", formats=("video",), more=photographer.sinks)
    shutil.copytree(tmp_path / "moments" / "3", out)  # two pictures and their records
    monkeypatch.setattr(mp4, "CODECS", {"mpeg4": mp4.CODECS["mpeg4"]})
    detect(named, out, formats=("video",))
    counts = []
    for name in ("video.sar.mp4", "video.sar.part-2.mp4"):
        with av.open(str(out / name)) as container:
            counts.append(len(list(container.decode(video=0))))
    assert counts == [2, 2]
    detect(named, out, resume=False, formats=("video",))
    assert not (out / "video.sar.part-2.mp4").exists(), "a part of an older run"


def test_a_folder_that_is_gone_is_begun_anew(inputs: Path, moments: list[Path], tmp_path: Path) -> None:
    detect(both(inputs), tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    detect(both(inputs), tmp_path / "out")
    assert_same(moments[-1], tmp_path / "out")


def test_an_output_folder_that_vanishes_ends_the_run_with_its_cause(inputs: Path, tmp_path: Path) -> None:
    class Removing(Photographer):
        def take(self) -> None:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)

    with pytest.raises(BabelRSError, match="cannot be written"):
        detect(both(inputs), tmp_path / "out", more=Removing(tmp_path, tmp_path).sinks)


def test_a_sink_that_is_slow_loses_nothing_of_files(inputs: Path, moments: list[Path], tmp_path: Path) -> None:
    begun = threading.Event()

    class Slow(Photographer):
        def take(self) -> None:
            if not begun.is_set():
                begun.set()
                threading.Event().wait(1.5)  # longer than a sync's pause

    detect(both(inputs), tmp_path / "out", more=Slow(tmp_path, tmp_path).sinks)
    assert_same(moments[-1], tmp_path / "out")


def test_a_disk_that_fails_to_sync_ends_the_run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def fail(recorder: Recorder) -> None:
        if next(calls):
            raise BabelRSError("The disk broke.", "Replace it.")

    monkeypatch.setattr(Recorder, "sync", fail)
    with pytest.raises(BabelRSError, match="The disk broke"):
        detect(both(inputs), tmp_path / "out", engine={"pause_s": 0.05})


def test_a_live_source_goes_on_with_numbers_and_names_that_no_image_had() -> None:
    past, stop = Past(), threading.Event()
    for sequence in (0, 1, 5):
        past.add("", "", sequence, True)
    source = SupervisedSource("cam", Sensor.IR, "cam_", lambda stop: OneFrame()).resumed(past)
    first = next(iter(source.captures(stop)))
    stop.set()
    source.close()
    assert isinstance(first, Capture) and first.sequence >= 6 and first.name == f"cam_{first.sequence:06d}"


class OneFrame:
    """A connection that gives frames for ever."""

    def receive(self) -> Received:
        threading.Event().wait(0.01)
        return Received(Frame(dots_image(20, 20, [(5, 5, 250)])), 1.0)

    def close(self) -> None:
        """Nothing is open."""
