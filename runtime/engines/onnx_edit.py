"""Two edits of an ONNX graph that the device makes before TensorRT parses it.

:func:`without_function` takes the body of a model-local function away, so that the plugin of the same name is used.
:func:`without_quantization` takes the Q/DQ nodes out of an INT8 graph, which leaves the graph in the type of its
scales: float16 for bundles made for TensorRT. Its weights are the INT8 graph's, so it is that graph without the
rounding of activations, built from nothing but the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from babelrs.manifest import is_plain_name
from babelrs.plain_files import open_plain
from runtime.engines.onnx_wire import (
    BYTES,
    Field,
    Message,
    blobs,
    integer,
    integer_field,
    integers,
    read_message,
    text,
    text_field,
    texts,
    write_message,
)

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO = 1, 5, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_TENSOR = 1, 3, 4, 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 5, 8, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_NAME = 1

_FLOAT, _UINT8, _INT8, _INT32, _FLOAT16 = 1, 2, 3, 6, 10
_TYPES: Mapping[int, type[np.generic]] = {
    _FLOAT: np.float32, _UINT8: np.uint8, _INT8: np.int8, _INT32: np.int32, _FLOAT16: np.float16,
}  # fmt: skip
_PRECISIONS = {_FLOAT16: "fp16", _FLOAT: "fp32"}

Array = npt.NDArray[np.generic]


@dataclass
class _Node:
    message: Message
    op_type: str
    inputs: list[str]
    outputs: list[str]

    def attribute(self, name: str) -> Message:
        for blob in blobs(self.message, _NODE_ATTRIBUTE):
            attribute = read_message(blob)
            if text(attribute, _ATTRIBUTE_NAME) == name:
                return attribute
        return []


@dataclass
class _Graph:
    """What the edit looks at: nodes in order, constants and quantizers by the name of what they give."""

    message: Message
    folder: Path
    nodes: list[_Node] = field(default_factory=list)
    tensors: dict[str, Message] = field(default_factory=dict)
    quantizers: dict[str, _Node] = field(default_factory=dict)


def without_function(model: bytes, domain: str, name: str) -> bytes:
    """The model without the body of a model-local function; the nodes that call it stay.

    Raises:
        BabelRSError: The bytes are no model, or it has no such function.
    """
    fields = read_message(model)
    kept = [each for each in fields if not _is_function(each, domain, name)]
    if len(kept) == len(fields):
        raise BabelRSError(f"The model has no function {domain}::{name}.", "Build without the plugin library.")
    return write_message(kept)


def names_plugin(model: bytes, domain: str, name: str, version: str) -> bool:
    """Whether all nodes that call a function also name the plugin that may take its place, as TensorRT reads it."""
    graph = read_message((blobs(read_message(model), _MODEL_GRAPH) or [b""])[-1])
    named = []
    for fields in map(read_message, blobs(graph, _GRAPH_NODE)):
        if (text(fields, _NODE_DOMAIN), text(fields, _NODE_OP_TYPE)) == (domain, name):
            node = _Node(fields, name, [], [])
            given = [text(node.attribute(f"plugin_{each}"), _ATTRIBUTE_TEXT) for each in ("namespace", "version")]
            named.append(given == [domain, version])
    return bool(named) and all(named)


def _is_function(each: Field, domain: str, name: str) -> bool:
    if each.number != _MODEL_FUNCTIONS or not isinstance(each.value, bytes):
        return False
    function = read_message(each.value)
    return (text(function, _FUNCTION_DOMAIN), text(function, _FUNCTION_NAME)) == (domain, name)


@contextmanager
def _as_onnx_says() -> Iterator[None]:
    """Let a graph that breaks ONNX's own rules end in an error: nodes without inputs, offsets that are no numbers."""
    try:
        yield
    except (IndexError, KeyError, ValueError, OverflowError, OSError) as error:
        what = f"The graph breaks the rules of ONNX ({type(error).__name__}: {error})."
        raise BabelRSError(what, "Check the bundle with babelrs-verify, or fetch it again.") from None


def quantized_over(model: bytes, folder: Path) -> str | None:
    """The precision of the scales of a graph's Q/DQ nodes, ``fp16`` or ``fp32``; None for a graph without them.

    Raises:
        BabelRSError: The bytes are no model.
    """
    with _as_onnx_says():
        graph = _read_graph(model, folder)
        for node in graph.nodes:
            if node.op_type == DEQUANTIZE:
                return _PRECISIONS.get(integer(_constant(graph, node.inputs[1]), _TENSOR_TYPE))
    return None


