from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from benchmarks.graph_cost import GraphCost, graph_cost
from benchmarks.kernels import Workload
from benchmarks.static_graph import static_graph
from compress.export import export_graph
from tests.train.builders import random_detector, tiny_model
from train.footprint import forward_flops
from train.models.detector import Detector

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
node = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    weights: dict[str, Any],
    kind: int = FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    """A graph from ``x`` to ``y``."""
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cost(given: onnx.ModelProto, batch: int = 1, kind: Any = "tensorrt") -> GraphCost:
    return graph_cost(static_graph(given, batch), kind)


def floats(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_a_convolution_by_hand() -> None:
    """3 x 8 x 8 to 4 x 4 x 4 at stride 2: 64 outputs of 27 multiply-adds, a ReLU with it."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["y"]),
    ]
    found = cost(model(nodes, ["N", 3, 8, 8], {"w": floats(4, 3, 3, 3), "b": floats(4)}))
    (kernel,) = found.kernels
    assert kernel.operators == ("Conv", "Relu")
    assert found.product_operations == 2 * 64 * 27
    assert found.operations == {"int8": 0, "fp16": 0, "fp32": 2 * 64 * 27 + 64}
    assert (kernel.read_bytes, kernel.weight_bytes, kernel.written_bytes) == (4 * 3 * 64, 4 * (108 + 4), 4 * 64)
    assert found.weight_bytes == 4 * 112
    assert found.unfused_bytes == found.moved_bytes + 2 * 4 * 64  # the ReLU's input written and read


def test_grouped_and_transposed_convolutions_by_hand() -> None:
    grouped = model([node("Conv", ["x", "w"], ["y"], group=6)], [1, 6, 5, 5], {"w": floats(6, 1, 3, 3)})
    assert cost(grouped).product_operations == 2 * (6 * 3 * 3) * 9
    up = model([node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], [1, 6, 5, 5], {"w": floats(6, 4, 2, 2)})
    assert cost(up).product_operations == 2 * (6 * 5 * 5) * (4 * 2 * 2)


def test_matrix_products_by_hand() -> None:
    """(2, 5, 7) by (7, 6), and Gemm with either factor turned."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    found = cost(model(nodes, ["N", 5, 7], {"w": floats(7, 6), "b": floats(6)}), batch=2)
    assert found.operations["fp32"] == 2 * (2 * 5 * 6) * 7 + 60
    assert found.moved_bytes == 4 * (70 + 42 + 6 + 60)
    gemm = [node("Gemm", ["x", "w", "b"], ["y"], transA=1, transB=1)]
    assert cost(model(gemm, [7, 5], {"w": floats(6, 7), "b": floats(6)}), batch=7).operations["fp32"] == 2 * 30 * 7


def test_float16_counts_two_bytes_and_its_own_operations() -> None:
    weights = {"w": np.ones((4, 3, 1, 1), np.float16)}
    found = cost(model([node("Conv", ["x", "w"], ["y"])], [1, 3, 8, 8], weights, HALF))
    assert found.operations == {"int8": 0, "fp16": 2 * 256 * 3, "fp32": 0}
    assert found.moved_bytes == 2 * (192 + 12 + 256)


def quantized(weight_in: str) -> list[onnx.NodeProto]:
    """Two 1 x 1 convolutions between Q/DQ pairs."""
    pairs = [
        [node("QuantizeLinear", [a, "s", "z"], [f"{a}_q"]), node("DequantizeLinear", [f"{a}_q", "s", "z"], [f"{a}_d"])]
        for a in ("x", "r")
    ]
    weight = [node("DequantizeLinear", ["w_q", "ws", "wz"], ["w_d"], axis=0)]
    if weight_in == "float":
        weight = [node("QuantizeLinear", ["w", "ws", "wz"], ["w_q"], axis=0), *weight]
    first = [node("Conv", ["x_d", "w_d"], ["c"]), node("Relu", ["c"], ["r"])]
    return [*weight, *pairs[0], *first, *pairs[1], node("Conv", ["r_d", "w_d"], ["y"])]


@pytest.mark.parametrize("weight_in", ["int8", "float"])
@pytest.mark.parametrize("activations", [np.int8, np.uint8])
def test_between_q_and_dq_a_tensor_is_one_byte_wide_and_convolutions_are_int8(weight_in: str, activations: Any) -> None:
    scales = {"s": np.float32(0.1), "z": activations(0), "ws": floats(8), "wz": np.zeros(8, np.int8)}
    weight = {"w_q": np.ones((8, 8, 1, 1), np.int8)} if weight_in == "int8" else {"w": floats(8, 8, 1, 1)}
    found = cost(model(quantized(weight_in), [1, 8, 4, 4], {**scales, **weight}))
    assert [kernel.operators for kernel in found.kernels] == [
        ("QuantizeLinear",), ("Conv", "Relu", "QuantizeLinear"), ("Conv",)
    ]  # fmt: skip
    assert found.operations == {"int8": 2 * 2 * 128 * 8, "fp16": 0, "fp32": 128}
    moved = [(k.read_bytes, k.weight_bytes, k.written_bytes) for k in found.kernels]
    assert moved == [(4 * 128, 0, 128), (128, 64, 128), (128, 64, 4 * 128)]
    assert found.weight_bytes == 64  # shared by both


def test_a_tensor_that_is_also_read_in_float_is_written_in_both_widths() -> None:
    """A residual: the first convolution's output goes on quantized, and as it is into the sum."""
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Conv", ["d", "w"], ["c"]),
        node("Add", ["c", "a"], ["y"]),
    ]
    weights = {"w": floats(8, 8, 1, 1), "s": np.float32(0.1), "z": np.int8(0)}
    first, second = cost(model(nodes, [1, 8, 4, 4], weights)).kernels
    assert first.written_bytes == 128 + 4 * 128
    assert (second.operators, second.read_bytes) == (("Conv", "Add"), 128 + 4 * 128)
    assert second.operations == {"fp32": 2 * 128 * 8 + 128}  # its weights are float: not an int8 product


