"""What the search needs of a kind of target: TensorRT's arithmetic simulated in PyTorch, or ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Protocol

from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from compress.histogram import Histogram
from compress.ranges import SensorRanges
from train.evaluation.inputs import Samples, Scored


class Compressor(Protocol):
    """A model that runs with any choice of INT8 parts and any ranges."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Its parts in the order in which images pass them; see :mod:`compress.parts`."""

    @property
    def measured_by(self) -> Literal["onnxruntime", "pytorch simulation"]:
        """What computes the accuracies."""

    def num_weights(self) -> Mapping[str, int]:
        """Number of weights of every part."""

    def observe(self, images: CalibrationSet, sensor: Sensor, through: Sensor | None = None) -> dict[str, Histogram]:
        """Histograms of every quantization point, of a sensor's images through its own or another's head."""

    def errors(self, int8_parts: Collection[str], ranges: SensorRanges) -> dict[Sensor, float]:
        """How far the outputs are from the float model's, by sensor; see :mod:`compress.output_error`."""

    def predict(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, samples: Samples) -> Scored:
        """Detections in labelled images; with no INT8 parts, of float16 where ``half`` is set, else of float32."""

    def write_graphs(self, int8_parts: Collection[str], ranges: SensorRanges, half: bool, folder: Path) -> None:
        """``model.<sensor>.onnx`` of every sensor and their one weight file."""
