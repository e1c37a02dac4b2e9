"""NVIDIA's own parser and builder (TensorRT-RTX) on a machine without a GPU: the demo bundle's engines are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from babelrs.bundle import open_bundle
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime import build
from runtime.build_sensor import UNCHECKED
from runtime.cli import DEMO_BUNDLE
from runtime.engines import open_engine
from runtime.engines.builder import BuildJob, build_plan
from runtime.engines.cache import EngineCache
from runtime.engines.candidates import graph_path
from runtime.engines.tensorrt_api import TensorRT, find_tensorrt

pytestmark = pytest.mark.tensorrt
BUILD = [str(DEMO_BUNDLE), "--module", "tensorrt_rtx", "--compute-capability", "8.6"]


@pytest.fixture(scope="module")
def api() -> TensorRT:
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX wheels are not installed")
    return find_tensorrt("tensorrt_rtx")


def test_every_sensor_s_engine_is_built_and_said_to_be_unchecked(
    api: TensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*BUILD, "--batch", "1", "--cache", str(tmp_path)]
    assert build.main(arguments) == 0
    bundle, cache = open_bundle(DEMO_BUNDLE), EngineCache(tmp_path)
    for sensor in Sensor:
        [record] = cache.records(bundle.digest, sensor)
        assert (record.key.precision, record.key.compute_capability, record.key.gpu) == ("fp32", "8.6", "none")
        assert (record.passed, record.kept, record.reason) == (False, False, UNCHECKED)
        assert len(cache.load(record)) == record.size_bytes > 5_000_000
        engine = open_engine(bundle, sensor, cache=tmp_path)
        assert engine.name == "onnxruntime" and "No engine" in engine.reason  # what was not checked is not loaded
    assert capsys.readouterr().out.count(UNCHECKED) == 3

    def build_nothing(*given: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("runtime.build_sensor.build_plan", build_nothing)
    assert build.main(arguments) == 0


def test_a_graph_that_does_not_parse_says_where(api: TensorRT, tmp_path: Path) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    path = graph_path(bundle, Sensor.IR)
    model = path.read_bytes().replace(b"ReduceMax", b"ReduceMix")
    job = BuildJob(model, path, bundle.manifest.entry(Sensor.IR), ((1, 1, 1),), 64 << 20, capabilities=("8.6",))
    with pytest.raises(DeviceError, match=r"cannot parse the graph .*ReduceMix"):
        build_plan(api, job)


def test_missing_weights_are_said(api: TensorRT, tmp_path: Path) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    model = graph_path(bundle, Sensor.IR).read_bytes()
    elsewhere = tmp_path / "model.ir.onnx"
    job = BuildJob(model, elsewhere, bundle.manifest.entry(Sensor.IR), ((1, 1, 1),), 64 << 20, capabilities=("8.6",))
    with pytest.raises(DeviceError, match="cannot parse the graph"):
        build_plan(api, job)


def test_a_compute_capability_that_needs_its_gpu_is_refused(api: TensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BabelRSError, match=r"cannot build for compute capability 8\.7"):
        api.compute_capability("8.7")
    assert build.main([*BUILD[:-1], "8.7"]) == 2
    assert "8.6, 8.9" in capsys.readouterr().err
