"""Small graphs with Q/DQ nodes as the compressor writes them: float16 or float32, weights stored in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

WEIGHTS = "weights.bin"


def quantized_graph(folder: Path, kind: type[np.generic] = np.float16, external: bool = True) -> onnx.ModelProto:
    """``pixels (N, 8, 8, 3)`` uint8 through a quantized convolution and a quantized product to ``out`` float32.

    The convolution's weights have a scale a channel along axis 0, the product's along axis 1 with zero points; weights
    lie in a file of their own if ``external``.
    """
    rng = np.random.default_rng(3)
    float_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    constants = {
        "conv_int8": rng.integers(-127, 128, (16, 3, 3, 3), dtype=np.int8),
        "conv_scale": rng.uniform(1e-3, 5e-3, 16).astype(kind),
        "conv_zero": np.zeros(16, np.int8),
        "product_int8": rng.integers(-127, 128, (16, 32), dtype=np.int8),
        "product_scale": rng.uniform(1e-3, 5e-3, 32).astype(kind),
        "product_zero": rng.integers(-3, 4, 32, dtype=np.int8),
        "unused": np.zeros(3, np.int8),
    }
    nodes = _nodes(kind)
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 32])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info("level_r", float_type, ["N", 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19 if kind == np.float16 else 17)])
    model.ir_version = 9
    if external:
        _move_weights(model, folder)
    return model


def _nodes(kind: type[np.generic]) -> list[onnx.NodeProto]:
    float_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    steps = {"scale": 1 / 127, "wide": 4 / 127, "by": 1 / 255}
    small = {**{name: np.array(value, kind) for name, value in steps.items()}, "zero": np.array(0, np.int8)}
    return [
        *(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(v)) for name, v in small.items()),
        helper.make_node("Identity", ["zero"], ["zero_again"]),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["counts"], to=float_type),
        helper.make_node("Mul", ["counts", "by"], ["level"]),
        helper.make_node("QuantizeLinear", ["level", "scale", "zero"], ["level_q"]),
        helper.make_node("DequantizeLinear", ["level_q", "scale", "zero_again"], ["level_r"]),
        helper.make_node("DequantizeLinear", ["conv_int8", "conv_scale", "conv_zero"], ["conv_w"], axis=0),
        helper.make_node("Conv", ["level_r", "conv_w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["mean"]),
        helper.make_node("QuantizeLinear", ["mean", "wide", "zero"], ["mean_q"]),
        helper.make_node("DequantizeLinear", ["mean_q", "wide", "zero"], ["mean_r"]),
        helper.make_node("DequantizeLinear", ["product_int8", "product_scale", "product_zero"], ["product_w"], axis=-1),
        helper.make_node("MatMul", ["mean_r", "product_w"], ["half"]),
        helper.make_node("Cast", ["half"], ["out"], to=TensorProto.FLOAT),
    ]


def _move_weights(model: onnx.ModelProto, folder: Path) -> None:
    content = b""
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        set_external_data(tensor, WEIGHTS, offset=len(content), length=len(raw))
        tensor.ClearField("raw_data")
        content += raw + b"\0" * (-len(raw) % 64)
    (folder / WEIGHTS).write_bytes(content)
