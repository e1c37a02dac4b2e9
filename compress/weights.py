"""One external weight file under several graphs: equal tensors are stored once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx import ModelProto, TensorProto

WEIGHTS_FILE = "weights.bin"
INLINE_BYTES = 128
"""Smaller tensors stay in the graph: they are shapes, steps and constants that engines fold while loading."""

_ALIGNMENT = 64


class SharedWeights:
    """Collects tensors for one file, each content once, aligned to 64 bytes."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._offsets: dict[str, int] = {}
        self.size = 0

    def add(self, content: bytes) -> int:
        """Offset of ``content`` in the file, in bytes."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._offsets:
            padding = -self.size % _ALIGNMENT
            self._chunks += [b"\0" * padding, content]
            self._offsets[digest] = self.size + padding
            self.size += padding + len(content)
        return self._offsets[digest]

    def take_from(self, model: ModelProto) -> None:
        """Move a graph's large tensors (initializers and constants) into the file."""
        for tensor in _tensors(model):
            content = tensor.raw_data
            if len(content) < INLINE_BYTES:
                continue
            offset = self.add(content)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(len(content)))):
                tensor.external_data.add(key=key, value=value)

    def write(self, folder: Path) -> None:
        """Write ``weights.bin`` into ``folder``."""
        (folder / WEIGHTS_FILE).write_bytes(b"".join(self._chunks))


def _tensors(model: ModelProto) -> list[TensorProto]:
    constants = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return [*model.graph.initializer, *constants]
