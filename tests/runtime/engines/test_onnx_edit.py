"""Edits of ONNX files against the onnx package, which the edits do without, and ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from babelrs.errors import BabelRSError
from runtime.cli import DEMO_BUNDLE
from runtime.engines.onnx_edit import quantized_over, without_function, without_quantization
from runtime.engines.onnx_wire import Field, read_message, write_message
from tests.runtime.engines.quantized_graphs import quantized_graph

GRAPHS = sorted(DEMO_BUNDLE.glob("*.onnx"))


def run(model: bytes, folder: Path, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(["out"], {"pixels": pixels})[0]
    return found


def expected_without(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The same edit by the onnx package and numpy in float64, written independently."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    values |= {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"
    }
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            weight, scale, zero = (values[name].astype(np.float64) for name in node.input)
            shape = [1] * weight.ndim
            shape[node.attribute[0].i] = -1
            exact = (weight - zero.reshape(shape)) * scale.reshape(shape)
            rounded = exact.astype(values[node.input[1]].dtype)
            model.graph.initializer.append(numpy_helper.from_array(rounded, node.output[0]))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(helper.make_node("Identity", node.input[:1], node.output))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.name)
def test_a_file_is_written_back_as_it_was_read(path: Path) -> None:
    content = path.read_bytes()
    fields = read_message(content)
    assert write_message(fields) == content
    nested = [
        each._replace(value=write_message(read_message(each.value))) if each.number == 7 else each for each in fields
    ]
    assert write_message(nested) == content


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=300)))))
def test_any_message_survives(fields: list[tuple[int, int | bytes]]) -> None:
    message = [Field(number, 0 if isinstance(value, int) else 2, value) for number, value in fields]
    assert read_message(write_message(message)) == message


@pytest.mark.parametrize("end", [1, 3, 5, 1000, -1])
def test_a_cut_file_is_refused(end: int) -> None:
    with pytest.raises(BabelRSError, match="Not an ONNX file"):
        read_message(GRAPHS[0].read_bytes()[:end])


@pytest.mark.parametrize("content", [b"\x0b", b"\x00\x01", b"\x08" + b"\xff" * 10, b"no graph at all"])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(BabelRSError, match="Not an ONNX file"):
        read_message(content)


def test_the_function_s_body_goes_and_nothing_else() -> None:
    content = GRAPHS[0].read_bytes()
    expected = onnx.load_from_string(content)
    assert len(expected.functions) == 1
    del expected.functions[:]
    found = onnx.load_from_string(without_function(content, "babelrs", "LayerwiseAggregate"))
    assert found == expected


def test_a_function_that_is_not_there_is_said() -> None:
    with pytest.raises(BabelRSError, match="no function babelrs::Other"):
        without_function(GRAPHS[0].read_bytes(), "babelrs", "Other")


@pytest.mark.parametrize("external", [True, False], ids=["external", "inline"])
@pytest.mark.parametrize(("kind", "precision"), [(np.float16, "fp16"), (np.float32, "fp32")])
def test_without_quantization_the_graph_computes_in_the_type_of_its_scales(
    tmp_path: Path, kind: type[np.generic], precision: str, external: bool
) -> None:
    model = quantized_graph(tmp_path, kind, external)
    content = model.SerializeToString()
    assert quantized_over(content, tmp_path) == precision
    edited = without_quantization(content, tmp_path)
    found = onnx.load_from_string(edited)
    onnx.checker.check_model(found)
    assert not {node.op_type for node in found.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert {each.name for each in found.graph.initializer} == {"conv_w", "product_w"}
    assert not found.graph.value_info  # it named a tensor that is no more
    assert quantized_over(edited, tmp_path) is None
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    outputs = run(edited, tmp_path, pixels)
    expected = expected_without(model, tmp_path)
    weights = {each.name: numpy_helper.to_array(each) for each in expected.graph.initializer}
    for each in found.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(each), weights[each.name], strict=True)
    independent = run(expected.SerializeToString(), tmp_path, pixels)
    # float16 is computed in float32 between nodes, and the other graph has nodes that this one has not
    np.testing.assert_allclose(outputs, independent, rtol=0, atol=2e-3 if kind == np.float16 else 0)
    rounded = run(content, tmp_path, pixels)
    assert 0 < np.abs(outputs - rounded).max() < 0.05 * np.abs(rounded).max()


def test_values_stored_as_integers_are_read_too(tmp_path: Path) -> None:
    model = quantized_graph(tmp_path, np.float16, external=False)
    expected = without_quantization(model.SerializeToString(), tmp_path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        bits = values.view(np.uint16) if values.dtype == np.float16 else values
        tensor.ClearField("raw_data")
        tensor.int32_data.extend(bits.astype(np.int64).reshape(-1).tolist())
    assert without_quantization(model.SerializeToString(), tmp_path) == expected


def test_float_scales_stored_as_floats_are_read_too(tmp_path: Path) -> None:
    model = quantized_graph(tmp_path, np.float32, external=False)
    expected = without_quantization(model.SerializeToString(), tmp_path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values.tolist())
    assert without_quantization(model.SerializeToString(), tmp_path) == expected


def changed(folder: Path, change: str) -> onnx.ModelProto:
    model = quantized_graph(folder)
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    if change == "computed scale":
        nodes["level_r"].input[1] = "mean"
    elif change == "8 bits used":
        nodes["level_r"].op_type = "Cast"
        del nodes["level_r"].input[1:]
        nodes["level_r"].attribute.append(helper.make_attribute("to", TensorProto.FLOAT16))
    elif change == "blocks":
        nodes["conv_w"].attribute.append(helper.make_attribute("block_size", 2))
    elif change == "a type between":
        other = helper.make_node("Constant", [], ["float32"], value=numpy_helper.from_array(np.array(0.1, np.float32)))
        model.graph.node.insert(0, other)
        nodes["level_r"].input[1] = "float32"
    elif change == "a file elsewhere":
        model.graph.initializer[0].external_data[0].value = "../weights.bin"
    else:
        branch = helper.make_graph([], "branch", [], [])
        model.graph.node.append(helper.make_node("If", ["unused"], ["x"], then_branch=branch, else_branch=branch))
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("computed scale", "is computed"),
        ("8 bits used", "is used as it is"),
        ("blocks", "scales by block"),
        ("a type between", "another type"),
        ("a file elsewhere", "no file of the bundle"),
        ("a graph within", "holds a graph of its own"),
    ],
)
def test_what_the_edit_does_not_know_is_refused(tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(BabelRSError, match=said):
        without_quantization(changed(tmp_path, change).SerializeToString(), tmp_path)
