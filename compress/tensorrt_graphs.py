"""Graphs for TensorRT: strongly typed, float16 activations, INT8 between explicit Q/DQ nodes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from babelrs.metrics import Evaluation, evaluate
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from compress.export import HALF_OPSET, OPSET, export_graph
from compress.fake_quant import FakeQuantized
from compress.fold_weights import fold_weights
from compress.folding import folded
from compress.histogram import Histogram
from compress.output_error import OutputErrors
from compress.ranges import SensorRanges
from compress.weights import SharedWeights
from train.checkpoint import Checkpoint
from train.data.samples import Sample
from train.evaluate import predict_samples
from train.evaluation.inputs import Scored
from train.models.detector import Detector


class TensorRTCompressor:
    """A :class:`compress.compressor.Compressor` whose arithmetic is simulated in PyTorch.

    Args:
        detector: The trained model.
        checkpoint: Its record.
        samples: Held-out samples of every sensor to serve.
        probe: Images that outputs are compared on.
        probe_images: How many of each sensor.
    """

    measured_by = "pytorch simulation"

    def __init__(
        self,
        detector: Detector,
        checkpoint: Checkpoint,
        samples: Mapping[Sensor, Sequence[Sample]],
        probe: CalibrationSet,
        probe_images: int,
    ) -> None:
        self._checkpoint, self._samples = checkpoint, samples
        self._float = folded(detector)
        self._quantized = FakeQuantized(detector, half=True)
        self._errors = OutputErrors(self._float, probe, probe_images)
        self.parts = self._quantized.parts

    def num_weights(self) -> Mapping[str, int]:
        """Number of weights of every part."""
        return self._quantized.num_weights()

    def observe(self, images: CalibrationSet, sensor: Sensor, through: Sensor | None = None) -> dict[str, Histogram]:
        """Histograms of every quantization point; see :meth:`FakeQuantized.observe`."""
        return self._quantized.observe(images, sensor, through)

    def errors(self, int8_parts: Collection[str], ranges: SensorRanges) -> dict[Sensor, float]:
        """How far the outputs are from the float model's, by sensor."""
        self._quantized.quantize_parts(int8_parts)
        found = {}
        for sensor in ranges:
            self._quantized.use(ranges[sensor])
            found[sensor] = self._errors.of(self._quantized.detector, sensor)
        return found

    def evaluate(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool) -> Evaluation:
        """Accuracy on the held-out samples."""
        self._quantized.quantize_parts(int8_parts)
        scored = Scored()
        for sensor, group in self._samples.items():
            if half:
                self._quantized.use(ranges.get(sensor, {}))
            detector = self._quantized.detector if half else self._float
            part = predict_samples(detector, self._checkpoint, {sensor: group})
            scored.found.update(part.found)
            scored.truth.update(part.truth)
        return evaluate(scored.found, scored.truth)

    def write_graphs(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, folder: Path) -> None:
        """``model.<sensor>.onnx`` of every sensor, and ``weights.bin``."""
        self._quantized.quantize_parts(int8_parts)
        weights = SharedWeights()
        for sensor in self._samples:
            if half:
                self._quantized.use(ranges.get(sensor, {}))
            graph = export_half(self._quantized, sensor) if half else export_graph(self._float, sensor, OPSET)
            weights.take_from(graph)
            (folder / f"model.{sensor}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
        weights.write(folder)


def export_half(model: FakeQuantized, sensor: Sensor) -> Any:
    """A sensor's graph in float16 with Q/DQ around its INT8 parts, INT8 weights stored as such.

    The aggregation's parameters stay float32, which its kernel and its function take.
    """
    detector = copy.deepcopy(model.detector)
    for module in detector.modules():
        module._forward_hooks.clear()  # rounding is simulated there; here the types themselves round
        if hasattr(module, "trt_high_precision_dtype"):  # its default puts float32 behind every quantizer
            setattr(module, "trt_high_precision_dtype", "Half")  # noqa: B010
    detector.half()
    detector.aggregate.float()
    graph = export_graph(detector, sensor, HALF_OPSET)
    fold_weights(graph)
    return graph
