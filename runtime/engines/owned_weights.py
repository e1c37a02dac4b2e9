"""A session of ONNX Runtime whose weights lie in memory that can be addressed, so that it can be checked.

Left alone, ONNX Runtime computes with copies that nobody else can reach: it folds constants, re-lays the weights of
convolutions for the CPU's vectors, and packs those of matrix products. So the graph is optimised once, written into a
folder of its own, and opened again as it is: every initializer of the optimised graph is given as a value that we hold
(ONNX Runtime does not copy those), and packing is off. What remains out of reach are scalars that a kernel copies into
itself when it is made, a few bytes each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from ctypes import c_uint8
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines.onnx_wire import Message, blobs, integer, integers, read_message, text, texts
from runtime.integrity.weights import Region

GRAPH_FILE, WEIGHTS_FILE = "optimised.onnx", "optimised.bin"
FASTEST_FOLDER = Path("/dev/shm")
"""Memory as a folder, where the system has it: the device's storage may be read-only."""

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_NAME = 1, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_LONGS = 1, 2, 4, 5, 7
_TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 9, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_TYPES: Mapping[int, type[np.generic]] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip

Array = np.ndarray[Any, np.dtype[Any]]
SETTINGS = {
    "session.optimized_model_external_initializers_file_name": WEIGHTS_FILE,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",  # shapes must stay in the graph
}


@dataclass(frozen=True)
class OwnedSession:
    """A session and the memory of its weights.

    Attributes:
        session: ONNX Runtime's; its weights are those of ``values``, which must live as long.
        values: By the initializer's name.
        regions: The same memory as bytes.
    """

    session: Any
    values: Mapping[str, Any]
    regions: tuple[Region, ...]


def open_owned(path: Path, new_options: Callable[[], Any]) -> OwnedSession:
    """Open a graph on the CPU with weights in our hands.

    Args:
        path: The ONNX file; its external weights lie beside it.
        new_options: Makes session options, optimisation and threads set.

    Raises:
        OSError: No folder can be written.
        Exception: ONNX Runtime cannot optimise or load the graph; its exceptions have no public base class.
    """
    import onnxruntime

    place = FASTEST_FOLDER if FASTEST_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="babelrs-", dir=place) as name:
        folder, options = Path(name), new_options()
        options.optimized_model_filepath = str(folder / GRAPH_FILE)
        for setting, value in SETTINGS.items():
            options.add_session_config_entry(setting, value)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        read = initializers(folder / GRAPH_FILE)
        values = {key: onnxruntime.OrtValue.ortvalue_from_numpy(array) for key, array in read.items()}
        readers = first_readers(folder / GRAPH_FILE)
        options = new_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        for key, value in values.items():
            options.add_initializer(key, value)
        graph = str(folder / GRAPH_FILE)
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return OwnedSession(session, values, tuple(_region(key, value, readers) for key, value in values.items()))


def _region(name: str, value: Any, readers: Mapping[str, str]) -> Region:
    array = value.numpy()
    memory = (c_uint8 * array.nbytes).from_address(value.data_ptr())
    return Region(name, np.ctypeslib.as_array(memory), array.dtype.name, readers.get(name, ""))


def initializers(path: Path) -> dict[str, Array]:
    """The initializers of a graph by name, those without elements left out.

    Raises:
        BabelRSError: The file is no ONNX file.
        OSError: It, or its external weights, cannot be read.
    """
    found = {}
    for tensor in map(read_message, blobs(_graph(path), _GRAPH_INITIALIZER)):
        array = _array(tensor, path.parent)
        if array is not None and array.size:
            found[text(tensor, _TENSOR_NAME)] = array
    return found


def first_readers(path: Path) -> dict[str, str]:
    """Names of the nodes that read a tensor first, by the tensor's name.

    Raises:
        BabelRSError: The file is no ONNX file.
        OSError: It cannot be read.
    """
    found: dict[str, str] = {}
    for node in map(read_message, blobs(_graph(path), _GRAPH_NODE)):
        for name in texts(node, _NODE_INPUT):
            found.setdefault(name, text(node, _NODE_NAME))
    return found


def _graph(path: Path) -> Message:
    return read_message((blobs(read_message(path.read_bytes()), _MODEL_GRAPH) or [b""])[-1])


def _array(tensor: Message, folder: Path) -> Array | None:
    """A tensor's values, in memory of their own; ``None`` for types that no graph of ours has, such as strings."""
    dtype, shape = _TYPES.get(integer(tensor, _TENSOR_TYPE)), integers(tensor, _TENSOR_DIMS)
    if dtype is None:
        return None
    raw = _external(tensor, folder) if integer(tensor, _TENSOR_LOCATION) else b"".join(blobs(tensor, _TENSOR_RAW))
    if not raw and dtype is np.float32:
        raw = b"".join(each.value for each in tensor if each.number == _TENSOR_FLOATS and isinstance(each.value, bytes))
    if raw:
        return np.frombuffer(raw, dtype).reshape(shape).copy()
    numbers = integers(tensor, _TENSOR_INTS) or integers(tensor, _TENSOR_LONGS)
    if dtype is np.float16:  # its bits, in integers
        return np.array(numbers, np.uint16).view(np.float16).reshape(shape)
    return np.array(numbers, np.int64).astype(dtype).reshape(shape) if numbers else None


def _external(tensor: Message, folder: Path) -> bytes:
    entries = {
        text(each, _ENTRY_KEY): text(each, _ENTRY_VALUE) for each in map(read_message, blobs(tensor, _TENSOR_EXTERNAL))
    }
    with (folder / Path(entries["location"]).name).open("rb") as stream:
        stream.seek(int(entries.get("offset", 0)))
        return stream.read(int(entries["length"]))
