"""Graphs for CPUs: ONNX Runtime's own quantizer, uint8 activations and int8 weights, what is not INT8 in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet, as_seen_by
from compress.compact import compact
from compress.cpu_float_graph import cpu_float_graph, layers_of
from compress.entries import sensor_entry
from compress.float_graphs import write_float_graphs, write_graphs
from compress.folding import folded
from compress.graph_session import GraphSession, raw_outputs_from
from compress.histogram import Histogram
from compress.integer_nodes import IntegerNodes, find_integer_nodes
from compress.measure import measure
from compress.output_error import OutputErrors, raw_outputs_of
from compress.parts import part_of, parts_of
from compress.qdq import prepared, quantize
from compress.ranges import Ranges, SensorRanges
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from train.checkpoint import Checkpoint
from train.data.read_ahead import ahead
from train.evaluation.inputs import Samples, Scored
from train.models.detector import Detector
from train.predict import EVALUATION_SCORE


class OnnxRuntimeCompressor:
    """A :class:`compress.compressor.Compressor` that is measured by what flies.

    Args:
        detector: The trained model.
        checkpoint: Its record; its sensors are served.
        probe: Images that outputs are compared on.
        probe_images: How many of each sensor.
        reduce_range: 7-bit weights, for x86 CPUs without VNNI; see :func:`compress.qdq.quantize`.
        threads: Images at a time; no result depends on it.
    """

    measured_by: Literal["onnxruntime"] = "onnxruntime"

    def __init__(
        self,
        detector: Detector,
        checkpoint: Checkpoint,
        probe: CalibrationSet,
        probe_images: int,
        reduce_range: bool = True,
        threads: int = 1,
    ) -> None:
        self._detector, self._checkpoint = detector, checkpoint
        self._reduce_range, self._threads = reduce_range, threads
        self._float = folded(detector)
        self._layers = layers_of(self._float)
        self.parts = parts_of(self._layers)
        self._errors = OutputErrors(raw_outputs_of(self._float), detector.config.strides, probe, probe_images, threads)
        self._prepared: dict[Sensor, tuple[ModelProto, IntegerNodes]] = {}

    def num_weights(self) -> Mapping[str, int]:
        """Number of weights of every part."""
        counts = dict.fromkeys(self.parts, 0)
        for name, layer in self._layers.items():
            counts[part_of(name)] += layer.weight.numel()
        return counts

    def observe(self, images: CalibrationSet, sensor: Sensor, through: Sensor | None = None) -> dict[str, Histogram]:
        """Histograms of every quantization point of a sensor's images.

        Args:
            images: The images.
            sensor: Whose.
            through: The graph they pass, with channels and size made to fit; ``None``: the sensor's own.

        Raises:
            BabelRSError: An activation is NaN or infinite; the tensor and the image are named.
        """
        graph, integer = self._graph(through or sensor)
        session = GraphSession(graph, integer.quantization_points(), 1)
        height, width, channels = session.input_shape

        def look(batch: tuple[list[str], npt.NDArray[np.uint8]]) -> dict[str, Histogram]:
            seen: dict[str, Histogram] = {}
            for point, values in session(as_seen_by(batch[1], channels, (height, width))).items():
                try:
                    seen.setdefault(point, Histogram()).add(values)
                except ValueError as error:
                    what = f"{point} holds {error} for the {sensor} image {batch[0][0]}."
                    raise BabelRSError(what, "The weights are damaged or the image broken.") from None
            return seen

        found: dict[str, Histogram] = {}
        for part in ahead(look, images.batches(sensor, 1), self._threads):
            for point, histogram in part.items():
                found.setdefault(point, Histogram()).merge(histogram)
        return found

    def errors(self, int8_parts: Collection[str], ranges: SensorRanges) -> dict[Sensor, float]:
        """How far the outputs are from the float model's, by sensor."""
        found = {}
        for sensor in ranges:  # one graph at a time is held
            graph = self._quantized(sensor, int8_parts, ranges[sensor])
            found[sensor] = self._errors.of(raw_outputs_from({sensor: graph}, 1), sensor)
        return found

    def predict(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, samples: Samples) -> Scored:
        """Detections of the graphs in labelled images, through the runtime's engine."""
        precision = "int8" if int8_parts else "fp16" if half else "fp32"
        entries = {sensor: sensor_entry(self._checkpoint, sensor, precision, EVALUATION_SCORE) for sensor in samples}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._write(samples, int8_parts, ranges, half, folder)
            engine = partial(OnnxRuntimeEngine, folder, threads=1)
            scored, _ = measure(lambda sensor: engine(entries[sensor]), entries, samples, self._threads)
        return scored

    def write_graphs(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, folder: Path) -> None:
        """``model.<sensor>.onnx`` of every sensor, and ``weights.bin``."""
        self._write(self._checkpoint.classes, int8_parts, ranges, half, folder)

    def _write(
        self, sensors: Iterable[Sensor], int8_parts: Collection[str], ranges: SensorRanges, half: bool, folder: Path
    ) -> None:
        if not int8_parts:
            write_float_graphs(self._detector, list(sensors), half, folder)
            return
        write_graphs({sensor: self._quantized(sensor, int8_parts, ranges[sensor]) for sensor in sensors}, folder)

    def _quantized(self, sensor: Sensor, int8_parts: Collection[str], ranges: Ranges) -> ModelProto:
        if unknown := set(int8_parts) - set(self.parts):
            raise ValueError(f"no parts {sorted(unknown)}; there are {self.parts}")
        graph, integer = self._graph(sensor)
        if nodes := integer.chosen(int8_parts):
            return quantize(graph, nodes, integer.ranges(nodes, ranges), self._reduce_range)
        plain = ModelProto()
        plain.CopyFrom(graph)
        compact(plain)
        return plain

    def _graph(self, sensor: Sensor) -> tuple[ModelProto, IntegerNodes]:
        if sensor not in self._prepared:
            graph = cpu_float_graph(self._float, sensor)
            self._prepared[sensor] = prepared(graph), find_integer_nodes(graph.graph)
        return self._prepared[sensor]
