from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from compress.compact import compact
from compress.onnx_graph import sort_nodes

ODD = np.linspace(0, 1, 600, dtype=np.float32)
EXACT = (np.arange(600, dtype=np.float32) + 0.5) * 8


def model_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [600])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [600])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
        value_info=[helper.make_tensor_value_info("sum.of.all", TensorProto.FLOAT, [600])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def example() -> ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "odd"], ["first.product"], "first"),
        helper.make_node("Add", ["first.product", "exact"], ["sum.of.all"], "second"),
        helper.make_node("Mul", ["sum.of.all", "odd.again"], ["z"], "third"),
        helper.make_node("Add", ["z", "exact"], ["y"], "fourth"),
    ]
    return model_of(nodes, {"odd": ODD, "exact": EXACT, "odd.again": ODD.copy(), "spare": ODD + 1})


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["y"], {"x": x})[0]
    return found


def test_a_compact_graph_computes_the_same_bits_in_fewer_bytes() -> None:
    plain, small, x = example(), example(), np.random.default_rng(0).normal(size=600).astype(np.float32)
    compact(small)
    onnx.checker.check_model(small)
    np.testing.assert_array_equal(run(small, x), run(plain, x))
    types = sorted(tensor.data_type for tensor in small.graph.initializer)
    assert types == [TensorProto.FLOAT, TensorProto.FLOAT16]  # one of the equal ones, and the exact one in half
    assert len(small.SerializeToString()) < 600 * (4 + 2) + 400 and not small.graph.value_info
    assert [node.name for node in small.graph.node if node.name in ("first", "second", "third", "fourth")] == [
        "first", "second", "third", "fourth",
    ]  # fmt: skip


def test_nodes_are_put_behind_those_they_read() -> None:
    model = example()
    order = [model.graph.node[place] for place in (2, 0, 3, 1)]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    sort_nodes(model.graph)
    onnx.checker.check_model(model)
    assert [node.name for node in model.graph.node] == ["first", "second", "third", "fourth"]
