"""A graph reaches for the files of its bundle and for nothing else, or no engine sees it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from babelrs.bundle import Bundle, write_manifest
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.engines import graph_check, open_engine
from runtime.engines.candidates import candidates
from runtime.engines.graph_check import MOST_DEPTH, check_graph, check_model
from runtime.engines.onnx_edit import names_plugin, quantized_over, without_function, without_quantization
from runtime.engines.onnx_wire import BYTES, MOST_FIELDS, Field, read_message, write_message
from tests.runtime.toy_bundle import toy_graph

PATH = Path("bundle/model.ir.onnx")


def external(location: str, **entries: str) -> TensorProto:
    tensor = TensorProto(name="size", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_of(**fields: object) -> onnx.ModelProto:
    return onnx.ModelProto(graph=onnx.GraphProto(**fields))  # type: ignore[arg-type]


def in_a_node(attribute: AttributeProto) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Constant", output=["x"], attribute=[attribute])


def sparse(location: str, indices: bool = False) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(**{"indices" if indices else "values": external(location)})


def subgraph(location: str) -> onnx.GraphProto:
    return onnx.GraphProto(initializer=[external(location)])


PLACES: dict[str, Callable[[str], onnx.ModelProto]] = {
    "an initializer": lambda name: model_of(initializer=[external(name)]),
    "a sparse initializer": lambda name: model_of(sparse_initializer=[sparse(name)]),
    "the indices of a sparse initializer": lambda name: model_of(sparse_initializer=[sparse(name, True)]),
    "a constant": lambda name: model_of(node=[in_a_node(AttributeProto(name="value", t=external(name)))]),
    "tensors of a node": lambda name: model_of(node=[in_a_node(AttributeProto(name="v", tensors=[external(name)]))]),
    "a sparse constant": lambda name: model_of(node=[in_a_node(AttributeProto(name="v", sparse_tensor=sparse(name)))]),
    "sparse tensors": lambda name: model_of(node=[in_a_node(AttributeProto(name="v", sparse_tensors=[sparse(name)]))]),
    "a branch": lambda name: model_of(node=[in_a_node(AttributeProto(name="then_branch", g=subgraph(name)))]),
    "graphs of a node": lambda name: model_of(node=[in_a_node(AttributeProto(name="v", graphs=[subgraph(name)]))]),
    "a function": lambda name: onnx.ModelProto(
        functions=[onnx.FunctionProto(node=[in_a_node(AttributeProto(name="value", t=external(name)))])]
    ),
    "a function's default": lambda name: onnx.ModelProto(
        functions=[onnx.FunctionProto(attribute_proto=[AttributeProto(name="value", t=external(name))])]
    ),
    "training": lambda name: onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=subgraph(name))]),
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_outside_the_bundle_are_refused_wherever_a_tensor_may_stand(place: str) -> None:
    check_model(PLACES[place]("weights.bin").SerializeToString(), ["weights.bin"], PATH)
    with pytest.raises(BabelRSError, match=r"model\.ir\.onnx: has weights in '\.\./secret\.bin'"):
        check_model(PLACES[place]("../secret.bin").SerializeToString(), ["weights.bin"], PATH)


LOCATIONS = [
    "../weights.bin", "/etc/passwd", "", ".", "..", "sub/weights.bin", "other.bin", "weights.bin\0", "WEIGHTS.BIN",
    "./weights.bin", "*/_ORT_MEM_ADDR_/*", "weights.bin/", "\\\\host\\share", "weights.bin ", "-", "c:weights.bin",
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_only_the_plain_names_that_the_manifest_lists_are_followed(location: str) -> None:
    with pytest.raises(BabelRSError, match="no file that the manifest lists"):
        check_model(PLACES["an initializer"](location).SerializeToString(), ["weights.bin"], PATH)


def test_a_second_location_is_checked_too_whichever_an_engine_takes() -> None:
    for names in (("weights.bin", "../x"), ("../x", "weights.bin")):
        tensor = external(names[0])
        tensor.external_data.add(key="location", value=names[1])
        with pytest.raises(BabelRSError, match=r"'\.\./x'"):
            check_model(model_of(initializer=[tensor]).SerializeToString(), ["weights.bin"], PATH)
        entry = write_message([Field(1, BYTES, b"location"), *(Field(2, BYTES, name.encode()) for name in names)])
        tensor = write_message([Field(13, BYTES, entry)])
        data = write_message([Field(7, BYTES, write_message([Field(5, BYTES, tensor)]))])
        with pytest.raises(BabelRSError, match=r"'\.\./x'"):
            check_model(data, ["weights.bin"], PATH)


@pytest.mark.parametrize("value", ["-1", "1e9", "", "0x10", "12 ", "9" * 20])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_place_in_a_file_is_a_whole_number(key: str, value: str) -> None:
    with pytest.raises(BabelRSError, match=f"the {key} '{value}'"):
        check_model(
            model_of(initializer=[external("weights.bin", **{key: value})]).SerializeToString(), ["weights.bin"], PATH
        )


def test_a_compiled_engine_in_a_graph_is_refused_as_code() -> None:
    node = helper.make_node("EPContext", ["pixels"], ["boxes"], domain="com.microsoft", ep_cache_context="x.engine")
    with pytest.raises(BabelRSError, match="EPContext, which is code"):
        check_model(model_of(node=[node]).SerializeToString(), [], PATH)


def test_a_field_number_that_other_readers_cut_to_32_bits_is_refused() -> None:
    graph = PLACES["an initializer"]("../x").graph.SerializeToString()
    hidden = write_message([Field((1 << 29) + 7, BYTES, graph)])  # the lowest 32 bits of its key are those of field 7
    with pytest.raises(BabelRSError, match="field number"):
        check_model(hidden, [], PATH)


def test_depth_and_number_of_fields_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx.GraphProto()
    for _ in range(MOST_DEPTH):
        graph = onnx.GraphProto(node=[in_a_node(AttributeProto(name="g", g=graph))])
    with pytest.raises(BabelRSError, match="nested deeper"):
        check_model(onnx.ModelProto(graph=graph).SerializeToString(), [], PATH)
    with pytest.raises(BabelRSError, match=f"more than {MOST_FIELDS} fields"):
        check_model(b"\x08\x01" * (MOST_FIELDS + 1), [], PATH)
    monkeypatch.setattr(graph_check, "MOST_FIELDS", 1000)
    tensor = write_message([Field(5, BYTES, b"\x08\x01" * 200)])
    check_model(write_message([Field(7, BYTES, tensor * 4)]), [], PATH)
    with pytest.raises(BabelRSError, match="more than 1000 fields"):
        check_model(write_message([Field(7, BYTES, tensor * 5)]), [], PATH)


def test_the_toy_graph_and_its_bundle_pass(toy_bundle: Bundle) -> None:
    path = toy_bundle.folder / toy_bundle.manifest.entry(Sensor.IR).graph
    assert check_graph(toy_bundle, Sensor.IR) == path.read_bytes()


def outside(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of the bundle, with a right manifest, whose infrared weights lie in a file beside it."""
    shutil.copytree(bundle.folder, folder / "copy")
    (folder / "secret.bin").write_bytes(np.ones(3, np.float32).tobytes())
    path = folder / "copy" / bundle.manifest.entry(Sensor.IR).graph
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[-1].external_data[0].value = "../secret.bin"
    path.write_bytes(model.SerializeToString())
    return write_manifest(folder / "copy", bundle.manifest)


