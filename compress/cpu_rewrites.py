"""Float graphs rewritten so that ONNX Runtime's integer kernels serve them well; what they compute stays the same."""

from __future__ import annotations

import numpy as np
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
    reading, shapes = readers(graph), {name: list(tensor.dims) for name, tensor in initializers(graph).items()}
    replacements: dict[str, list[NodeProto]] = {}
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        after = reading.get(node.output[0], [])
        if not _is_pointwise(node, shapes[node.input[1]]) or any(reader.op_type == "Sigmoid" for reader in after):
            continue
        kernel = constant_values(graph)[node.input[1]]
        if kernel.ndim == 4:  # the first of its users: a head's layer serves every level of the pyramid
            store(graph, node.input[1], np.ascontiguousarray(kernel[:, :, 0, 0].T))
        last, product, biased = (f"{node.name}.{step}" for step in ("last", "MatMul", "Add"))
        replacements[node.name] = [
            helper.make_node("Transpose", [node.input[0]], [last], last, perm=_TO_LAST),
            helper.make_node("MatMul", [last, node.input[1]], [product], product),
            helper.make_node("Add", [product, node.input[2]], [biased], biased),
        ]
        if len(after) == 1 and after[0].op_type == "Reshape" and (flat := _flat_shape(graph, after[0])) is not None:
            replacements[node.name] += _flattened(graph, biased, after[0], flat)
            replacements[after[0].name] = []
        else:
            back = helper.make_node("Transpose", [biased], node.output, node.name, perm=_TO_FIRST)
            replacements[node.name].append(back)
    replace_nodes(graph, replacements)


def _is_pointwise(node: NodeProto, shape: list[int]) -> bool:
    plain = not any(attribute(node, "pads", [0])) and set(attribute(node, "strides", [1])) == {1}
    return plain and shape[2:] == [1, 1] and attribute(node, "group", 1) == 1


def _flat_shape(graph: GraphProto, reshape: NodeProto) -> list[int] | None:
    """The shape ``(N, C, H*W)`` that a map is reshaped to; nothing for another shape."""
    shape = [int(side) for side in constant_values(graph)[reshape.input[1]]]
    return shape if len(shape) == 3 and min(shape[1:]) > 0 else None


def _flattened(graph: GraphProto, tensor: str, reshape: NodeProto, shape: list[int]) -> list[NodeProto]:
    """``(N, H, W, C)`` as the reshaped ``(N, C, H*W)``; what is transposed again behind it then moves nothing."""
    rows = reshape.name + ".rows"
    sizes = store(graph, rows + ".shape", np.array([shape[0], shape[2], shape[1]]))
    return [
        helper.make_node("Reshape", [tensor, sizes], [rows], rows),
        helper.make_node("Transpose", [rows], reshape.output, reshape.name, perm=[0, 2, 1]),
    ]


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
