"""Frame to detections: radiometry, tiles, inference, merging; with the time each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from babelrs.detections import Detections
from babelrs.images import Frame
from babelrs.manifest import SensorEntry
from babelrs.postprocess import detections_from_outputs
from babelrs.radiometry import to_uint8
from babelrs.seams import merge_tiles
from babelrs.sensors import Sensor
from babelrs.tiling import Tile, cut_tile, plan_tiles
from runtime.engines import Engine

STAGES = ("read", "preprocess", "infer", "postprocess")


@dataclass
class Stopwatch:
    """Adds up the milliseconds of named stages."""

    elapsed_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside as ``name``, also when it ends in an error."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_ms[name] += (time.perf_counter() - start) * 1e3


@dataclass(frozen=True)
class FrameResult:
    """What was found in one frame.

    Attributes:
        source: The file the frame came from.
        name: A name unique in the run, for files about the frame.
        frame: Number of the frame in the run, from 0, skipped frames included.
        time: When it was processed, ISO 8601 in UTC.
        detections: In pixels of the frame.
        image: ``(H, W, C)`` uint8, what the model saw.
        engine: What ran the model.
        precision: The graph's precision.
        latency_ms: Milliseconds by stage.
    """

    source: str
    name: str
    frame: int
    time: str
    detections: Detections
    image: npt.NDArray[np.uint8]
    engine: str
    precision: str
    latency_ms: dict[str, float]

    @property
    def sensor(self) -> Sensor:
        """The sensor."""
        return self.detections.sensor

    @property
    def width(self) -> int:
        """Columns of the frame."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Rows of the frame."""
        return int(self.image.shape[0])


@dataclass(frozen=True)
class Detector:
    """A sensor's model with all it takes to go from raw counts to detections.

    Attributes:
        engine: Runs the graph.
        entry: The sensor's entry in the manifest.
        sensor: The sensor.
        score_threshold: Least score that is reported.
        batch: Tiles a run of the graph.
    """

    engine: Engine
    entry: SensorEntry
    sensor: Sensor
    score_threshold: float
    batch: int = 4

    def detect(self, frame: Frame, watch: Stopwatch) -> tuple[Detections, npt.NDArray[np.uint8]]:
        """Detect in one frame of any size.

        Args:
            frame: Raw counts.
            watch: Gets the time of the stages.

        Returns:
            Detections in pixels of the frame, and the ``(H, W, C)`` uint8 image the model saw.

        Raises:
            ImageError: The frame does not fit the sensor.
            DeviceError: The engine failed.
        """
        entry = self.entry
        with watch.stage("preprocess"):
            image = to_uint8(frame, entry.profile)
            height, width = image.shape[:2]
            tiles = plan_tiles(width, height, entry.input_width, entry.input_height, entry.tile_overlap)
        parts: list[tuple[Tile, Detections]] = []
        for start in range(0, len(tiles), self.batch):
            parts += self._detect_batch(image, tiles[start : start + self.batch], watch)
        with watch.stage("postprocess"):
            return merge_tiles(parts, entry.nms_iou), image

    def _detect_batch(
        self, image: npt.NDArray[np.uint8], tiles: list[Tile], watch: Stopwatch
    ) -> list[tuple[Tile, Detections]]:
        entry = self.entry
        with watch.stage("preprocess"):
            pixels = np.stack([cut_tile(image, tile, entry.input_width, entry.input_height) for tile in tiles])
        with watch.stage("infer"):
            boxes, scores, labels = self.engine.infer(pixels)  # (N, K, 5), (N, K), (N, K)
        with watch.stage("postprocess"):
            return [(tile, self._read(*outputs)) for tile, *outputs in zip(tiles, boxes, scores, labels, strict=True)]

    def _read(
        self, boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
    ) -> Detections:
        entry = self.entry
        return detections_from_outputs(
            boxes, scores, labels, entry.classes, self.sensor, self.score_threshold, entry.nms_iou
        )
