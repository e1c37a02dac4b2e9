"""Float graphs rewritten so that ONNX Runtime's integer kernels serve them well; what they compute stays the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

from compress.graph_session import shapes_of
from compress.onnx_graph import attribute, constant_values, initializers, readers, replace_nodes, store

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""``(N, C, H, W) -> (N, H, W, C)`` and back. Integer kernels take channels last; ONNX Runtime drops what cancels."""


def multiply_points(graph: GraphProto) -> None:
    """Make matrix products of 1x1 convolutions that no activation follows: their results stay float.

    ONNX Runtime's integer convolution gives 8 bits, in which the scores of neighbouring points would tie; its integer
    matrix product gives float32.
    """
    stored, reading = initializers(graph), readers(graph)
    replacements: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type != "Conv" or not _is_pointwise(node, list(stored[node.input[1]].dims)):
            continue
        if any(reader.op_type == "Sigmoid" for reader in reading.get(node.output[0], ())):
            continue
        if len(stored[node.input[1]].dims) == 4:  # a head's layer serves every level of the pyramid
            kernel = onnx.numpy_helper.to_array(stored[node.input[1]])[:, :, 0, 0]
            store(graph, node.input[1], np.ascontiguousarray(kernel.T))
            stored = {**stored, **initializers(graph)}
        last, product, biased = (f"{node.name}.{step}" for step in ("last", "MatMul", "Add"))
        replacements[node.name] = [
            helper.make_node("Transpose", [node.input[0]], [last], last, perm=_TO_LAST),
            helper.make_node("MatMul", [last, node.input[1]], [product], product),
            helper.make_node("Add", [product, node.input[2]], [biased], biased),
            helper.make_node("Transpose", [biased], node.output, node.name, perm=_TO_FIRST),
        ]
    replace_nodes(graph, replacements)


def _is_pointwise(node: NodeProto, shape: list[int]) -> bool:
    plain = not any(attribute(node, "pads", [0])) and set(attribute(node, "strides", [1])) == {1}
    return plain and (len(shape) == 2 or shape[2:] == [1, 1]) and attribute(node, "group", 1) == 1


def repeat_cells(model: ModelProto) -> None:
    """Enlarge maps by copying cells: seven times as fast as ONNX Runtime's ``Resize`` of bytes."""
    graph = model.graph
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    shapes = shapes_of(model, [node.input[0] for node in resizes])
    values = constant_values(graph)
    replacements = {}
    for node in resizes:
        scales = values[node.input[2]]
        factor = int(scales[-1])
        if attribute(node, "mode", b"nearest") != b"nearest" or list(scales) != [1, 1, factor, factor]:
            raise ValueError(f"{node.name} does not repeat cells: {scales}")
        replacements[node.name] = _repeated(graph, node, shapes[node.input[0]], factor)
    replace_nodes(graph, replacements)


def _repeated(graph: GraphProto, node: NodeProto, shape: tuple[int, ...], factor: int) -> list[NodeProto]:
    _, channels, rows, columns = shape
    apart = store(graph, node.name + ".apart", np.array([-1, rows, 1, columns, 1, channels]))
    times = store(graph, node.name + ".times", np.array([1, 1, factor, 1, factor, 1]))
    joined = store(graph, node.name + ".joined", np.array([-1, rows * factor, columns * factor, channels]))
    last, cells, copies, wide = (f"{node.name}.{step}" for step in ("last", "cells", "copies", "wide"))
    return [
        helper.make_node("Transpose", [node.input[0]], [last], last, perm=_TO_LAST),
        helper.make_node("Reshape", [last, apart], [cells], cells),
        helper.make_node("Expand", [cells, times], [copies], copies),
        helper.make_node("Reshape", [copies, joined], [wide], wide),
        helper.make_node("Transpose", [wide], node.output, node.name, perm=_TO_FIRST),
    ]
