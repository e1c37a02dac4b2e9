"""Graphs for TensorRT: strongly typed, float16 activations, INT8 between explicit Q/DQ nodes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from onnx import ModelProto

from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from compress.export import HALF_OPSET, OPSET, export_graph
from compress.fake_quant import FakeQuantized
from compress.float_graphs import in_half, write_graphs
from compress.fold_weights import fold_weights
from compress.folding import folded
from compress.histogram import Histogram
from compress.output_error import OutputErrors, raw_outputs_of
from compress.ranges import SensorRanges
from compress.wide_norms import widen
from train.checkpoint import Checkpoint
from train.evaluate import predict_samples
from train.evaluation.inputs import Samples, Scored
from train.models.detector import Detector


class TensorRTCompressor:
    """A :class:`compress.compressor.Compressor` whose arithmetic is simulated in PyTorch.

    Args:
        detector: The trained model.
        checkpoint: Its record; its sensors are served.
        probe: Images that outputs are compared on.
        probe_images: How many of each sensor.
        wide_norms: Whether graphs compute LayerNorm and softmax in float32; the simulation always does.
        threads: Images at a time; no result depends on it.
    """

    measured_by: Literal["pytorch simulation"] = "pytorch simulation"

    def __init__(
        self,
        detector: Detector,
        checkpoint: Checkpoint,
        probe: CalibrationSet,
        probe_images: int,
        wide_norms: bool = False,
        threads: int = 1,
    ) -> None:
        self._checkpoint, self._wide_norms, self._threads = checkpoint, wide_norms, threads
        self._float = folded(detector)
        self._quantized = FakeQuantized(detector, half=True)
        self._errors = OutputErrors(raw_outputs_of(self._float), detector.config.strides, probe, probe_images, threads)
        self.parts = self._quantized.parts

    def num_weights(self) -> Mapping[str, int]:
        """Number of weights of every part."""
        return self._quantized.num_weights()

    def observe(self, images: CalibrationSet, sensor: Sensor, through: Sensor | None = None) -> dict[str, Histogram]:
        """Histograms of every quantization point; see :meth:`FakeQuantized.observe`."""
        return self._quantized.observe(images, sensor, through, threads=self._threads)

    def errors(self, int8_parts: Collection[str], ranges: SensorRanges) -> dict[Sensor, float]:
        """How far the outputs are from the float model's, by sensor."""
        self._quantized.quantize_parts(int8_parts)
        found = {}
        for sensor in ranges:
            self._quantized.use(ranges[sensor])
            found[sensor] = self._errors.of(raw_outputs_of(self._quantized.detector), sensor)
        return found

    def predict(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, samples: Samples) -> Scored:
        """Detections of the simulated model in labelled images."""
        self._quantized.quantize_parts(int8_parts)
        scored = Scored()
        for sensor, group in samples.items():
            if half:
                self._quantized.use(ranges.get(sensor, {}))
            detector = self._quantized.detector if half else self._float
            part = predict_samples(detector, self._checkpoint, {sensor: group}, threads=self._threads)
            scored.found.update(part.found)
            scored.truth.update(part.truth)
        return scored

    def write_graphs(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, folder: Path) -> None:
        """``model.<sensor>.onnx`` of every sensor, and ``weights.bin``."""
        self._quantized.quantize_parts(int8_parts)
        graphs = {}
        for sensor in self._checkpoint.classes:
            if half:
                self._quantized.use(ranges.get(sensor, {}))
            graphs[sensor] = export_half(self._quantized, sensor) if half else export_graph(self._float, sensor, OPSET)
            if half and self._wide_norms:
                widen(graphs[sensor])
        write_graphs(graphs, folder)


def export_half(model: FakeQuantized, sensor: Sensor) -> ModelProto:
    """A sensor's graph in float16 with Q/DQ around its INT8 parts, INT8 weights stored as such."""
    detector = copy.deepcopy(model.detector)
    for module in detector.modules():
        module._forward_hooks.clear()  # rounding is simulated there; here the types themselves round
        if hasattr(module, "trt_high_precision_dtype"):  # its default puts float32 behind every quantizer
            setattr(module, "trt_high_precision_dtype", "Half")  # noqa: B010
    graph = export_graph(in_half(detector), sensor, HALF_OPSET)
    fold_weights(graph)
    return graph
