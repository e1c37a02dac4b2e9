"""Providers of ONNX Runtime: the first of the table that starts, and a word about those that do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from babelrs.bundle import Bundle
from babelrs.sensors import Sensor
from runtime.engines import open_engine

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


def listed(monkeypatch: pytest.MonkeyPatch, names: list[str], starting: set[str], raising: set[str]) -> list[str]:
    """Make ONNX Runtime list providers; those neither starting nor raising are left out silently, as the real do."""
    original, tried = onnxruntime.InferenceSession, []

    def open_session(path: str, options: Any, providers: list[str]) -> Any:
        tried.append(providers[0])
        if providers[0] in raising:
            raise RuntimeError("CUDA failure 35: driver version is insufficient\nand more")
        session = original(path, options, providers=[CPU])
        started = [name for name in providers if name in starting or name == CPU]
        return SimpleNamespace(
            get_providers=lambda: started, get_inputs=session.get_inputs, get_outputs=session.get_outputs,
            run=session.run,
        )  # fmt: skip

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    return tried


@pytest.mark.parametrize(
    ("names", "starting", "raising", "tried", "reason"),
    [
        (["AzureExecutionProvider", CPU], set(), set(), [CPU], "on the CPU"),
        ([TENSORRT, CUDA, CPU], {CUDA, TENSORRT}, set(), [CUDA], "on the GPU by its CUDA provider"),
        ([TENSORRT, CUDA, CPU], {TENSORRT}, {CUDA}, [CUDA, TENSORRT], "on the GPU by its TensorRT provider"),
        ([CUDA, CPU], set(), set(), [CUDA, CPU], "on the CPU"),
        ([CUDA, CPU], set(), {CUDA}, [CUDA, CPU], "on the CPU"),
    ],
)
def test_the_first_provider_that_starts_is_taken(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    names: list[str], starting: set[str], raising: set[str], tried: list[str], reason: str,
) -> None:  # fmt: skip
    found = listed(monkeypatch, names, starting, raising)
    engine = open_engine(toy_bundle, Sensor.IR, "onnxruntime", 1)
    assert found == tried and engine.reason == reason
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split()[2] for line in warned] == tried[:-1]
    assert all("driver version is insufficient" in line or "libraries do not load" in line for line in warned)


def test_auto_says_which_engine_it_took_and_why(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BABELRS_CACHE", str(tmp_path))
    with caplog.at_level("INFO"):
        engine = open_engine(toy_bundle, Sensor.IR, "auto", 1)
    assert engine.name == "onnxruntime" and "not tensorrt: No engine for ir of this bundle" in engine.reason
    assert f"ir: engine onnxruntime (fp32): {engine.reason}" in caplog.text


def test_threads_that_wait_spin_within_a_run_and_sleep_between_runs(toy_bundle: Bundle) -> None:
    engine = open_engine(toy_bundle, Sensor.IR, "onnxruntime")
    options = engine._session.get_session_options()  # type: ignore[attr-defined]
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
