"""What a graph must compute and move, counted without running it, kernel by kernel as an engine would fuse it.

Counted: two operations a multiply-add of convolutions and matrix products, one an element of everything else that
computes; a tensor read by a kernel once, written once; weights once a kernel at the width they are stored in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from babelrs.errors import BabelRSError
from benchmarks.static_graph import StaticGraph, Tensor, attribute
from compress.targets import Kind, Precision

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "DequantizeLinear"})
"""The same bytes under another name; a dequantized tensor is read as the int8 it is stored in."""
MOVES = frozenset(
    {"Transpose", "Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "Pad"}
    | {"DepthToSpace", "SpaceToDepth"}
)
"""Bytes moved, nothing computed, the width kept."""
PARTIAL = frozenset({"Slice", "Split", "Gather", "GatherElements", "GatherND"})
"""Read as much as they write."""
POINTWISE = frozenset(
    {"Abs", "Add", "And", "Atan", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Div", "Elu"}
    | {"Equal", "Erf"}
    | {"Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less"}
    | {"LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow"}
    | {"QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub"}
    | {"Sum", "Tanh", "Where", "Xor"}
)
"""Computed element by element, so together with what makes their input."""
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
UNCOUNTED = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DeformConv", "Einsum", "LSTM", "GRU", "RNN", "If"}
    | {"Loop", "Scan"}
)
"""Would be far off if they counted one an element."""

_INT8 = (TensorProto.INT8, TensorProto.UINT8)
_FLOATS: Mapping[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "fp16"}
_INDICES = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


@dataclass(frozen=True)
class Kernel:
    """What an engine computes at one go.

    Attributes:
        name: Output of its first node.
        operators: Its nodes' operators.
        operations: By precision; a multiply-add is two.
        read_bytes: Of activations.
        written_bytes: Of activations.
        weight_bytes: Of constants.
    """

    name: str
    operators: tuple[str, ...]
    operations: Mapping[Precision, int]
    read_bytes: int
    written_bytes: int
    weight_bytes: int

    @property
    def moved_bytes(self) -> int:
        """All that crosses the memory bus."""
        return self.read_bytes + self.written_bytes + self.weight_bytes


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs at one batch size.

    Attributes:
        kernels: In order.
        product_operations: Those of multiply-adds alone, of any precision: what is usually called a model's FLOPs.
        unfused_bytes: Moved if every node were a kernel.
        weight_bytes: All weights, each once.
    """

    kernels: tuple[Kernel, ...]
    product_operations: int
    unfused_bytes: int
    weight_bytes: int

    @property
    def operations(self) -> dict[Precision, int]:
        """By precision."""
        return {p: sum(kernel.operations.get(p, 0) for kernel in self.kernels) for p in ("int8", "fp16", "fp32")}

    @property
    def moved_bytes(self) -> int:
        """Of all kernels."""
        return sum(kernel.moved_bytes for kernel in self.kernels)


@dataclass(frozen=True)
class _Storage:
    """Where tensors really lie.

    Attributes:
        roots: The tensor whose bytes a tensor is; itself unless it is a view.
        kinds: ONNX element type in which a root is stored.
    """

    roots: Mapping[str, str]
    kinds: Mapping[str, int]
    tensors: Mapping[str, Tensor]

    def size(self, name: str) -> int:
        """Bytes of a tensor's root."""
        root = self.roots[name]
        return self.tensors[root].elements * self.width(name)

    def width(self, name: str) -> int:
        """Bytes of an element."""
        return int(np.dtype(helper.tensor_dtype_to_np_dtype(self.kinds[self.roots[name]])).itemsize)

    def is_int8(self, name: str) -> bool:
        """Whether it is stored in 8 bits."""
        return self.kinds[self.roots[name]] in _INT8