def test_no_engine_sees_a_graph_that_reaches_out(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABELRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("runtime.engines.onnxruntime._start", lambda *given: pytest.fail("ONNX Runtime saw it"))
    bundle = outside(toy_bundle, tmp_path)
    for open_it in (lambda: open_engine(bundle, Sensor.IR), lambda: candidates(bundle, Sensor.IR, plugin=False)):
        with pytest.raises(BabelRSError, match=r"model\.ir\.onnx: has weights in '\.\./secret\.bin'"):
            open_it()


def test_a_graph_is_read_as_onnx_whatever_its_name(toy_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "named"
    shutil.copytree(toy_bundle.folder, folder)
    (folder / "model.ir.onnx").rename(folder / "model.ir.ort")
    entry = replace(toy_bundle.manifest.entry(Sensor.IR), graph="model.ir.ort")
    sensors = {**toy_bundle.manifest.sensors, Sensor.IR: entry}
    bundle = write_manifest(folder, replace(toy_bundle.manifest, sensors=sensors))
    assert open_engine(bundle, Sensor.IR, "onnxruntime").name == "onnxruntime"


MODEL = toy_graph(64, 96, 1).SerializeToString()
READERS: tuple[Callable[[bytes], object], ...] = (
    lambda data: check_model(data, ["weights.bin"], PATH),
    lambda data: quantized_over(data, Path("nowhere")),
    lambda data: without_quantization(data, Path("nowhere")),
    lambda data: without_function(data, "babelrs", "LayerwiseAggregate"),
    lambda data: names_plugin(data, "babelrs", "LayerwiseAggregate", "1"),
)


def read_by_all(data: bytes) -> None:
    for reader in READERS:
        with suppress(BabelRSError):
            reader(data)


@settings(max_examples=150)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_give_an_answer_or_an_error(data: bytes) -> None:
    read_by_all(data)
    read_by_all(write_message([Field(7, BYTES, data)]))


@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, len(MODEL)),
)
def test_a_changed_or_cut_graph_gives_an_answer_or_an_error(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(MODEL)
    for place, value in changes:
        data[place] = value
    read_by_all(bytes(data))
    read_by_all(bytes(data[:cut]))


def test_a_quantizer_that_computes_from_itself_ends(tmp_path: Path) -> None:
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["x"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    with pytest.raises(BabelRSError, match="from itself"):
        without_quantization(model_of(node=nodes, initializer=[scale]).SerializeToString(), tmp_path)


@pytest.mark.parametrize("inputs", [[], ["x"], ["", ""]])
def test_a_quantizer_without_its_inputs_is_refused(inputs: list[str], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", inputs, ["q"]),
        helper.make_node("DequantizeLinear", ["q", *inputs[1:]], ["x"]),
    ]
    for read in (quantized_over, without_quantization):
        with pytest.raises(BabelRSError):
            read(model_of(node=nodes).SerializeToString(), tmp_path)


def test_a_message_that_was_read_is_written_back(tmp_path: Path) -> None:
    assert write_message(read_message(MODEL)) == MODEL