def without_quantization(model: bytes, folder: Path) -> bytes:
    """An INT8 graph in the type of its scales: no activation is rounded, and weights are what they stood for.

    Args:
        model: The ONNX file.
        folder: Where its external weights lie.

    Raises:
        BabelRSError: The graph is quantized in a way that this edit does not know.
    """
    with _as_onnx_says():
        return _without_quantization(_read_graph(model, folder), model)


def _without_quantization(graph: _Graph, model: bytes) -> bytes:
    renamed: dict[str, str] = {}
    weights: list[Field] = []
    kept: list[_Node] = []
    for node in graph.nodes:
        if node.op_type == QUANTIZE:
            continue
        if node.op_type != DEQUANTIZE:
            kept.append(node)
        elif node.inputs[0] in graph.quantizers:
            renamed[node.outputs[0]] = _unrounded(graph, node)
        else:
            weights.append(Field(_GRAPH_INITIALIZER, BYTES, _dequantized(graph, node)))
    for node in kept:
        node.inputs = [_resolved(name, renamed) for name in node.inputs]
    _refuse_lost(graph, kept, renamed)
    edited = write_message(_assembled(graph, kept, weights))
    return write_message(
        each._replace(value=edited) if each.number == _MODEL_GRAPH else each for each in read_message(model)
    )


def _read_graph(model: bytes, folder: Path) -> _Graph:
    message = read_message((blobs(read_message(model), _MODEL_GRAPH) or [b""])[-1])
    graph = _Graph(message, folder)
    for blob in blobs(message, _GRAPH_INITIALIZER):
        tensor = read_message(blob)
        graph.tensors[text(tensor, _TENSOR_NAME)] = tensor
    for blob in blobs(message, _GRAPH_NODE):
        fields = read_message(blob)
        op_type = text(fields, _NODE_OP_TYPE) if not text(fields, _NODE_DOMAIN) else ""
        node = _Node(fields, op_type, texts(fields, _NODE_INPUT), texts(fields, _NODE_OUTPUT))
        graph.nodes.append(node)
        if op_type == QUANTIZE:
            graph.quantizers[node.outputs[0]] = node
        elif op_type == "Constant" and (value := blobs(node.attribute("value"), _ATTRIBUTE_TENSOR)):
            graph.tensors[node.outputs[0]] = read_message(value[-1])
        elif op_type == "Identity" and node.inputs[0] in graph.tensors:
            graph.tensors[node.outputs[0]] = graph.tensors[node.inputs[0]]
    return graph


def _constant(graph: _Graph, name: str) -> Message:
    if name not in graph.tensors:
        raise _unknown(f"{name!r} is computed, where a constant belongs")
    return graph.tensors[name]


def _unrounded(graph: _Graph, node: _Node) -> str:
    """The tensor that a Q/DQ pair rounds."""
    quantizer = graph.quantizers[node.inputs[0]]
    types = {integer(_constant(graph, each.inputs[1]), _TENSOR_TYPE) for each in (quantizer, node)}
    if len(types) != 1:
        raise _unknown(f"{node.outputs[0]!r} is of another type than what {QUANTIZE} took")
    return quantizer.inputs[0]


def _dequantized(graph: _Graph, node: _Node) -> bytes:
    """``(values - zero point) * scale`` as a tensor named as the node's output."""
    if blobs(node.message, _NODE_ATTRIBUTE) and integer(node.attribute("block_size"), _ATTRIBUTE_INT):
        raise _unknown(f"{node.outputs[0]!r} has scales by block")
    values = _values(graph, node.inputs[0])
    scale_type = integer(_constant(graph, node.inputs[1]), _TENSOR_TYPE)
    axis = integer(node.attribute("axis"), _ATTRIBUTE_INT, 1)
    wide = values.astype(np.float32)
    if len(node.inputs) > 2 and node.inputs[2]:
        wide -= _along(_values(graph, node.inputs[2]), axis, values.ndim)
    wide *= _along(_values(graph, node.inputs[1]), axis, values.ndim)
    fields = [integer_field(_TENSOR_DIMS, side) for side in values.shape]
    fields += [integer_field(_TENSOR_TYPE, scale_type), text_field(_TENSOR_NAME, node.outputs[0])]
    return write_message([*fields, Field(_TENSOR_RAW, BYTES, wide.astype(_TYPES[scale_type]).tobytes())])


def _along(values: Array, axis: int, num_dims: int) -> npt.NDArray[np.float32]:
    """Scales or zero points as float32 that broadcast: one for all, or ``(C,)`` along ``axis`` of ``num_dims``."""
    wide = values.astype(np.float32)
    if wide.ndim == 0:
        return wide
    return wide.reshape([-1 if dim == axis % num_dims else 1 for dim in range(num_dims)])


