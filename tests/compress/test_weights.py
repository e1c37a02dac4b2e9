from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper

from babelrs.sensors import Sensor
from compress.export import export_graph
from compress.weights import INLINE_BYTES, WEIGHTS_FILE, SharedWeights
from tests.train.builders import random_detector, tiny_model


def tensors_of(model: ModelProto) -> dict[str, np.ndarray]:
    """Every initializer and constant by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=12))
def test_equal_contents_share_a_place_and_all_are_found_again(contents: list[bytes]) -> None:
    weights = SharedWeights()
    offsets = [weights.add(content) for content in contents]
    data = b"".join(weights._chunks)
    assert len(data) == weights.size
    for content, offset in zip(contents, offsets, strict=True):
        assert offset % 64 == 0 and data[offset : offset + len(content)] == content
    assert len(set(offsets)) == len(set(contents))


def test_graphs_share_the_weights_of_their_backbone_and_reload_unchanged(tmp_path: Path) -> None:
    detector = random_detector(tiny_model(), 3)
    weights, originals, contents = SharedWeights(), {}, set()
    for sensor in Sensor:
        graph = export_graph(detector, sensor)
        originals[sensor] = tensors_of(graph)
        contents |= {t.raw_data for t in graph.graph.initializer if len(t.raw_data) >= INLINE_BYTES}
        weights.take_from(graph)
        (tmp_path / f"{sensor}.onnx").write_bytes(graph.SerializeToString())
    weights.write(tmp_path)
    size = (tmp_path / WEIGHTS_FILE).stat().st_size
    assert size <= sum(len(content) + 64 for content in contents)
    backbone = sum(p.numel() * 4 for p in detector.backbone.parameters())
    assert size < 2 * backbone + sum(p.numel() * 4 for p in detector.parameters()) - backbone
    external = set()
    for sensor in Sensor:
        path = tmp_path / f"{sensor}.onnx"
        onnx.checker.check_model(path)
        bare = onnx.load(path, load_external_data=False)
        external |= {t.name for t in bare.graph.initializer if t.data_location == TensorProto.EXTERNAL}
        reloaded = tensors_of(onnx.load(path))
        assert reloaded.keys() == originals[sensor].keys()
        for name, values in originals[sensor].items():
            np.testing.assert_array_equal(reloaded[name], values, err_msg=name)
            assert reloaded[name].dtype == values.dtype
        inline = sum(len(tensor.raw_data) for tensor in bare.graph.initializer)
        assert inline < 0.5 * size
    assert len(external) > 10
