"""Weights stored as the INT8 values that an engine would round them to, half or a quarter of their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from compress.onnx_graph import attribute, constant_values, drop_unused

LEAST, GREATEST = -128, 127


def fold_weights(model: ModelProto) -> int:
    """Replace every ``QuantizeLinear`` of a constant by its result; the ``DequantizeLinear`` behind it stays.

    Returns:
        How many tensors were replaced.
    """
    graph = model.graph
    constants = constant_values(graph)
    dead: list[NodeProto] = []
    folded: list[TensorProto] = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            weight, scale = (constants[name] for name in node.input[:2])
            folded.append(numpy_helper.from_array(quantized(weight, scale, attribute(node, "axis", 1)), node.output[0]))
            dead.append(node)
    for node in dead:
        graph.node.remove(node)
    graph.initializer.extend(folded)
    drop_unused(graph)
    return len(folded)


def quantized(weight: npt.NDArray[Any], scale: npt.NDArray[Any], axis: int) -> npt.NDArray[np.int8]:
    """``weight / scale`` rounded half to even and clipped to int8; ``scale`` of one value or along ``axis``."""
    wide = scale.astype(np.float32)
    if wide.ndim:
        wide = wide.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)])
    return np.clip(np.rint(weight.astype(np.float32) / wide), LEAST, GREATEST).astype(np.int8)
