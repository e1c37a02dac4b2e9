"""Which nodes of a graph integer kernels can take over, which part each belongs to, and which tensors need ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto, numpy_helper

from compress.cpu_float_graph import WEIGHT
from compress.onnx_graph import MOVES, initializers
from compress.parts import part_of
from compress.ranges import Range

_SIGMOID: Range = (0.0, 1.0)
_GREATEST = 255


@dataclass
class IntegerNodes:
    """What can be INT8 in a graph of :func:`compress.cpu_float_graph.cpu_float_graph`.

    Layers with weights can, and between convolutions also what would else convert to float and back: SiLU and sums.
    Convolutions give 8 bits, matrix products float32.

    Attributes:
        parts: The parts that must be INT8 for a node to be, by the node's name.
        tensors: Tensors that a node reads or gives as 8 bits, by the node's name.
        points: Where such a tensor's values are computed: it is moved on from there by transposing and the like.
        known: Tensors whose range needs no measurement.
    """

    parts: dict[str, frozenset[str]] = field(default_factory=dict)
    tensors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    points: dict[str, str] = field(default_factory=dict)
    known: dict[str, Range] = field(default_factory=dict)

    def chosen(self, int8_parts: Collection[str]) -> list[str]:
        """The nodes that are INT8 when these parts are, in order."""
        return [name for name, parts in self.parts.items() if parts <= set(int8_parts)]

    def quantization_points(self) -> list[str]:
        """Tensors whose ranges must be measured, each once, in order."""
        points = [self.points[tensor] for tensors in self.tensors.values() for tensor in tensors]
        return [point for point in dict.fromkeys(points) if point not in self.known]

    def ranges(self, nodes: Collection[str], measured: Mapping[str, Range]) -> dict[str, Range]:
        """The range of every tensor that these nodes read or give as 8 bits."""
        tensors = dict.fromkeys(tensor for node in nodes for tensor in self.tensors[node])
        known = {**measured, **self.known}
        return {tensor: known[self.points[tensor]] for tensor in tensors}


def find_integer_nodes(graph: GraphProto) -> IntegerNodes:
    """Look through a graph from its input on."""
    found, stored = IntegerNodes(), initializers(graph)
    given_as_8_bits: dict[str, frozenset[str]] = {}  # tensors that integer kernels give, and the parts they come from
    for node in graph.node:
        output = node.output[0]
        read = [name for name in node.input if name and name not in stored]
        if node.op_type == "DequantizeLinear":  # pixels: bytes from the start
            step, zero = (float(numpy_helper.to_array(stored[name])) for name in node.input[1:])
            found.known[output] = (-zero * step, (_GREATEST - zero) * step)
        if node.op_type in MOVES:
            found.points[output] = found.points.get(read[0], read[0])
            if read[0] in given_as_8_bits:
                given_as_8_bits[output] = given_as_8_bits[read[0]]
            continue
        parts = _parts(node, read, stored, given_as_8_bits)
        if not parts:
            continue
        gives = () if node.op_type == "MatMul" else (output,)
        found.parts[node.name], found.tensors[node.name] = parts, (*read, *gives)
        for tensor in (*read, *gives):
            found.points.setdefault(tensor, tensor)
        for tensor in gives:
            given_as_8_bits[tensor] = parts
        if node.op_type == "Sigmoid":
            found.known[output] = _SIGMOID
    return found


def _parts(
    node: NodeProto, read: list[str], stored: Collection[str], given_as_8_bits: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    """The parts that must be INT8 for a node to be; none for one that cannot."""
    if node.op_type in ("Conv", "MatMul"):
        weighted = node.input[1] in stored and node.input[1].endswith(WEIGHT)
        return frozenset({part_of(node.input[1])}) if weighted else frozenset()
    joins = node.op_type == "Sigmoid" or (node.op_type in ("Mul", "Add") and len(read) == 2)
    if not joins or not all(name in given_as_8_bits for name in read):
        return frozenset()
    return frozenset[str]().union(*(given_as_8_bits[name] for name in read))
