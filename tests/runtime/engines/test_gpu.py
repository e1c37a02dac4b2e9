"""The same code on a real GPU: engines are built, pass the self-test and run from several threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from babelrs.bundle import open_bundle, read_selftest
from babelrs.errors import DeviceError
from babelrs.sensors import Sensor
from runtime import build
from runtime.cli import DEMO_BUNDLE
from runtime.engines import open_engine
from runtime.engines.cuda import open_cuda
from runtime.engines.tensorrt import TensorRTEngine
from runtime.engines.tensorrt_api import find_tensorrt
from runtime.selftest import run_selftest

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the demo bundle, built here."""
    try:
        find_tensorrt()
    except DeviceError as error:
        pytest.skip(error.what)
    folder = tmp_path_factory.mktemp("engines")
    assert build.main([str(DEMO_BUNDLE), "--cache", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("sensor", list(Sensor))
def test_engines_built_here_pass_the_self_test(cache: Path, sensor: Sensor) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    engine = open_engine(bundle, sensor, "tensorrt", cache=cache)
    assert run_selftest(engine, read_selftest(bundle, sensor)).passed


@pytest.mark.parametrize("graphs", [frozenset(), frozenset({1, 4})], ids=["plain", "graphs"])
def test_batches_of_every_size_agree_with_single_images(cache: Path, graphs: frozenset[int]) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    engine = open_engine(bundle, Sensor.IR, "tensorrt", cache=cache)
    assert isinstance(engine, TensorRTEngine)
    engine.graph_batches = graphs
    pixels = read_selftest(bundle, Sensor.IR).pixels
    batch = np.concatenate([np.roll(pixels, 64 * shift, axis=2) for shift in range(9)])
    singles = np.concatenate([engine.infer(image[None])[1] for image in batch])
    for count in (9, 4, 3, 1):
        np.testing.assert_allclose(engine.infer(batch[:count])[1], singles[:count], atol=2e-3)


def test_threads_may_share_an_engine(cache: Path) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    engine, selftest = open_engine(bundle, Sensor.SAR, "tensorrt", cache=cache), read_selftest(bundle, Sensor.SAR)
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(run_selftest(engine, selftest).passed)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [True] * 4


def test_memory_of_the_gpu_comes_back_when_an_engine_is_closed(cache: Path) -> None:
    bundle, cuda = open_bundle(DEMO_BUNDLE), open_cuda()

    def free() -> int:
        with cuda.current():
            return cuda.free_bytes()

    for round_ in range(4):
        engine = open_engine(bundle, Sensor.RGB, "tensorrt", cache=cache)
        assert isinstance(engine, TensorRTEngine)
        engine.infer(read_selftest(bundle, Sensor.RGB).pixels)
        engine.close()
        if round_ == 0:
            before = free()  # what libraries keep is there by now
    assert before - free() < 32 << 20