def test_moves_of_int8_stay_one_byte_wide() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Reshape", ["d", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["t"], perm=[0, 2, 1]),
        node("DequantizeLinear", ["w_q", "s", "z"], ["w"]),
        node("Transpose", ["w"], ["w_t"]),
        node("MatMul", ["t", "w_t"], ["y"]),
    ]
    weights = {"s": np.float32(1), "z": np.int8(0), "shape": np.array([0, 8, 16]), "w_q": np.ones((3, 8), np.int8)}
    found = cost(model(nodes, [1, 8, 4, 4], weights))
    assert [k.operators for k in found.kernels] == [("QuantizeLinear",), ("Transpose",), ("MatMul",)]
    assert found.operations["int8"] == 2 * 48 * 8
    assert [k.moved_bytes for k in found.kernels] == [5 * 128, 2 * 128, 128 + 24 + 4 * 48]


def test_silu_and_a_residual_are_one_kernel_with_the_convolution() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Sigmoid", ["a"], ["g"]),
        node("Mul", ["a", "g"], ["m"]),
        node("Add", ["m", "x"], ["y"]),
    ]
    found = cost(model(nodes, [1, 8, 4, 4], {"w": floats(8, 8, 1, 1)}))
    (kernel,) = found.kernels
    assert (kernel.read_bytes, kernel.written_bytes) == (4 * 128, 4 * 128)  # x read once for both
    assert found.unfused_bytes == 4 * (64 + 2 * 128 + 2 * 128 + 3 * 128 + 3 * 128)


def test_a_gate_is_not_fused_into_what_it_waits_for() -> None:
    """Squeeze and excitation: the product needs the pooled output of the very convolution it scales."""
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Conv", ["p", "w"], ["c"]),
        node("Sigmoid", ["c"], ["g"]),
        node("Mul", ["a", "g"], ["y"]),
    ]
    found = cost(model(nodes, [1, 8, 4, 4], {"w": floats(8, 8, 1, 1)}))
    assert [k.operators for k in found.kernels] == [("Conv",), ("GlobalAveragePool",), ("Conv", "Sigmoid"), ("Mul",)]
    assert [k.read_bytes for k in found.kernels] == [4 * 128, 4 * 128, 4 * 8, 4 * (128 + 8)]


def test_a_slice_reads_what_it_keeps_and_a_view_costs_nothing() -> None:
    nodes = [
        node("Slice", ["x", "from", "to", "axis"], ["s"]),
        node("Reshape", ["s", "shape"], ["r"]),
        node("Transpose", ["r"], ["y"], perm=[1, 0]),
    ]
    weights = {"from": np.array([2]), "to": np.array([4]), "axis": np.array([1]), "shape": np.array([0, -1])}
    found = cost(model(nodes, [1, 8, 4, 4], weights))
    assert [(k.read_bytes, k.written_bytes, k.weight_bytes) for k in found.kernels] == [(128, 128, 0), (128, 128, 0)]
    assert found.operations["fp32"] == 0


def attention() -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["v"]),
        node("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
        node("MatMul", ["x", "k"], ["scores"]),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["shares"]),
        node("MatMul", ["shares", "v"], ["y"]),
    ]
    return model(nodes, ["N", 16, 8], {"w": floats(8, 8), "scale": np.float32(0.5)})


def test_tensorrt_keeps_attention_scores_in_the_kernel_and_onnx_runtime_moves_them() -> None:
    one, several = cost(attention()), cost(attention(), kind="onnxruntime")
    assert [k.operators for k in one.kernels][-1] == ("MatMul", "Mul", "Softmax", "MatMul")
    assert one.kernels[-1].read_bytes == 4 * 3 * 128 and one.kernels[-1].written_bytes == 4 * 128
    assert several.moved_bytes - one.moved_bytes == 4 * 4 * 256  # scores and shares, each written and read
    assert one.operations == several.operations
    assert one.product_operations == 2 * (128 * 8 + 256 * 8 + 128 * 16)


