"""A graph in fewer bytes: short names, equal tensors stored once, and in half where nothing is lost."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.onnx_graph import drop_unused, initializers, store

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_HALVED_BYTES = 1024


def compact(model: ModelProto) -> None:
    """Make a graph small; its inputs, its outputs and the names of nodes that compute something stay."""
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:]
    drop_unused(graph)
    _halve(graph)
    _share(graph)
    _shorten(graph)
    for node in graph.node:
        node.doc_string = ""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


def _halve(graph: GraphProto) -> None:
    """Store large tensors in float16 where it holds them exactly, as anchor points; engines widen them on loading."""
    casts: list[NodeProto] = []
    for name, tensor in initializers(graph).items():
        if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < _HALVED_BYTES:
            continue
        values = numpy_helper.to_array(tensor)
        if np.array_equal(values, halves := values.astype(np.float16)):
            graph.initializer.remove(tensor)
            half = store(graph, name + ".half", halves)
            casts.append(helper.make_node("Cast", [half], [name], name, to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _share(graph: GraphProto) -> None:
    """Keep one of equal stored tensors, all in the encoding that can be moved to a file beside the graph."""
    first: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
    names = {}
    for tensor in graph.initializer:
        plain = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
        names[tensor.name] = first.setdefault((plain.data_type, tuple(plain.dims), plain.raw_data), plain).name
    _rename(graph, names)
    kept = list(first.values())
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shorten(graph: GraphProto) -> None:
    """Number all tensors but the graph's inputs and outputs."""
    fixed = {value.name for value in (*graph.input, *graph.output)}
    written = [tensor.name for tensor in graph.initializer] + [name for node in graph.node for name in node.output]
    wanted = [name for name in dict.fromkeys(written) if name and name not in fixed]
    names = {name: _numeral(number) for number, name in enumerate(wanted)}
    _rename(graph, names)
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _numeral(number: int) -> str:
    high, low = divmod(number, len(_DIGITS))
    return (_numeral(high) if high else "") + _DIGITS[low]
