"""LayerNorm and softmax in float32 within a float16 graph, for engines whose float16 sums overflow there.

Field reports of float16 ViTs that lose accuracy point at these two operators (NVIDIA/TensorRT issue 2709). The
cost is two casts around each.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, shape_inference

from compress.onnx_graph import constant_values, drop_unused, replace_nodes, store

OPERATORS = ("LayerNormalization", "Softmax")


def widen(model: ModelProto) -> int:
    """Compute every float16 LayerNorm and softmax in float32; what is float32 already stays as it is.

    Returns:
        How many were changed.
    """
    graph = model.graph
    inferred = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
    wanted = [n for n in graph.node if n.op_type in OPERATORS and types.get(n.input[0]) == TensorProto.FLOAT16]
    constants = constant_values(graph)
    for node in wanted:
        for place, name in enumerate(node.input[1:], start=1):  # scale and bias
            node.input[place] = store(graph, f"{name}.float32", constants[name].astype(np.float32))
    replace_nodes(graph, {node.name: _in_float32(node) for node in wanted})
    drop_unused(graph)
    return len(wanted)


def _in_float32(node: NodeProto) -> list[NodeProto]:
    """The node between casts; it keeps its name, and what reads its output reads the last cast's."""
    source, output = node.input[0], node.output[0]
    wide = NodeProto()
    wide.CopyFrom(node)
    wide.input[0], wide.output[0] = f"{node.name}.wide_input", f"{node.name}.wide_output"
    return [
        helper.make_node("Cast", [source], [wide.input[0]], f"{node.name}.widen", to=TensorProto.FLOAT),
        wide,
        helper.make_node("Cast", [wide.output[0]], [output], f"{node.name}.narrow", to=TensorProto.FLOAT16),
    ]
