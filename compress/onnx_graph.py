"""Finding one's way in an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Slice", "Identity"})
"""Operators that hand on values as they are."""


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """Stored tensors by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor, in their order."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def constant_values(graph: GraphProto) -> dict[str, npt.NDArray[Any]]:
    """Values of stored tensors, of ``Constant`` nodes and of what only renames these (``Identity``), by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def store(graph: GraphProto, name: str, values: npt.NDArray[Any] | np.generic) -> str:
    """Add a stored tensor, or put it in the place of the one of this name; returns the name."""
    for tensor in graph.initializer:
        if tensor.name == name:
            graph.initializer.remove(tensor)
            break
    graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def replace_nodes(graph: GraphProto, replacements: dict[str, list[NodeProto]]) -> None:
    """Put nodes in the place of those of these names."""
    nodes = [new for node in graph.node for new in replacements.get(node.name, [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def drop_unused(graph: GraphProto) -> None:
    """Remove stored tensors, constants and renamings that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        dead = [n for n in graph.node if n.op_type in ("Constant", "Identity") and not read.intersection(n.output)]
        spare = [tensor for tensor in graph.initializer if tensor.name not in read]
        if not dead and not spare:
            return
        for node in dead:
            graph.node.remove(node)
        for tensor in spare:
            graph.initializer.remove(tensor)


def sort_nodes(graph: GraphProto) -> None:
    """Put every node behind those whose outputs it reads, and leave the order as it is otherwise."""
    nodes = list(graph.node)
    producer = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    order: dict[int, None] = {}
    for last in range(len(nodes)):
        waiting = [last]
        while waiting:
            needed = [producer[name] for name in nodes[waiting[-1]].input if name in producer]
            missing = [place for place in needed if place not in order]
            if missing:
                waiting += reversed(missing)
            else:
                order.setdefault(waiting.pop())
    del graph.node[:]
    graph.node.extend(nodes[place] for place in order)
