from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from compress.fold_weights import fold_weights, quantized


def model(weight: np.ndarray, scale: np.ndarray, shared: bool = False) -> object:
    """``x @ dequantize(quantize(w))``; scales of the weight along its axis 0."""
    zero = np.zeros(scale.shape, np.int8)
    nodes = [
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(scale)),
        helper.make_node("QuantizeLinear", ["v", "s", "z"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    if shared:
        nodes.append(helper.make_node("ReduceSum", ["w"], ["total"], keepdims=0))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weight.shape[0]])]
    outputs += [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])] if shared else []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weight.shape[1]])]
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(zero, "z")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(given: object, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
    return session.run(None, {"x": x})


@pytest.mark.parametrize("seed", range(5))
def test_a_folded_graph_computes_the_same_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((6, 5)).astype(np.float32)
    scale = (np.abs(weight).max(1) / rng.uniform(60, 127, 6)).astype(np.float32)  # some values are clipped
    x = rng.standard_normal((1, 5)).astype(np.float32)
    given = model(weight, scale)
    before = run(given, x)
    assert fold_weights(given) == 1  # type: ignore[arg-type]
    checker.check_model(given)
    np.testing.assert_array_equal(run(given, x)[0], before[0])
    graph = given.graph  # type: ignore[attr-defined]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert stored["q"].data_type == TensorProto.INT8 and "w" not in stored
    assert not any(node.op_type in ("QuantizeLinear", "Identity") for node in graph.node)


def test_a_weight_that_something_else_reads_stays() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = model(weight, np.array([0.05, 0.1], np.float32), shared=True)
    before = run(given, np.ones((1, 3), np.float32))
    fold_weights(given)  # type: ignore[arg-type]
    after = run(given, np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1] == 15.0


def test_halves_round_to_even_and_ends_are_clipped() -> None:
    found = quantized(np.array([[0.5, 1.5, -2.5, 900.0, -900.0]]), np.array([1.0]), 0)
    assert found.tolist() == [[0, 2, -2, 127, -128]]