def graph_cost(graph: StaticGraph, kind: Kind) -> GraphCost:
    """Count a graph's operations and bytes.

    Args:
        graph: With its batch size.
        kind: TensorRT computes attention, and a local function (its plugin), in one kernel; ONNX Runtime does not.

    Raises:
        BabelRSError: It has operators that cannot be counted so.
    """
    if wrong := sorted({node.op_type for node in graph.nodes} & UNCOUNTED):
        raise BabelRSError(f"Operators whose cost is not counted: {', '.join(wrong)}.", "Export with explicit Q/DQ.")
    storage = _storage(graph)
    nodes = [n for n in graph.nodes if n.op_type not in VIEWS and n.output[0] not in graph.constants]
    kernels = _kernels(_fused(nodes, graph, storage, kind), graph, storage)
    alone = _kernels([[node] for node in nodes], graph, storage)
    weights = {storage.roots[name] for node in nodes for name in _weights(node, graph)}
    products = sum(_operations(node, graph.tensors) for node in nodes if node.op_type in PRODUCTS)
    unfused = sum(each.moved_bytes for each in alone)
    return GraphCost(kernels, products, unfused, sum(map(storage.size, weights)))


def _storage(graph: StaticGraph) -> _Storage:
    roots = {name: name for name in graph.tensors}
    kinds = {name: tensor.kind for name, tensor in graph.tensors.items()}
    for node in graph.nodes:
        for name in node.output:
            if node.op_type in VIEWS:
                roots[name] = roots[node.input[0]]
            elif node.op_type in MOVES:
                moved = node.input if node.op_type == "Concat" else node.input[:1]
                kept = {kinds[roots[given]] for given in moved}
                kinds[name] = kept.pop() if len(kept) == 1 else kinds[name]
    return _Storage(roots, kinds, graph.tensors)


def _fused(nodes: Sequence[NodeProto], graph: StaticGraph, storage: _Storage, kind: Kind) -> list[list[NodeProto]]:
    """Nodes by kernel: pointwise ones go with what made their input."""
    kernels: list[list[NodeProto]] = []
    maker: dict[str, int] = {}
    call_kernels: dict[int, int] = {}
    for node in nodes:
        made_by = {name: maker.get(storage.roots[name], -1) for name in _activations(node, graph)}
        call = graph.calls.get(node.output[0]) if kind == "tensorrt" else None
        index = call_kernels.get(call, -1) if call is not None else _joined(node, made_by, kernels, graph, kind)
        if index < 0:
            index = len(kernels)
            kernels.append([])
            if call is not None:
                call_kernels[call] = index
        kernels[index].append(node)
        maker.update((storage.roots[name], index) for name in node.output)
    return kernels


def _joined(
    node: NodeProto, made_by: Mapping[str, int], kernels: Sequence[Sequence[NodeProto]], graph: StaticGraph, kind: Kind
) -> int:
    """The kernel that a node is computed in, or -1 for one of its own.

    It must be the last of those that make its inputs, else it would wait for itself.
    """
    name, index = max(made_by.items(), key=lambda item: item[1], default=("", -1))
    if index < 0:
        return -1
    operators = {each.op_type for each in kernels[index]}
    if node.op_type in POINTWISE:
        same_size = graph.tensors[name].elements == graph.tensors[node.output[0]].elements
        return index if same_size else -1
    if kind == "tensorrt" and _is_activation_product(kernels[index][0], graph):
        ends = node.op_type == "MatMul" and name == node.input[0] and "Softmax" in operators
        return index if node.op_type == "Softmax" or ends else -1
    return -1


def _is_activation_product(node: NodeProto, graph: StaticGraph) -> bool:
    """Whether both factors depend on the input, as those of attention scores do."""
    return node.op_type == "MatMul" and len(_activations(node, graph)) == 2


