"""A run whose engine fails goes on by the CPU's, and no image is lost; levels shape the work of the next image."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.bundle import Bundle
from babelrs.errors import DeviceError
from babelrs.images import Frame
from babelrs.sensors import Sensor
from babelrs.tiling import count_tiles
from runtime.degrading.degrader import Degrader
from runtime.degrading.fallback import FallbackEngine
from runtime.degrading.levels import HEAT, LAG, RECOVERY_S
from runtime.degrading.machine import Signal
from runtime.engines import Outputs
from runtime.health.monitor import Monitor
from runtime.integrity.opening import open_guarded
from runtime.pipeline import Detector
from runtime.run import run_sources
from tests.runtime.brightest import BrightestPixel, dot_entry
from tests.runtime.dots import dots_image
from tests.runtime.test_run import ListedSource, ListSink, frames


@dataclass
class GpuEngine(BrightestPixel):
    """Fails at given calls."""

    name: str = "tensorrt"
    is_on_cpu: bool = False
    fails_at: tuple[int, ...] = ()
    calls: int = 0

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        self.calls += 1
        if self.calls - 1 in self.fails_at:
            raise DeviceError("The GPU fell off the bus.", "Restart it.")
        return super().infer(pixels)


@dataclass
class CpuEngines:
    """Opens CPU engines."""

    breaks_at: int = -1
    opened: list[BrightestPixel] = field(default_factory=list)

    def __call__(self) -> BrightestPixel:
        self.opened.append(BrightestPixel(self.breaks_at, name="onnxruntime", reason="on the CPU"))
        return self.opened[-1]


def fallback(chosen: BrightestPixel, cpu: CpuEngines, degrader: Degrader) -> Detector:
    return Detector(FallbackEngine(chosen, cpu, degrader), dot_entry(Sensor.IR), Sensor.IR, 0.3, 2)


def test_every_image_has_its_result_though_the_engine_fails_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    plain, sink = ListSink(), ListSink()
    whole = Detector(BrightestPixel(), dot_entry(Sensor.IR), Sensor.IR, 0.3, 2)
    run_sources([ListedSource(frames(12))], {Sensor.IR: whole}, {Sensor.IR: [plain]})
    cpu, degrader = CpuEngines(), Degrader()
    detector = fallback(GpuEngine(fails_at=(7,)), cpu, degrader)
    run_sources([ListedSource(frames(12))], {Sensor.IR: detector}, {Sensor.IR: [sink]})  # shapes stay: no monitor
    for expected, result in zip(plain.results, sink.results, strict=True):
        assert np.array_equal(expected.detections.boxes, result.detections.boxes)
        assert np.array_equal(expected.detections.scores, result.detections.scores)
    assert {sink.results[0].engine, sink.results[-1].engine} == {"tensorrt", "onnxruntime"} and len(cpu.opened) == 1
    assert degrader.level.name == "cpu" and "The GPU fell off the bus" in degrader.report.reason
    said = [record.message for record in caplog.records if "level" in record.message]
    assert len(said) == 1 and said[0].startswith("level normal -> cpu: 1 engine faults, the last: tensorrt: The GPU")


def test_where_the_cpu_fails_too_the_run_ends_with_what_it_has() -> None:
    small = [Frame(dots_image(40, 40, [(5, 5, 200)])) for _ in range(9)]
    cpu, degrader, stopped, sink = CpuEngines(breaks_at=2), Degrader(), threading.Event(), ListSink()
    degrader.stop = stopped.set
    detector = fallback(GpuEngine(fails_at=(3,)), cpu, degrader)
    with pytest.raises(DeviceError, match="The engine failed"):
        run_sources([ListedSource(list(small))], {Sensor.IR: detector}, {Sensor.IR: [sink]})
    assert [result.frame for result in sink.results] == [0, 1, 2, 3, 4]
    assert degrader.level.stops and stopped.is_set() and "the CPU engine failed too" in degrader.report.reason


def test_the_chosen_engine_is_tried_again_after_the_recovery_and_the_cpus_is_let_go() -> None:
    seconds, cpu, chosen = [0.0], CpuEngines(), GpuEngine(fails_at=(0, 2))
    degrader = Degrader(lambda: seconds[0])
    engine, pixels = FallbackEngine(chosen, cpu, degrader), np.zeros((1, 64, 64, 1), np.uint8)
    assert len(engine.infer(pixels)[0]) == 1 and engine.name == "onnxruntime" and chosen.calls == 1
    engine.infer(pixels)
    assert chosen.calls == 1 and "on the CPU, for tensorrt" in engine.reason
    for second in range(700):
        seconds[0] = float(second)
        degrader.observe({})
    assert degrader.level.name == "skipping"
    engine.infer(pixels)
    assert (engine.name, chosen.calls) == ("tensorrt", 2)
    engine.infer(pixels)
    assert (engine.name, chosen.calls, len(cpu.opened)) == ("onnxruntime", 3, 2)


def test_heat_moves_a_gpus_work_to_the_cpu_and_leaves_a_cpus_work_where_it_is() -> None:
    for chosen, opened in ((GpuEngine(), 1), (BrightestPixel(), 0)):
        seconds, cpu = [0.0], CpuEngines()
        degrader = Degrader(lambda seconds=seconds: seconds[0])  # type: ignore[misc]
        for second in range(100):
            seconds[0] = float(second)
            degrader.observe({HEAT: Signal(6.0, "too hot")})
        FallbackEngine(chosen, cpu, degrader).infer(np.zeros((1, 64, 64, 1), np.uint8))
        assert degrader.level.on_cpu and len(cpu.opened) == opened


def test_the_fallback_of_a_bundle_is_its_graph_on_the_cpu(toy_bundle: Bundle) -> None:
    on_cpu = partial(open_guarded, toy_bundle, Sensor.IR, threads=1, on_cpu=True)
    engine = FallbackEngine(GpuEngine(fails_at=(0,)), on_cpu, Degrader())
    boxes, scores, labels = engine.infer(np.zeros((2, 64, 96, 1), np.uint8))
    assert boxes.shape[0] == scores.shape[0] == labels.shape[0] == 2 and engine.name == "onnxruntime"


def slowed(to: str) -> Degrader:
    seconds = [0.0]
    degrader = Degrader(lambda: seconds[0])
    while degrader.level.name != to:
        seconds[0] += 1
        degrader.observe({LAG: Signal(2.0, "late")})
    assert seconds[0] < RECOVERY_S
    return degrader


def test_saving_takes_larger_batches_and_fewer_tiles_of_the_next_scene() -> None:
    engine, entry = BrightestPixel(), dot_entry(Sensor.IR)
    detector = Detector(engine, entry, Sensor.IR, 0.3, 2)
    scene = Frame(np.full((400, 400), 90, np.uint8))
    run_sources(
        [ListedSource([scene])], {Sensor.IR: detector}, {Sensor.IR: [ListSink()]}, monitor=Monitor(slowed("saving"))
    )
    assert sum(engine.batches) == count_tiles(400, 400, 64, 64, entry.tile_overlap / 2)
    assert sum(engine.batches) < count_tiles(400, 400, 64, 64, entry.tile_overlap) and max(engine.batches) == 4


def test_files_are_never_skipped() -> None:
    sink = ListSink()
    detector = Detector(BrightestPixel(), dot_entry(Sensor.IR), Sensor.IR, 0.3, 2)
    source = ListedSource(frames(12))
    run_sources([source], {Sensor.IR: detector}, {Sensor.IR: [sink]}, monitor=Monitor(slowed("skipping")))
    assert [result.frame for result in sink.results] == list(range(12))


def test_of_a_live_source_one_frame_in_so_many_is_taken_and_the_others_are_closed_and_counted() -> None:
    stop, monitor = threading.Event(), Monitor(slowed("skipping"))
    sink = ListSink(lambda results: stop.set() if len(results) == 5 else None)
    detector = Detector(BrightestPixel(), dot_entry(Sensor.IR), Sensor.IR, 0.3, 2)
    source = ListedSource(frames(5), live=True)
    run_sources([source], {Sensor.IR: detector}, {Sensor.IR: [sink]}, stop, monitor=monitor)
    taken = [int(result.source.rpartition("-")[2]) for result in sink.results]
    assert all(after - before >= 3 for before, after in pairwise(taken))
    assert monitor.snapshot()["left_out"] == source.given - len(taken)
    assert all(raster.is_closed for raster in source.rasters)
