"""The engine's calls in their order, on a GPU and a TensorRT that keep the rules; outputs against ONNX Runtime's."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.bundle import Bundle
from babelrs.errors import DeviceError
from babelrs.sensors import Sensor
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.engines.tensorrt import TensorRTEngine
from tests.runtime.engines.fakes import FakeCuda, FakeTensorRT

PROFILES = [(1, 1, 1), (1, 4, 4)]
Open = Callable[..., TensorRTEngine]


def plan_of(bundle: Bundle, profiles: list[tuple[int, int, int]] | None = None) -> bytes:
    model = (bundle.folder / bundle.manifest.entry(Sensor.IR).graph).read_bytes()
    values = {"model": base64.b64encode(model).decode(), "folder": str(bundle.folder), "profiles": profiles or PROFILES}
    return json.dumps(values).encode()


def open_fake(bundle: Bundle, trt: FakeTensorRT, graphs: tuple[int, ...] = (), **more: object) -> TensorRTEngine:
    profiles = more.get("profiles")
    plan = plan_of(bundle, profiles)  # type: ignore[arg-type]
    return TensorRTEngine(trt.api(), trt.cuda, plan, bundle.manifest.entry(Sensor.IR), "fp32", graphs)


def tiles(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 96, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference(toy_bundle: Bundle) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(toy_bundle.folder, toy_bundle.manifest.entry(Sensor.IR), 1)


def assert_same(engine: TensorRTEngine, reference: OnnxRuntimeEngine, pixels: npt.NDArray[np.uint8]) -> None:
    for found, expected in zip(engine.infer(pixels), reference.infer(pixels), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
@pytest.mark.parametrize("graphs", [(), (1, 4)], ids=["plain", "graphs"])
def test_batches_of_every_size_give_what_onnx_runtime_gives(
    toy_bundle: Bundle, reference: OnnxRuntimeEngine, integrated: bool, graphs: tuple[int, ...]
) -> None:
    engine = open_fake(toy_bundle, FakeTensorRT(FakeCuda(integrated)), graphs)
    for seed, count in enumerate([1, 4, 3, 1, 4, 9, 2, 1, 8]):
        assert_same(engine, reference, tiles(count, seed))


def test_a_batch_below_the_profile_s_least_is_filled_up(toy_bundle: Bundle, reference: OnnxRuntimeEngine) -> None:
    engine = open_fake(toy_bundle, FakeTensorRT(), profiles=[(3, 4, 4)])
    assert_same(engine, reference, tiles(2))


def test_an_empty_batch_gives_empty_outputs(toy_bundle: Bundle) -> None:
    boxes, scores, labels = open_fake(toy_bundle, FakeTensorRT()).infer(tiles(0))
    candidates = toy_bundle.manifest.entry(Sensor.IR).max_detections
    assert (boxes.shape, scores.shape, labels.shape) == ((0, candidates, 5), (0, candidates), (0, candidates))


def test_addresses_come_first_then_copy_run_copy_wait(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT()
    engine = open_fake(toy_bundle, trt)
    assert trt.cuda.log.count("address pixels") == len(PROFILES)
    trt.cuda.log.clear()
    engine.infer(tiles(2))
    assert trt.cuda.log == ["upload", "execute", "download", "download", "download", "synchronize"]


def test_an_integrated_gpu_copies_nothing(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT(FakeCuda(integrated=True))
    engine = open_fake(toy_bundle, trt)
    trt.cuda.log.clear()
    engine.infer(tiles(2))
    assert trt.cuda.log == ["execute", "synchronize"]


def test_outputs_are_not_overwritten_by_the_next_batch(toy_bundle: Bundle) -> None:
    engine = open_fake(toy_bundle, FakeTensorRT(FakeCuda(integrated=True)))
    _, scores, _ = engine.infer(tiles(1, 1))
    before = scores.copy()
    engine.infer(np.zeros((1, 64, 96, 1), np.uint8))
    np.testing.assert_array_equal(scores, before)


def test_a_graph_is_recorded_once_after_a_plain_run_and_then_replayed(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT()
    engine = open_fake(toy_bundle, trt, (4,))
    trt.cuda.log.clear()
    for seed in range(3):
        engine.infer(tiles(4, seed))
    copies = ["download"] * 3
    assert trt.cuda.log == [
        *("upload", "execute", *copies, "synchronize"),  # settles the shape
        *("begin_capture", "upload", "execute", *copies, "end_capture"),
        *("launch", "synchronize") * 3,
    ]


def test_what_cannot_be_captured_runs_plainly_and_is_said(
    toy_bundle: Bundle, reference: OnnxRuntimeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    trt = FakeTensorRT()
    trt.cuda.refuse_capture = True
    engine = open_fake(toy_bundle, trt, (1, 4))
    assert_same(engine, reference, tiles(4))
    assert engine.graph_batches == {1} and "no CUDA graph for batches of 4" in caplog.text
    assert "launch" not in trt.cuda.log


def test_threads_may_share_an_engine(toy_bundle: Bundle, reference: OnnxRuntimeEngine) -> None:
    engine = open_fake(toy_bundle, FakeTensorRT(), (4,))
    batches = [tiles(1 + seed % 4, seed) for seed in range(24)]
    found: dict[int, tuple[npt.NDArray[np.generic], ...]] = {}

    def work(start: int) -> None:
        for index in range(start, len(batches), 3):
            found[index] = engine.infer(batches[index])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, batch in enumerate(batches):
        for ours, expected in zip(found[index], reference.infer(batch), strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_closing_gives_all_memory_and_graphs_back(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT()
    engine = open_fake(toy_bundle, trt, (1,))
    engine.infer(tiles(1))
    assert trt.cuda.memory and trt.cuda.graphs
    engine.close()
    assert not trt.cuda.memory and not trt.cuda.graphs and trt.cuda.depth == 0


def test_a_failed_run_says_what_tensorrt_said(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT()
    engine = open_fake(toy_bundle, trt)
    trt.fail_runs = True
    with pytest.raises(DeviceError, match="illegal memory access") as caught:
        engine.infer(tiles(1))
    assert "babelrs-build" in caught.value.remedy and trt.cuda.depth == 0


def test_a_plan_that_does_not_load_says_why(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT()
    trt.refuse_plans = True
    with pytest.raises(DeviceError, match="incompatible device"):
        open_fake(toy_bundle, trt)


def test_no_memory_for_the_context_is_said(toy_bundle: Bundle) -> None:
    trt = FakeTensorRT()
    trt.no_memory = True
    with pytest.raises(DeviceError, match="No memory to run the engine in"):
        open_fake(toy_bundle, trt)


@pytest.mark.parametrize("field", ["input_height", "max_detections"])
def test_a_plan_that_does_not_fit_the_manifest_is_refused(toy_bundle: Bundle, field: str) -> None:
    entry = toy_bundle.manifest.entry(Sensor.IR)
    other = replace(entry, **{field: getattr(entry, field) + 1})
    trt = FakeTensorRT()
    with pytest.raises(DeviceError, match="belong"):
        TensorRTEngine(trt.api(), trt.cuda, plan_of(toy_bundle), other, "fp32")


@pytest.mark.parametrize("pixels", [np.zeros((1, 64, 64, 1), np.uint8), np.zeros((1, 64, 96, 1), np.float32)])
def test_pixels_of_another_shape_or_type_are_refused(toy_bundle: Bundle, pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(DeviceError, match="takes uint8"):
        open_fake(toy_bundle, FakeTensorRT()).infer(pixels)