@pytest.fixture(scope="module", params=list(Sensor), ids=str)
def exported(request: pytest.FixtureRequest) -> tuple[Sensor, Detector, onnx.ModelProto]:
    detector = random_detector(tiny_model(), 2)
    return request.param, detector, export_graph(detector, request.param)


Exported = tuple[Sensor, Detector, onnx.ModelProto]


def test_an_exported_detector_s_products_are_those_pytorch_counts(exported: Exported) -> None:
    """But for the mixing of taps, which PyTorch does as a matrix product (P, S) by (S, T C)."""
    sensor, detector, graph = exported
    (call,) = [each for each in graph.graph.node if each.op_type == "LayerwiseAggregate"]
    level = static_graph(graph, 1).tensors[call.output[0]]
    mixing = 2 * len(call.output) * (len(call.input) - 3) * level.elements
    expected = forward_flops(detector, sensor, *detector.config.input_px.of(sensor)) - mixing
    assert expected > 1e6 and cost(graph).product_operations == expected


@pytest.mark.parametrize("batch", [1, 3])
def test_every_shape_is_what_onnx_runtime_makes(exported: Exported, batch: int) -> None:
    sensor, detector, graph = exported
    inlined = inline_local_functions(graph)
    names = {output.name for output in inlined.graph.output}
    inlined.graph.output.extend(
        onnx.ValueInfoProto(name=name) for each in inlined.graph.node for name in each.output if name not in names
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(inlined.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pixels = np.zeros((batch, *detector.config.input_px.of(sensor), sensor.num_channels), np.uint8)
    run = dict(zip([out.name for out in session.get_outputs()], session.run(None, {"pixels": pixels}), strict=True))
    found = static_graph(graph, batch)
    made = [name for each in found.nodes for name in each.output]
    assert len(made) > 150
    assert {name: found.tensors[name].shape for name in made} == {name: run[name].shape for name in made}


def test_the_layerwise_aggregation_moves_what_its_fused_kernel_must(exported: Exported) -> None:
    """The floor of benchmarks.kernels: taps, levels and parameters once; on ONNX Runtime its nodes cost more."""
    _, _, graph = exported
    (call,) = [each for each in graph.graph.node if each.op_type == "LayerwiseAggregate"]
    static = static_graph(graph, 2)
    levels = [static.tensors[name].shape for name in call.output]
    taps = len(call.input) - 3
    expected = sum(4 * 2 * channels * rows * columns for _, channels, rows, columns in levels)
    channels, rows, columns = levels[0][1:]
    fused = [k for k in graph_cost(static, "tensorrt").kernels if k.operators.count("LayerNormalization") == taps]
    assert len(fused) == 1
    floor = Workload(2, channels, taps, len(levels), 1, "float32")  # a map of one token
    parameters = floor.floor_bytes - (taps + len(levels)) * floor.map_bytes
    assert fused[0].written_bytes == expected
    assert fused[0].moved_bytes == expected + 4 * 2 * taps * channels * rows * columns + parameters
    assert graph_cost(static, "onnxruntime").moved_bytes > graph_cost(static, "tensorrt").moved_bytes


@pytest.mark.parametrize("kind", ["tensorrt", "onnxruntime"])
def test_activations_scale_with_the_batch_and_weights_do_not(exported: Exported, kind: Any) -> None:
    one, five = cost(exported[2], 1, kind), cost(exported[2], 5, kind)
    learned = 0
    for a, b in zip(one.kernels, five.kernels, strict=True):
        assert b.operations == {precision: 5 * count for precision, count in a.operations.items()}
        assert (b.read_bytes, b.written_bytes) == (5 * a.read_bytes, 5 * a.written_bytes)
        assert a.weight_bytes <= b.weight_bytes <= 5 * a.weight_bytes
        if {"Conv", "MatMul", "LayerNormalization"} & set(a.operators):
            assert b.weight_bytes == a.weight_bytes
            learned += a.weight_bytes
    assert learned > 0.9 * one.weight_bytes  # the rest: anchor points of as many candidates as there are


def test_what_cannot_be_counted_is_refused_by_name() -> None:
    integer = [node("MatMulInteger", ["x", "w"], ["i"]), node("Cast", ["i"], ["y"], to=TensorProto.INT8)]
    with pytest.raises(BabelRSError, match="MatMulInteger"):
        cost(model(integer, [1, 4], {"w": np.ones((4, 4), np.int8)}, TensorProto.INT8))
    data_dependent = [node("NonZero", ["x"], ["n"]), node("Cast", ["n"], ["y"], to=FLOAT)]
    with pytest.raises(BabelRSError, match="NonZero n"):
        cost(model(data_dependent, [1, 4], {}))
    with pytest.raises(BabelRSError, match="batches of 2, not of 1"):
        cost(model([node("Relu", ["x"], ["y"])], [2, 4], {}))
