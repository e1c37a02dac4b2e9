from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from babelrs.sensors import Sensor
from compress.export import HALF_OPSET, export_graph
from compress.float_graphs import in_half
from compress.folding import folded
from compress.wide_norms import OPERATORS, widen
from tests.train.builders import random_detector, random_pixels, tiny_model


def norms(kind: int, axis: int) -> onnx.ModelProto:
    """A LayerNorm and a softmax of ``x`` (5, 8) of this type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    scale, bias = np.linspace(0.5, 2, 8).astype(dtype), np.linspace(-1, 1, 8).astype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["n"], "norm", axis=-1),
            helper.make_node("Softmax", ["n"], ["y"], "softmax", axis=axis),
        ],
        "norms",
        [helper.make_tensor_value_info("x", kind, [5, 8])],
        [helper.make_tensor_value_info("y", kind, [5, 8])],
        [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)


@pytest.mark.parametrize("axis", [-1, 0])
def test_the_result_is_the_float32_one_rounded_once(axis: int) -> None:
    model = norms(TensorProto.FLOAT16, axis)
    assert widen(model) == 2
    onnx.checker.check_model(model, full_check=True)
    x = (300 * np.random.default_rng(3).normal(size=(5, 8))).astype(np.float16)  # squares beyond float16's 65504
    wide = x.astype(np.float64)
    scale, bias = np.linspace(0.5, 2, 8).astype(np.float16), np.linspace(-1, 1, 8).astype(np.float16)
    normed = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * scale + bias
    grown = np.exp(normed.astype(np.float16).astype(np.float64))
    np.testing.assert_allclose(run(model, x=x)[0], grown / grown.sum(axis, keepdims=True), rtol=2e-3, atol=1e-4)


def test_float32_graphs_stay_as_they_are() -> None:
    model = norms(TensorProto.FLOAT, -1)
    before = model.SerializeToString()
    assert widen(model) == 0 and model.SerializeToString() == before


def test_no_norm_of_a_detectors_graph_stays_float16_and_outputs_hardly_move() -> None:
    detector = random_detector(tiny_model(), 6)
    graph = export_graph(in_half(folded(detector)), Sensor.IR, HALF_OPSET)
    pixels = random_pixels((1, 64, 64, 1), 5).numpy()
    before = run(graph, pixels=pixels)
    count = sum(node.op_type in OPERATORS for node in graph.graph.node)
    assert 0 < widen(graph) <= count
    onnx.checker.check_model(graph)
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(graph).graph.value_info}
    assert {types[n.input[0]] for n in graph.graph.node if n.op_type in OPERATORS} == {TensorProto.FLOAT}
    for mine, theirs in zip(run(graph, pixels=pixels)[:2], before[:2], strict=True):
        assert np.abs(np.sort(mine.ravel()) - np.sort(theirs.ravel())).max() < 0.5
    assert widen(graph) == 0