def _kernels(groups: Sequence[Sequence[NodeProto]], graph: StaticGraph, storage: _Storage) -> tuple[Kernel, ...]:
    makers = {storage.roots[name]: index for index, group in enumerate(groups) for name in _outputs(group)}
    reads: list[dict[str, int]] = [{} for _ in groups]
    written: dict[int, set[str]] = defaultdict(set)
    for name in graph.outputs:
        written[makers.get(storage.roots[name], -1)].add(storage.roots[name])
    for index, group in enumerate(groups):
        for node in group:
            for name in _activations(node, graph):
                root = storage.roots[name]
                if makers.get(root) == index:
                    continue
                touched = min(storage.size(name), _touched(node, name, storage))
                reads[index][root] = max(reads[index].get(root, 0), touched)
                written[makers.get(root, -1)].add(root)
    return tuple(_kernel(group, reads[index], written[index], graph, storage) for index, group in enumerate(groups))


def _kernel(
    group: Sequence[NodeProto], reads: Mapping[str, int], written: set[str], graph: StaticGraph, storage: _Storage
) -> Kernel:
    operations: dict[Precision, int] = {}
    weights: dict[str, int] = {}
    for node in group:
        precision = _precision(node, storage)
        operations[precision] = operations.get(precision, 0) + _operations(node, graph.tensors)
        for name in _weights(node, graph):
            weights[storage.roots[name]] = min(storage.size(name), _touched(node, name, storage))
    return Kernel(
        group[0].output[0],
        tuple(node.op_type for node in group),
        operations,
        sum(reads.values()),
        sum(map(storage.size, written)),
        sum(weights.values()),
    )


def _outputs(group: Sequence[NodeProto]) -> list[str]:
    return [name for node in group for name in node.output if name]


def _read(node: NodeProto) -> list[str]:
    """The inputs whose values matter: of what CastLike casts to, only the type does."""
    return [name for name in (node.input[:1] if node.op_type == "CastLike" else node.input) if name]


def _activations(node: NodeProto, graph: StaticGraph) -> list[str]:
    return [name for name in _read(node) if name not in graph.constants]


def _weights(node: NodeProto, graph: StaticGraph) -> list[str]:
    """Constants that are data: not axes and sizes, nor scales, which quantization gives away with its one byte."""
    if node.op_type == "QuantizeLinear":
        return []
    constants = [name for name in _read(node) if name in graph.constants]
    return [name for name in constants if graph.tensors[name].kind not in _INDICES]


def _touched(node: NodeProto, name: str, storage: _Storage) -> int:
    """Bytes of an input that a node reads."""
    if node.op_type not in PARTIAL or name != node.input[0]:
        return storage.size(name)
    return sum(storage.tensors[made].elements for made in node.output if made) * storage.width(name)


def _precision(node: NodeProto, storage: _Storage) -> Precision:
    if node.op_type in PRODUCTS and all(storage.is_int8(name) for name in node.input[:2]):
        return "int8"
    return _FLOATS.get(storage.tensors[node.output[0]].kind, "fp32")


def _operations(node: NodeProto, tensors: Mapping[str, Tensor]) -> int:
    if node.op_type in MOVES or node.op_type == "QuantizeLinear":
        return 0
    if count := _COUNTS.get(node.op_type):
        return count(node, tensors)
    out = tensors[node.output[0]].elements
    return out if node.op_type in POINTWISE else max(out, tensors[node.input[0]].elements)


def _convolution(node: NodeProto, tensors: Mapping[str, Tensor]) -> int:
    side = node.output[0] if node.op_type == "Conv" else node.input[0]
    return 2 * tensors[side].elements * math.prod(tensors[node.input[1]].shape[1:])


def _matrix_product(node: NodeProto, tensors: Mapping[str, Tensor]) -> int:
    return 2 * tensors[node.output[0]].elements * tensors[node.input[0]].shape[-1]


def _gemm(node: NodeProto, tensors: Mapping[str, Tensor]) -> int:
    inner = tensors[node.input[0]].shape[0 if attribute(node, "transA", 0) else 1]
    return 2 * tensors[node.output[0]].elements * inner


def _pooling(node: NodeProto, tensors: Mapping[str, Tensor]) -> int:
    return tensors[node.output[0]].elements * math.prod(attribute(node, "kernel_shape"))


_COUNTS: Mapping[str, Callable[[NodeProto, Mapping[str, Tensor]], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
}
