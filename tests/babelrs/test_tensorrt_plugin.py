"""The built plugin library in TensorRT's own registry; which needs TensorRT, or its lean runtime, but no GPU."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import babelrs

pytestmark = pytest.mark.tensorrt

LIBRARY = "libbabelrs_tensorrt.so"
FIELDS = {"prefix_tokens": 1, "height": 3, "width": 5, "num_levels": 2, "epsilon": 1e-6}


@pytest.fixture(scope="module")
def trt() -> Any:
    for name in ("tensorrt", "tensorrt_lean"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    pytest.skip("no TensorRT: neither tensorrt nor tensorrt_lean can be imported")


@pytest.fixture(scope="module")
def library() -> Path:
    given = os.environ.get("BABELRS_TENSORRT_PLUGIN")
    places = [Path(given)] if given else [Path(folder) / "lib" / LIBRARY for folder in babelrs.__path__]
    for path in places:
        if path.is_file():
            return path
    pytest.skip(f"no plugin library at {', '.join(map(str, places))} (build it, or set BABELRS_TENSORRT_PLUGIN)")


@pytest.fixture(scope="module")
def creator(trt: Any, library: Path) -> Iterator[Any]:
    registry = trt.get_plugin_registry()
    handle = registry.load_library(str(library))
    yield registry.get_creator("LayerwiseAggregate", "1", "babelrs")
    registry.deregister_library(handle)


@pytest.fixture
def create(trt: Any, creator: Any) -> Callable[..., Any]:
    def collection(fields: dict[str, Any]) -> Any:
        entries = []
        for name, value in fields.items():
            whole = isinstance(value, int)
            values = np.atleast_1d(np.asarray(value, np.int32 if whole else np.float32))
            kind = trt.PluginFieldType.INT32 if whole else trt.PluginFieldType.FLOAT32
            entries.append(trt.PluginField(name, values, kind))
        return trt.PluginFieldCollection(entries)

    def create(fields: dict[str, Any]) -> Any:
        return creator.create_plugin("aggregate", collection(fields), trt.TensorRTPhase.BUILD)

    return create


def test_the_registry_lists_the_creator_and_its_fields(trt: Any, creator: Any) -> None:
    listed = [
        (entry.name, entry.plugin_namespace, entry.plugin_version) for entry in trt.get_plugin_registry().all_creators
    ]
    assert ("LayerwiseAggregate", "babelrs", "1") in listed
    assert [field.name for field in creator.field_names] == [*FIELDS, "tap_scales", "level_scales"]


@pytest.mark.parametrize(
    "scales", [{}, {"tap_scales": [0.5, 0.25]}, {"tap_scales": [0.5], "level_scales": [0.1, 0.2]}], ids=len
)
def test_good_fields_make_a_plugin_with_every_capability(
    trt: Any, create: Callable[..., Any], scales: dict[str, Any]
) -> None:
    plugin = create({**FIELDS, **scales})
    assert plugin is not None
    for capability in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
        assert plugin.get_capability_interface(capability) is not None
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    assert (core.plugin_name, core.plugin_namespace, core.plugin_version) == ("LayerwiseAggregate", "babelrs", "1")
    assert plugin.get_capability_interface(trt.PluginCapabilityType.BUILD).num_outputs == FIELDS["num_levels"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**FIELDS, "height": 0}, "field height is 0, expected at least 1"),
        ({**FIELDS, "width": 5.0}, "field width is 1 of kFLOAT32, expected 1 of kINT32"),
        ({name: value for name, value in FIELDS.items() if name != "epsilon"}, "field epsilon is missing"),
        ({**FIELDS, "level_scales": [1.0]}, "field level_scales has 1 values, expected num_levels = 2"),
    ],
)
def test_wrong_fields_are_refused_with_the_reason_logged(
    create: Callable[..., Any], capfd: pytest.CaptureFixture[str], fields: dict[str, Any], reason: str
) -> None:
    assert create(fields) is None
    logged = capfd.readouterr()
    assert reason in logged.out + logged.err  # stderr, unless this process has a TensorRT logger