def _values(graph: _Graph, name: str) -> Array:
    tensor = _constant(graph, name)
    kind, shape = integer(tensor, _TENSOR_TYPE), integers(tensor, _TENSOR_DIMS)
    if kind not in _TYPES:
        raise _unknown(f"{name!r} is of the ONNX type {kind}")
    raw = _external(tensor, graph.folder) if integer(tensor, _TENSOR_LOCATION) else b"".join(blobs(tensor, _TENSOR_RAW))
    if raw:
        return np.frombuffer(raw, _TYPES[kind]).reshape(shape)
    if kind == _FLOAT:
        return np.frombuffer(b"".join(map(_little_endian, tensor)), np.float32).reshape(shape)
    numbers = integers(tensor, _TENSOR_INTS)
    if kind == _FLOAT16:  # its bits, in integers
        return np.array(numbers, np.uint16).view(np.float16).reshape(shape)
    return np.array(numbers, np.int64).astype(_TYPES[kind]).reshape(shape)


def _little_endian(each: Field) -> bytes:
    """A float field's bytes, packed or not; nothing for other fields."""
    return each.value if each.number == _TENSOR_FLOATS and isinstance(each.value, bytes) else b""


def _external(tensor: Message, folder: Path) -> bytes:
    entries = {
        text(each, _ENTRY_KEY): text(each, _ENTRY_VALUE) for each in map(read_message, blobs(tensor, _TENSOR_EXTERNAL))
    }
    name = entries.get("location", "")
    if not is_plain_name(name):
        raise _unknown(f"its weights lie in {name!r}, which is no file of the bundle")
    with open_plain(folder / name) as stream:
        stream.seek(int(entries.get("offset", 0)))
        return stream.read(int(entries["length"]) if "length" in entries else -1)


def _resolved(name: str, renamed: Mapping[str, str]) -> str:
    for _ in range(len(renamed) + 1):
        if name not in renamed:
            return name
        name = renamed[name]
    raise _unknown(f"{name!r} is computed from itself")


def _refuse_lost(graph: _Graph, kept: Sequence[_Node], renamed: Mapping[str, str]) -> None:
    """Refuse what the edit would break: users of removed tensors that it has not seen."""
    if nested := [node for node in kept if _has_graph(node)]:
        raise _unknown(f"{nested[0].op_type} holds a graph of its own")
    outputs = {text(read_message(blob), _VALUE_NAME) for blob in blobs(graph.message, _GRAPH_OUTPUT)}
    used = {name for node in kept for name in node.inputs} | outputs
    if lost := sorted(used & graph.quantizers.keys() | outputs & renamed.keys()):
        raise _unknown(f"{lost[0]!r} is used as it is, in 8 bits or as an output")


def _has_graph(node: _Node) -> bool:
    attributes = map(read_message, blobs(node.message, _NODE_ATTRIBUTE))
    return any(blobs(each, _ATTRIBUTE_GRAPH) or blobs(each, _ATTRIBUTE_GRAPHS) for each in attributes)


def _assembled(graph: _Graph, kept: Sequence[_Node], weights: Sequence[Field]) -> Message:
    """The graph's fields, with the edited nodes and initializers and without what nobody reads any more."""
    used = {name for node in kept for name in node.inputs}
    used |= {text(read_message(blob), _VALUE_NAME) for blob in blobs(graph.message, _GRAPH_OUTPUT)}
    kept = [node for node in kept if node.op_type != "Constant" or used.intersection(node.outputs)]
    given = {name for node in kept for name in node.outputs}
    fields: Message = []
    for each in graph.message:
        if each.number == _GRAPH_NODE:
            continue
        if isinstance(each.value, bytes) and each.number == _GRAPH_INITIALIZER:
            if text(read_message(each.value), _TENSOR_NAME) not in used:
                continue
        elif (
            isinstance(each.value, bytes)
            and each.number == _GRAPH_VALUE_INFO
            and text(read_message(each.value), _VALUE_NAME) not in given
        ):
            continue
        fields.append(each)
    nodes = [Field(_GRAPH_NODE, BYTES, write_message(_edited(node))) for node in kept]
    return [*nodes, *fields, *weights]


def _edited(node: _Node) -> Message:
    others = [each for each in node.message if each.number != _NODE_INPUT]
    return [*(text_field(_NODE_INPUT, name) for name in node.inputs), *others]


def _unknown(what: str) -> BabelRSError:
    return BabelRSError(f"The graph's quantization cannot be taken out: {what}.", "Build its INT8 engine only.")
