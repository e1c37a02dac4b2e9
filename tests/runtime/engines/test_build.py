"""``babelrs-build`` on a GPU that is not there: what it builds, keeps, builds again, and says."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from babelrs.bundle import Bundle, read_selftest, write_manifest, write_selftest
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime import build
from runtime.engines import open_engine, tensorrt_api
from runtime.engines.cache import EngineCache, EngineRecord
from runtime.engines.tensorrt import TensorRTEngine
from runtime.memory import MIB, available_bytes, plan_memory
from runtime.selftest import run_selftest
from tests.runtime.engines.fakes import FakeCuda, FakeTensorRT


def build_it(bundle: Bundle, *arguments: str) -> int:
    return build.main([str(bundle.folder), *arguments])


def records(bundle: Bundle, sensor: Sensor = Sensor.IR) -> dict[str, EngineRecord]:
    return {record.key.precision: record for record in EngineCache().records(bundle.digest, sensor)}


def slow_down(trt: FakeTensorRT, precision: str) -> None:
    """Every run of plans of this precision takes 30 ms from now on."""
    original = trt._build

    def built(network: Any, config: Any, log: Any) -> bytes | None:
        slow = (b"QuantizeLinear" in network.model) == (precision == "int8")
        trt.slow_down = lambda batch: time.sleep(0.03 if slow else 0)
        return original(network, config, log)

    trt._build = built  # type: ignore[method-assign]


def test_every_sensor_gets_an_engine_that_passed_and_auto_takes_it(
    trt: FakeTensorRT, toy_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_it(toy_bundle) == 0
    out = capsys.readouterr().out
    for sensor in Sensor:
        assert f"\n{sensor.value:<8}fp32" in out
        engine = open_engine(toy_bundle, sensor)
        assert isinstance(engine, TensorRTEngine) and "built and checked on this Orin" in engine.reason
        assert run_selftest(engine, read_selftest(toy_bundle, sensor)).passed
    assert out.count("the fastest that passed its self-test") == 3
    assert {config.profiles == [(1, 1, 1), (1, 4, 4)] for config in trt.builds} == {True}
    assert all(config.cleared == ["tf32"] for config in trt.builds)
    assert set(trt.flags) == {2}  # STRONGLY_TYPED is bit 1 in TensorRT 10


@pytest.mark.parametrize(("slow", "fastest"), [("fp32", "int8"), ("int8", "fp32")])
def test_the_faster_precision_is_kept(trt: FakeTensorRT, int8_bundle: Bundle, slow: str, fastest: str) -> None:
    slow_down(trt, slow)
    assert build_it(int8_bundle) == 0
    found = records(int8_bundle)
    assert set(found) == {"int8", "fp32"} and all(record.passed for record in found.values())
    assert {name for name, record in found.items() if record.kept} == {fastest}
    assert {name for name, record in found.items() if EngineCache().has_plan(record)} == {fastest}
    assert open_engine(int8_bundle, Sensor.IR, "tensorrt").precision == fastest
    assert found[fastest].times_ms.keys() == {1, 4}


def test_what_is_there_is_not_built_again(trt: FakeTensorRT, int8_bundle: Bundle) -> None:
    assert build_it(int8_bundle) == 0 and len(trt.builds) == 2
    assert build_it(int8_bundle) == 0 and len(trt.builds) == 2  # the loser's plan is gone, its record is enough
    loser = next(record for record in records(int8_bundle).values() if not record.kept)
    assert build_it(int8_bundle, "--precision", loser.key.precision) == 0 and len(trt.builds) == 3
    assert [record.key.precision for record in records(int8_bundle).values() if record.kept] == [loser.key.precision]


def test_a_stopped_build_goes_on_where_it_was(
    trt: FakeTensorRT, int8_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = trt._build, 0

    def stopping(network: Any, config: Any, log: Any) -> bytes | None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return original(network, config, log)

    monkeypatch.setattr(trt, "_build", stopping)
    assert build_it(int8_bundle) == 130  # as a shell says it of Ctrl-C
    assert set(records(int8_bundle)) == {"int8"}
    assert build_it(int8_bundle) == 0
    assert count == 3 and len(trt.builds) == 2


def test_another_batch_replaces_the_engine(trt: FakeTensorRT, toy_bundle: Bundle) -> None:
    assert build_it(toy_bundle, "--sensor", "ir") == 0
    assert build_it(toy_bundle, "--sensor", "ir", "--batch", "1") == 0
    kept = [record for record in EngineCache().records(toy_bundle.digest, Sensor.IR) if record.kept]
    assert [record.key.batches for record in kept] == [((1, 1, 1),)]
    engine = open_engine(toy_bundle, Sensor.IR)
    assert isinstance(engine, TensorRTEngine) and engine.most == 1
    assert build_it(toy_bundle, "--sensor", "ir") == 0 and len(trt.builds) == 3


def test_no_engine_that_misses_its_self_test_is_kept(
    trt: FakeTensorRT, int8_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    selftest = read_selftest(int8_bundle, Sensor.IR)
    write_selftest(int8_bundle.folder / "selftest.ir.npz", replace(selftest, boxes=selftest.boxes + 1))
    bundle = write_manifest(int8_bundle.folder, int8_bundle.manifest)
    assert build_it(bundle) == 1
    captured = capsys.readouterr()
    assert captured.out.count("FAILED") == 2 and "No engine for ir passed its self-test" in captured.err
    assert not any(EngineCache().has_plan(record) for record in records(bundle).values())
    assert open_engine(bundle, Sensor.IR).name == "onnxruntime"


def test_a_precision_that_cannot_be_built_leaves_the_other(
    trt: FakeTensorRT, int8_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    trt.fail_builds = {"int8"}
    assert build_it(int8_bundle) == 0
    assert {name: record.kept for name, record in records(int8_bundle).items()} == {"fp32": True}
    assert "Could not find any implementation for node conv_1" in caplog.text


def test_nothing_that_can_be_built_is_exit_3(
    trt: FakeTensorRT, int8_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.fail_builds = {"int8", "float"}
    assert build_it(int8_bundle) == 3
    assert "cannot build the engine" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [False, True])
def test_the_timing_cache_is_kept_and_used(trt: FakeTensorRT, int8_bundle: Bundle, damage: bool) -> None:
    assert build_it(int8_bundle, "--precision", "int8") == 0
    [path] = EngineCache().folder.glob("timing.*.cache")
    key = records(int8_bundle)["int8"].key
    assert EngineCache().timing(key) == b"timing+1"
    if damage:
        path.write_bytes(b"half")
    assert build_it(int8_bundle, "--precision", "fp32") == 0
    assert EngineCache().timing(key) == (b"timing+1" if damage else b"timing+1+1")


def test_the_record_holds_what_was_measured(trt: FakeTensorRT, toy_bundle: Bundle) -> None:
    assert build_it(toy_bundle, "--sensor", "sar") == 0
    [path] = (EngineCache().folder / toy_bundle.digest).glob("sar.*.json")
    values = json.loads(path.read_text())
    assert values["key"]["gpu"] == "Orin, 8 multiprocessors" and values["key"]["compute_capability"] == "8.7"
    assert set(values["times_ms"]) == {"1", "4"} and set(values["times_ms"]["1"]) == {"median", "p95", "graph_median"}
    assert values["selftest"]["num_missed"] == 0 and values["passed"] and values["kept"]


@pytest.mark.parametrize(
    ("difference", "said"),
    [("gpu", "gpu Orin, 8"), ("version", "version 10.3.0.30, here 11.4.0"), ("plugin", "plugin none, here")],
)
def test_engines_of_another_device_version_or_plugin_are_not_loaded(
    trt: FakeTensorRT, toy_bundle: Bundle, difference: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert build_it(toy_bundle, "--sensor", "rgb") == 0
    if difference == "gpu":
        monkeypatch.setattr(trt.cuda, "gpu", replace(trt.cuda.gpu, multiprocessors=16))
    elif difference == "version":
        monkeypatch.setattr(trt, "__version__", "11.4.0")
    else:
        (tmp_path / "plugin.so").write_bytes(b"a library")
        monkeypatch.setenv("BABELRS_TENSORRT_PLUGIN", str(tmp_path / "plugin.so"))
    engine = open_engine(toy_bundle, Sensor.RGB)
    assert engine.name == "onnxruntime" and "not tensorrt" in engine.reason and said in engine.reason
    with pytest.raises(DeviceError, match="another device or version"):
        open_engine(toy_bundle, Sensor.RGB, "tensorrt")


def test_an_engine_that_breaks_while_loading_falls_back_with_a_warning(
    trt: FakeTensorRT, toy_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert build_it(toy_bundle, "--sensor", "rgb") == 0
    trt.refuse_plans = True
    caplog.clear()
    engine = open_engine(toy_bundle, Sensor.RGB)
    assert engine.name == "onnxruntime" and "incompatible device" in engine.reason
    [warned] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned.startswith("rgb: the engine that was built cannot be used: ")


def test_another_bundle_s_engine_is_not_taken(trt: FakeTensorRT, toy_bundle: Bundle) -> None:
    assert build_it(toy_bundle, "--sensor", "rgb") == 0
    engine = open_engine(replace(toy_bundle, digest="e" * 64), Sensor.RGB)
    assert engine.name == "onnxruntime" and "No engine for rgb of this bundle" in engine.reason


def test_too_little_memory_says_the_numbers_and_builds_nothing(
    trt: FakeTensorRT, toy_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.build_sensor.available_bytes", lambda: 500 * MIB)
    assert build_it(toy_bundle) == 3
    error = capsys.readouterr().err
    assert "The build needs 632 MiB, and 500 MiB are free" in error and not trt.builds


def test_a_discrete_gpu_s_own_memory_counts(
    trt: FakeTensorRT, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trt, "cuda", FakeCuda(integrated=False, free=400 * MIB))
    assert build_it(toy_bundle) == 3
    assert "400 MiB are free" in capsys.readouterr().err


def test_the_workspace_follows_the_free_memory() -> None:
    weights = 100 * MIB
    roomy, tight = plan_memory(64 << 30, weights), plan_memory(1300 * MIB, weights)
    assert (roomy.workspace_bytes, roomy.needed_bytes) == (1024 * MIB, (600 + 400 + 1024) * MIB)
    assert tight.workspace_bytes == 150 * MIB
    assert plan_memory(1300 * MIB, weights, 300 * MIB).workspace_bytes == 300 * MIB
    with pytest.raises(DeviceError, match="needs 1301 MiB, and 1300 MiB are free"):
        plan_memory(1300 * MIB, weights, 301 * MIB)


def test_free_memory_is_what_programs_may_still_take(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  7800000 kB\nMemFree:  100 kB\nMemAvailable:  2048 kB\n")
    assert available_bytes(meminfo) == 2 * MIB
    with pytest.raises(DeviceError, match="does not say"):
        available_bytes(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "0"], "--batch is 0"),
        (["--workspace-mib", "0"], "--workspace-mib is 0"),
        (["--precision", "int4"], "Unknown --precision int4"),
        (["--precision", "int8"], "gives ir in fp32 only"),
        (["--sensor", "lidar"], "Unknown sensor 'lidar'"),
        (["--compute-capability", "sm86"], "sm86 is none"),
        (["--compute-capability", "8.6"], "tensorrt builds on the GPU only"),
    ],
)
def test_wrong_arguments_are_exit_2(
    trt: FakeTensorRT, toy_bundle: Bundle, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_it(toy_bundle, *arguments) == 2
    assert said in capsys.readouterr().err and not trt.builds


def test_an_altered_bundle_is_exit_2(trt: FakeTensorRT, int8_bundle: Bundle) -> None:
    (int8_bundle.folder / "weights.bin").write_bytes(b"\0" * 12)
    assert build_it(int8_bundle) == 2 and not trt.builds


def test_without_a_gpu_the_remedy_names_what_works_without(
    toy_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.engines.cuda_driver.LIBRARY", "libcuda-none.so")
    monkeypatch.setattr(tensorrt_api, "find_tensorrt", lambda name="auto": FakeTensorRT().api("tensorrt_rtx"))
    assert build_it(toy_bundle) == 3
    error = capsys.readouterr().err
    assert "No GPU" in error and "--compute-capability" in error


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(BabelRSError, match="Unknown module 'tensorflow'"):
        tensorrt_api.find_tensorrt("tensorflow")


@pytest.mark.parametrize(
    ("version", "said"),
    [("8.6.1", "10.3 is the oldest"), ("10.2.0", "10.3 is the oldest"), (None, "cannot be imported")],
)
def test_a_missing_or_old_tensorrt_is_said(version: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> FakeTensorRT:
        if version is None:
            raise ImportError("libnvinfer.so.10: cannot open shared object file")
        return FakeTensorRT(version=version)

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", find)
    with pytest.raises(DeviceError, match=said):
        tensorrt_api.find_tensorrt("tensorrt")


@pytest.mark.parametrize(("version", "flag", "expected"), [("10.3.0", 1, 2), ("11.1.0", 0, 1), ("12.0.0", None, 0)])
def test_networks_are_strongly_typed_in_every_version(version: str, flag: int | None, expected: int) -> None:
    assert FakeTensorRT(version=version, strong_flag=flag).api().network_flags == expected
