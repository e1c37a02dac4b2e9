"""``babelrs::LayerwiseAggregate`` as an ONNX model-local function with a body of standard operators.

Every engine can run the body; TensorRT's plugin of the same name takes the node's place once the body is removed.
"""

from __future__ import annotations

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, helper

DOMAIN, NAME, VERSION = "babelrs", "LayerwiseAggregate", 1
ATTRIBUTES = ("epsilon", "prefix_tokens", "height", "width", "num_levels", "plugin_namespace", "plugin_version")
"""What the node carries. The body reads the first four; the others are for TensorRT's parser and its plugin."""

_END = 2**31 - 1


def aggregate_function(num_taps: int, num_levels: int, opset: int) -> FunctionProto:
    """The function for S taps and P levels.

    Inputs: S token maps ``(B, T, C)``, ``gamma (S, C)``, ``beta (S, C)``, ``weights (P, S)``, the last three float32;
    outputs: P maps ``(B, C, H, W)`` of the taps' type; attributes: :data:`ATTRIBUTES`. As the kernel does, it computes
    in float32 whatever the taps are.
    """
    taps = [f"tap_{index}" for index in range(num_taps)]
    levels = [f"level_{index}" for index in range(num_levels)]
    nodes = _constants()
    for index, tap in enumerate(taps):
        nodes += _normalised(index, tap)
    for index, level in enumerate(levels):
        nodes += _mixed(index, level, num_taps)
    return helper.make_function(
        DOMAIN,
        NAME,
        [*taps, "gamma", "beta", "weights"],
        levels,
        nodes,
        [helper.make_opsetid("", opset)],
        list(ATTRIBUTES),
    )


def add_aggregate_function(model: ModelProto) -> None:
    """Give ``model`` the function that its ``LayerwiseAggregate`` node calls.

    Raises:
        ValueError: The graph does not hold exactly one such node.
    """
    calls = [node for node in model.graph.node if node.domain == DOMAIN and node.op_type == NAME]
    if len(calls) != 1:
        raise ValueError(f"{len(calls)} {DOMAIN}::{NAME} nodes in the graph, 1 expected")
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    model.functions.append(aggregate_function(len(calls[0].input) - 3, len(calls[0].output), opset))
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))


def _attribute_constant(output: str, attribute: str) -> NodeProto:
    """A Constant whose integer is an attribute of the function's caller."""
    node = helper.make_node("Constant", [], [output])
    reference = onnx.AttributeProto(name="value_int", ref_attr_name=attribute, type=onnx.AttributeProto.INT)
    node.attribute.append(reference)
    return node


def _constants() -> list[NodeProto]:
    nodes = [helper.make_node("Constant", [], [name], value_ints=values) for name, values in _VECTORS.items()]
    for attribute in ("prefix_tokens", "height", "width"):
        nodes.append(_attribute_constant(f"{attribute}_scalar", attribute))
        nodes.append(helper.make_node("Reshape", [f"{attribute}_scalar", "one"], [f"{attribute}_vector"]))
    nodes.append(helper.make_node("Concat", ["zero", "zero", "height_vector", "width_vector"], ["map_shape"], axis=0))
    return nodes


_VECTORS = {"zero": [0], "one": [1], "end": [_END]}


def _normalised(index: int, tap: str) -> list[NodeProto]:
    """LayerNorm of one tap's patch tokens."""
    row = f"row_{index}"
    layer_norm = helper.make_node(
        "LayerNormalization", [f"tokens_{index}", f"gamma_{index}", f"beta_{index}"], [f"normal_{index}"], axis=-1
    )
    layer_norm.attribute.append(
        onnx.AttributeProto(name="epsilon", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
    )
    return [
        helper.make_node("Slice", [tap, "prefix_tokens_vector", "end", "one"], [f"stored_{index}"]),
        helper.make_node("CastLike", [f"stored_{index}", "gamma"], [f"tokens_{index}"]),
        helper.make_node("Constant", [], [row], value_int=index),
        helper.make_node("Gather", ["gamma", row], [f"gamma_{index}"], axis=0),
        helper.make_node("Gather", ["beta", row], [f"beta_{index}"], axis=0),
        layer_norm,
    ]


def _mixed(level_index: int, level: str, num_taps: int) -> list[NodeProto]:
    """Weighted sum over taps, then ``(B, T, C) -> (B, C, H, W)``."""
    key = f"mix_{level_index}"
    nodes = [
        helper.make_node("Constant", [], [f"{key}_row"], value_int=level_index),
        helper.make_node("Gather", ["weights", f"{key}_row"], [f"{key}_weights"], axis=0),
    ]
    products = []
    for index in range(num_taps):
        weight, product = f"{key}_weight_{index}", f"{key}_product_{index}"
        nodes.append(helper.make_node("Gather", [f"{key}_weights", f"row_{index}"], [weight], axis=0))
        nodes.append(helper.make_node("Mul", [f"normal_{index}", weight], [product]))
        products.append(product)
    nodes.append(helper.make_node("Sum", products, [f"{key}_sum"]))
    nodes.append(helper.make_node("Transpose", [f"{key}_sum"], [f"{key}_map"], perm=[0, 2, 1]))
    nodes.append(helper.make_node("Reshape", [f"{key}_map", "map_shape"], [f"{key}_wide"]))
    nodes.append(helper.make_node("CastLike", [f"{key}_wide", "tap_0"], [level]))
    return nodes
