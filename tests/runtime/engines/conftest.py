from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from babelrs.bundle import Bundle, write_manifest, write_selftest
from babelrs.bundle import read_selftest as read
from babelrs.sensors import Sensor
from runtime.engines import choice, tensorrt_api, trial
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from tests.runtime.engines.fakes import FakeCuda, FakeTensorRT


@pytest.fixture
def int8_bundle(toy_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The toy bundle with a Q/DQ pair in its infrared graph: INT8 as it is, float32 without."""
    folder = tmp_path / "int8"
    shutil.copytree(toy_bundle.folder, folder)
    entry = toy_bundle.manifest.entry(Sensor.IR)
    model = onnx.load(folder / entry.graph, load_external_data=False)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(-128, np.int8), "zero_point"))
    pair = [
        helper.make_node("QuantizeLinear", ["plane", "step", "zero_point"], ["plane_q"]),
        helper.make_node("DequantizeLinear", ["plane_q", "step", "zero_point"], ["plane_r"]),
    ]
    place = next(index for index, node in enumerate(model.graph.node) if "plane" in node.output)
    for node in model.graph.node[place + 1 :]:
        node.input[:] = ["plane_r" if name == "plane" else name for name in node.input]
    for offset, node in enumerate(pair):
        model.graph.node.insert(place + 1 + offset, node)
    (folder / entry.graph).write_bytes(model.SerializeToString())
    entry = replace(entry, precision="int8")
    outputs = OnnxRuntimeEngine(folder, entry, 1).infer(read(toy_bundle, Sensor.IR).pixels)
    boxes, scores, labels = outputs
    write_selftest(
        folder / entry.selftest, replace(read(toy_bundle, Sensor.IR), boxes=boxes, scores=scores, labels=labels)
    )
    manifest = replace(toy_bundle.manifest, sensors={Sensor.IR: entry})
    return write_manifest(folder, manifest)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    """The only TensorRT and GPU that commands find here; timing is cut short."""
    fake = FakeTensorRT(FakeCuda(integrated=True))
    monkeypatch.setenv("BABELRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BABELRS_TENSORRT_PLUGIN", "")
    monkeypatch.setattr(tensorrt_api, "find_tensorrt", lambda name="auto": fake.api())
    monkeypatch.setattr(choice, "find_tensorrt", lambda name="auto": fake.api())
    monkeypatch.setattr("runtime.engines.cuda.open_cuda", lambda: fake.cuda)
    monkeypatch.setattr(choice, "open_cuda", lambda: fake.cuda)
    monkeypatch.setattr(trial, "RUNS", 5)
    return fake
