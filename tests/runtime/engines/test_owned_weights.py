"""Weights in our hands are those that ONNX Runtime computes with, and compute what the plain session does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from babelrs.bundle import open_bundle, read_selftest
from babelrs.sensors import Sensor
from runtime.cli import DEMO_BUNDLE
from runtime.engines import owned_weights
from runtime.engines.onnxruntime import OnnxRuntimeEngine, _new_options
from runtime.engines.owned_weights import initializers, open_owned
from tests.runtime.engines.quantized_graphs import quantized_graph


@pytest.fixture(scope="module")
def demo() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(DEMO_BUNDLE, open_bundle(DEMO_BUNDLE).manifest.entry(Sensor.IR), 1, owned=True)


def test_the_demo_model_gives_what_it_gives_without(demo: OnnxRuntimeEngine) -> None:
    selftest = read_selftest(open_bundle(DEMO_BUNDLE), Sensor.IR)
    plain = OnnxRuntimeEngine(DEMO_BUNDLE, open_bundle(DEMO_BUNDLE).manifest.entry(Sensor.IR), 1)
    for got, wanted in zip(demo.infer(selftest.pixels), plain.infer(selftest.pixels), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)


def test_every_weight_of_a_matrix_or_convolution_reaches_the_outputs(demo: OnnxRuntimeEngine) -> None:
    pixels = read_selftest(open_bundle(DEMO_BUNDLE), Sensor.IR).pixels
    sound = demo.infer(pixels)
    large = sorted((each for each in demo.weights if each.dtype == "float32"), key=lambda each: -len(each.content))
    for region in [*large[:12], *large[60:72]]:
        kept = region.content.copy()
        region.content[:] = np.frombuffer(np.full(len(kept) // 4, 0.5, np.float32).tobytes(), np.uint8)
        changed = demo.infer(pixels)
        region.content[:] = kept
        assert any((a != b).any() for a, b in zip(changed, sound, strict=True)), region.name
    assert all((a == b).all() for a, b in zip(demo.infer(pixels), sound, strict=True)), "restored"


def test_all_weights_of_the_file_are_held(demo: OnnxRuntimeEngine) -> None:
    held = sum(len(each.content) for each in demo.weights)
    graph = onnx.load(str(DEMO_BUNDLE / "model.ir.onnx"), load_external_data=False).graph
    stored = sum(
        int(entry.value) for tensor in graph.initializer for entry in tensor.external_data if entry.key == "length"
    )
    assert held >= 0.95 * stored


def test_int8_weights_are_held_and_computed_with(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    onnx.save(quantized_graph(tmp_path, np.float32), str(path))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    held = open_owned(path, lambda: _new_options(1, {}))
    sound = held.session.run(["out"], {"pixels": pixels})[0]
    weights = [each for each in held.regions if each.dtype == "int8" and len(each.content) > 100]
    assert weights
    for region in weights:
        region.content[:] ^= 0x40
        assert (held.session.run(["out"], {"pixels": pixels})[0] != sound).any(), region.name
        region.content[:] ^= 0x40


def test_initializers_are_read_as_onnx_reads_them(tmp_path: Path) -> None:
    model = quantized_graph(tmp_path, np.float32)
    onnx.save(model, str(tmp_path / "q.onnx"))
    typed = onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [3], [1.5, -2.0, 0.25])
    longs = onnx.helper.make_tensor("longs", onnx.TensorProto.INT64, [2], [-1, 7])
    model.graph.initializer.extend([typed, longs])
    (tmp_path / "q.onnx").write_bytes(model.SerializeToString())
    read = initializers(tmp_path / "q.onnx")
    loaded = onnx.load(str(tmp_path / "q.onnx")).graph.initializer
    wanted = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loaded}
    assert read.keys() == wanted.keys()
    for name, values in wanted.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)


def test_where_no_folder_can_be_written_the_engine_runs_unwatched_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(owned_weights.tempfile, "TemporaryDirectory", refuse)
    entry = open_bundle(DEMO_BUNDLE).manifest.entry(Sensor.IR)
    engine = OnnxRuntimeEngine(DEMO_BUNDLE, entry, 1, owned=True)
    assert engine.weights == () and "cannot be checked in memory (Read-only file system)" in caplog.text
