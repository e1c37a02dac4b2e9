"""Graphs of a model as it is, in float32 or float16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto

from babelrs.sensors import Sensor
from compress.export import HALF_OPSET, OPSET, export_graph
from compress.folding import folded
from compress.weights import SharedWeights
from compress.wide_norms import widen
from train.models.detector import Detector


def in_half(detector: Detector) -> Detector:
    """The same detector in float16, but for the aggregation's parameters: its kernel and function take float32."""
    detector.half()
    detector.aggregate.float()
    return detector


def write_graphs(graphs: dict[Sensor, ModelProto], folder: Path) -> None:
    """``model.<sensor>.onnx`` and the one ``weights.bin`` under them."""
    weights = SharedWeights()
    for sensor, graph in graphs.items():
        weights.take_from(graph)
        (folder / f"model.{sensor}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    weights.write(folder)


def write_float_graphs(
    detector: Detector, sensors: Sequence[Sensor], half: bool, folder: Path, wide_norms: bool = False
) -> None:
    """Graphs of every sensor; with ``wide_norms`` the LayerNorms and softmaxes of float16 graphs are float32."""
    model = in_half(folded(detector)) if half else detector
    opset = HALF_OPSET if half else OPSET
    graphs = {sensor: export_graph(model, sensor, opset) for sensor in sensors}
    if half and wide_norms:
        for graph in graphs.values():
            widen(graph)
    write_graphs(graphs, folder)
