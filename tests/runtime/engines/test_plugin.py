"""The plugin library: found where it was built, loaded once, and only then does the function's body go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import babelrs
from babelrs.bundle import Bundle, open_bundle
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime.build import open_place
from runtime.cli import DEMO_BUNDLE
from runtime.engines import plugin, tensorrt_api
from runtime.engines.candidates import candidates
from runtime.engines.plugin import LIBRARY, VARIABLE, find_plugin, load_plugin
from tests.runtime.engines.fakes import FakeTensorRT


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library where an installation has it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(babelrs, "__path__", [str(tmp_path / "elsewhere"), str(tmp_path)])
    library = tmp_path / "lib" / LIBRARY
    library.parent.mkdir()
    library.write_bytes(b"a library")
    return library


def with_registry(creator: Any = "a creator", fault: Exception | None = None) -> tuple[FakeTensorRT, list[str]]:
    trt, loaded = FakeTensorRT(), []

    def load_library(path: str) -> None:
        loaded.append(path)
        if fault is not None:
            raise fault

    registry = SimpleNamespace(
        load_library=load_library, get_creator=lambda *names: creator if names == plugin_names() else None
    )
    trt.get_plugin_registry = lambda: registry  # type: ignore[attr-defined]
    return trt, loaded


def plugin_names() -> tuple[str, str, str]:
    return ("LayerwiseAggregate", "1", "babelrs")


def test_the_library_is_found_beside_the_package_and_for_tensorrt_only(built: Path) -> None:
    assert find_plugin(FakeTensorRT().api()) == built
    assert find_plugin(FakeTensorRT().api("tensorrt_rtx")) is None
    built.unlink()
    assert find_plugin(FakeTensorRT().api()) is None


def test_the_environment_names_another_or_none(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"another")
    monkeypatch.setenv(VARIABLE, str(other))
    assert find_plugin(FakeTensorRT().api()) == other
    monkeypatch.setenv(VARIABLE, "")
    assert find_plugin(FakeTensorRT().api()) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(BabelRSError, match=r"none\.so': no such file"):
        find_plugin(FakeTensorRT().api())


def test_it_is_loaded_once_a_process(built: Path) -> None:
    trt, loaded = with_registry()
    api = trt.api()
    load_plugin(api, built)
    load_plugin(api, built)
    assert loaded == [str(built)]


def test_a_library_that_does_not_load_or_lacks_the_plugin_is_said(built: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot load it \(undefined symbol\)"):
        load_plugin(with_registry(fault=RuntimeError("undefined symbol"))[0].api(), built)
    with pytest.raises(DeviceError, match="holds no plugin babelrs::LayerwiseAggregate"):
        load_plugin(with_registry(creator=None)[0].api(), built)


def test_a_build_loads_it_before_it_parses(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, loaded = with_registry()
    monkeypatch.setattr(tensorrt_api, "find_tensorrt", lambda name="auto": trt.api())
    monkeypatch.setattr("runtime.engines.cuda.open_cuda", lambda: trt.cuda)
    place = open_place("auto")
    assert place.plugin == built and loaded == [str(built)]
    key = place.key(open_bundle(DEMO_BUNDLE), Sensor.IR)
    assert len(key.plugin) == 64


def named(model: onnx.ModelProto, namespace: str = "babelrs", version: str = "1") -> onnx.ModelProto:
    """The model with the attributes by which TensorRT finds a plugin."""
    for node in model.graph.node:
        if node.op_type == plugin.NAME:
            node.attribute.append(onnx.helper.make_attribute("plugin_namespace", namespace))
            node.attribute.append(onnx.helper.make_attribute("plugin_version", version))
    return model


def functions_left(bundle: Bundle, with_plugin: bool) -> list[str]:
    [only] = candidates(bundle, Sensor.SAR, with_plugin)
    return [each.name for each in onnx.load_from_string(only.model()).functions]


@pytest.mark.parametrize(
    ("names", "left"),
    [(None, [plugin.NAME]), ({}, []), ({"namespace": ""}, [plugin.NAME]), ({"version": "2"}, [plugin.NAME])],
)
def test_the_body_goes_only_where_the_plugin_takes_its_place(
    tmp_path: Path, names: dict[str, str] | None, left: list[str]
) -> None:
    bundle = replace(open_bundle(DEMO_BUNDLE), folder=tmp_path)
    model = onnx.load(DEMO_BUNDLE / "model.sar.onnx", load_external_data=False)
    if names is not None:
        model = named(model, **names)
    (tmp_path / "model.sar.onnx").write_bytes(model.SerializeToString())
    assert functions_left(bundle, False) == [plugin.NAME]
    assert functions_left(bundle, True) == left
