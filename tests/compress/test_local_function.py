from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from compress.local_function import add_aggregate_function
from train.models.aggregate import layerwise_aggregate

HEIGHT, WIDTH, CHANNELS = 3, 5, 8


def model_of(num_taps: int, num_levels: int, prefix: int, epsilon: float = 1e-6, count: int = 1) -> onnx.ModelProto:
    """A graph of nothing but the aggregation, its weights as inputs."""
    taps = [f"tap{index}" for index in range(num_taps)]
    levels = [f"level{index}" for index in range(num_levels)]
    nodes = [
        helper.make_node(
            "LayerwiseAggregate", [*taps, "gamma", "beta", "weights"], [name + "_" * copy for name in levels],
            domain="babelrs", epsilon=epsilon, prefix_tokens=prefix, height=HEIGHT, width=WIDTH,
            num_levels=num_levels, plugin_namespace="babelrs", plugin_version="1",
        )
        for copy in range(count)
    ]  # fmt: skip
    shapes: dict[str, list[str | int | None]] = {
        **{tap: ["N", prefix + HEIGHT * WIDTH, CHANNELS] for tap in taps},
        "gamma": [num_taps, CHANNELS],
        "beta": [num_taps, CHANNELS],
        "weights": [num_levels, num_taps],
    }
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CHANNELS, HEIGHT, WIDTH]) for name in levels
    ]
    graph = helper.make_graph(nodes, "aggregate", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, feeds
    )


def feeds_of(num_taps: int, num_levels: int, prefix: int, batch: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([num_taps, num_levels, prefix, batch])
    shape = (batch, prefix + HEIGHT * WIDTH, CHANNELS)
    feeds = {f"tap{index}": rng.normal(index, spread * (index + 1), shape) for index in range(num_taps)}
    feeds["gamma"], feeds["beta"] = rng.normal(1, 0.5, (2, num_taps, CHANNELS))
    feeds["weights"] = rng.normal(0, 1, (num_levels, num_taps))
    return {name: value.astype(np.float32) for name, value in feeds.items()}


def expected(feeds: dict[str, np.ndarray], num_taps: int, prefix: int) -> list[np.ndarray]:
    tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
    taps = [tensors[f"tap{index}"] for index in range(num_taps)]
    levels = layerwise_aggregate(taps, tensors["gamma"], tensors["beta"], tensors["weights"], prefix, (HEIGHT, WIDTH))
    return [level.numpy() for level in levels]


@pytest.mark.parametrize("num_taps", [1, 2, 3, 4])
@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_function_s_body_computes_what_pytorch_does(num_taps: int, num_levels: int, prefix: int) -> None:
    model = model_of(num_taps, num_levels, prefix)
    add_aggregate_function(model)
    onnx.checker.check_model(model)
    for batch in (1, 3):
        feeds = feeds_of(num_taps, num_levels, prefix, batch)
        found = run(model, feeds)
        assert len(found) == num_levels
        for level, wanted in zip(found, expected(feeds, num_taps, prefix), strict=True):
            np.testing.assert_allclose(level, wanted, atol=2e-5)


def test_epsilon_is_the_caller_s() -> None:
    """Tokens so even that epsilon decides the outcome."""
    feeds = feeds_of(2, 1, 0, 1, spread=1e-3)
    results = []
    for epsilon in (1e-6, 1e-2):
        model = model_of(2, 1, 0, epsilon)
        add_aggregate_function(model)
        results.append(run(model, feeds)[0])
    np.testing.assert_allclose(results[0], expected(feeds, 2, 0)[0], atol=1e-3)
    assert np.abs(results[0] - results[1]).max() > 0.1


def test_the_body_has_standard_operators_only() -> None:
    model = model_of(3, 2, 1)
    add_aggregate_function(model)
    (function,) = model.functions
    assert (function.domain, function.name) == ("babelrs", "LayerwiseAggregate")
    assert {node.domain for node in function.node} == {""}
    assert set(function.attribute) == {attribute.name for attribute in model.graph.node[0].attribute}
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", 17)]
    assert {entry.domain for entry in model.opset_import} == {"", "babelrs"}


@pytest.mark.parametrize("count", [0, 2])
def test_a_graph_without_exactly_one_aggregation_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} babelrs::LayerwiseAggregate"):
        add_aggregate_function(model_of(2, 2, 0, count=count))
