"""Looks through a graph for what reaches beyond its bundle, before an engine sees it.

An ONNX tensor may name a file and a place in it for its bytes, and engines follow the name wherever the process may
read; ONNX Runtime also takes addresses in its own memory that way. A node may hold a compiled engine, which is code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError
from babelrs.manifest import is_plain_name
from babelrs.plain_files import read_plain
from babelrs.sensors import Sensor
from runtime.engines.onnx_wire import MAX_GRAPH_BYTES, Message, blobs, read_message, text, texts

MOST_DEPTH = 24
"""Messages in each other: a tensor of a node of a graph in an attribute of a node, and so on."""
MOST_FIELDS = 1 << 20
"""Fields that are looked at in all: a graph of ten thousand nodes has some hundred thousand."""
COMPILED = "EPContext"
"""Operator type of a node that holds an engine of one of ONNX Runtime's providers."""
_REFUSE = "Do not use this bundle."

# Field numbers of onnx.proto: where messages of which kind lie in a message of a kind.
_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}  # fmt: skip
_NODE_OP_TYPE, _ENTRY_KEY, _ENTRY_VALUE = 4, 1, 2


def check_graph(bundle: Bundle, sensor: Sensor) -> bytes:
    """The bytes of a sensor's graph, once it is known to reach for nothing but the bundle's files.

    Raises:
        BabelRSError: It is no ONNX file, or reaches further; names the graph and what it reaches for.
    """
    name = bundle.manifest.entry(sensor).graph
    model = read_plain(bundle.folder / name, MAX_GRAPH_BYTES, "a graph")
    check_model(model, bundle.manifest.files, bundle.folder / name)
    return model


def check_model(model: bytes, files: Iterable[str], path: Path) -> None:
    """Check the bytes of an ONNX file.

    Args:
        model: The bytes.
        files: Names of the files that its tensors may lie in.
        path: Its name, for messages.

    Raises:
        BabelRSError: As :func:`check_graph`.
    """
    walk = _Walk(frozenset(files), path)
    try:
        walk.check(model, "model", MOST_DEPTH)
    except BabelRSError as error:
        if str(path) in error.what:
            raise
        raise BabelRSError(f"{path}: {error.what}", error.remedy) from None


@dataclass
class _Walk:
    """One look through a model; ``num_fields`` counts what was read, so that a small file cannot take for ever."""

    files: frozenset[str]
    path: Path
    num_fields: int = 0

    def check(self, data: bytes, kind: str, depth: int) -> None:
        message = read_message(data)
        self.num_fields += len(message)
        if depth == 0 or self.num_fields > MOST_FIELDS:
            what = f"{self.path}: nested deeper than {MOST_DEPTH} messages, or of more than {MOST_FIELDS} fields."
            raise BabelRSError(what, _REFUSE)
        if kind == "node" and COMPILED in texts(message, _NODE_OP_TYPE):
            raise BabelRSError(f"{self.path}: holds a compiled engine in a node {COMPILED}, which is code.", _REFUSE)
        if kind == "entry":
            _check_entry(message, self.files, self.path)
        inner = [(blob, each) for number, each in _INNER[kind].items() for blob in blobs(message, number)]
        del message  # of a hostile file, the largest thing here
        for blob, each in inner:
            self.check(blob, each, depth - 1)


def _check_entry(entry: Message, files: frozenset[str], path: Path) -> None:
    """An entry of a tensor's external data. A doubled key or value counts once for every engine, so all are checked."""
    if "location" in texts(entry, _ENTRY_KEY):
        for place in texts(entry, _ENTRY_VALUE) or [""]:
            if not is_plain_name(place) or place not in files:
                what = f"{path}: has weights in {place[:200]!a}, which is no file that the manifest lists."
                raise BabelRSError(what, _REFUSE)
    key, value = text(entry, _ENTRY_KEY), text(entry, _ENTRY_VALUE)
    if key in ("offset", "length") and not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise BabelRSError(f"{path}: weights have the {key} {value[:40]!a}.", _REFUSE)
