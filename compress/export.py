"""PyTorch to ONNX: one graph per sensor, with the inputs and outputs that the runtime expects."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import onnx
import torch
from onnx import ModelProto

from babelrs import __version__
from babelrs.sensors import Sensor
from compress.local_function import add_aggregate_function
from train.models.detector import Detector, SensorDetector
from train.models.pyramid import level_sizes

OPSET = 17
"""The oldest opset with LayerNormalization; TensorRT 10.3 and ONNX Runtime 1.18 read it."""
HALF_OPSET = 19
"""The oldest whose quantization scales may be float16, which a strongly typed float16 graph needs."""

OUTPUTS = ("boxes", "scores", "labels")


def export_graph(detector: Detector, sensor: Sensor, opset: int = OPSET) -> ModelProto:
    """One sensor's graph, weights inside; of the type that the detector's weights are of.

    Input ``pixels`` uint8 ``(N, H, W, C)`` with N dynamic; outputs ``boxes`` float32 ``(N, K, 5)``, ``scores`` float32
    ``(N, K)``, ``labels`` int32 ``(N, K)``; K is ``max_detections``, or the number of anchor points if that is less.

    Args:
        detector: In evaluation mode, on the CPU.
        sensor: The head to export.
        opset: Version of the standard operators.
    """
    height, width = detector.config.input_px.of(sensor)
    model = SensorDetector(copy.deepcopy(detector), sensor, detector.config.max_detections).eval()
    model.detector.backbone.fix_image_size(height, width)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010  plain matrix products: what engines know how to fuse
    pixels = torch.zeros(2, height, width, sensor.num_channels, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder) / "graph.onnx"
        # the TorchScript exporter: quantized graphs need it too, and it keeps the aggregation one node
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python")  # sizes are meant to be constants
        warnings.filterwarnings("ignore", message="torch.tensor results are registered as constants")
        warnings.filterwarnings("ignore", message="The exported ONNX model failed ONNX shape inference")
        torch.onnx.export(
            model,
            (pixels,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["pixels"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "N"} for name in ("pixels", *OUTPUTS)},
        )
        graph = onnx.load(file)
    add_aggregate_function(graph)
    num_points = sum(rows * columns for rows, columns in level_sizes(height, width, detector.config.strides))
    _describe(graph, sensor, min(detector.config.max_detections, num_points))
    onnx.checker.check_model(graph)
    return graph


def _describe(graph: ModelProto, sensor: Sensor, max_detections: int) -> None:
    """Fixed output shapes, and nothing in the file that depends on the machine it was made on."""
    shapes = {"boxes": [None, max_detections, 5], "scores": [None, max_detections], "labels": [None, max_detections]}
    for output in graph.graph.output:
        dims = output.type.tensor_type.shape.dim
        del dims[:]
        for size in shapes[output.name]:
            dims.add(dim_param="N") if size is None else dims.add(dim_value=size)
    graph.graph.name = f"babelrs.{sensor}"
    graph.producer_name, graph.producer_version = "babelrs", __version__
    graph.graph.doc_string = ""
    for node in graph.graph.node:
        node.doc_string = ""
