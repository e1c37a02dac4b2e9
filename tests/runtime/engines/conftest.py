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
from runtime.engines.onnxruntime import OnnxRuntimeEngine


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
