"""Image to detections: tiles, radiometry, inference, merging; with the time each stage took.

Every step stands alone, so that :mod:`runtime.stages` can run them in different threads: opening the scene,
:meth:`Detector.batches` of its tiles, :meth:`Detector.infer`, and :meth:`Detector.merge`, which takes the batches of
one image in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.detections import Detections
from babelrs.images import Frame
from babelrs.manifest import SensorEntry
from babelrs.postprocess import detections_from_outputs
from babelrs.seams import SeamMerger
from babelrs.sensors import Sensor
from babelrs.tiling import Tile
from runtime.engines import Engine, Outputs
from runtime.geo import PixelMap, Places, locate
from runtime.raster import FrameRaster, Raster
from runtime.scene import Image, Scene, open_scene
from runtime.stopwatch import STAGES, Stopwatch

__all__ = ["STAGES", "Detector", "FrameResult", "SceneFindings", "Stopwatch"]

Batch = list[tuple[Tile, Image | None]]
"""Tiles with their pixels; ``None`` for a tile without a measurement, which the model need not see."""


@dataclass(frozen=True)
class FrameResult:
    """What was found in one frame.

    Attributes:
        source: The file the frame came from.
        name: A name unique in the run, for files about the frame.
        frame: Number of the frame in the run, from 0, skipped frames included.
        time: When it was processed, ISO 8601 in UTC.
        detections: In pixels of the frame.
        image: ``(H, W, C)`` uint8, what the model saw; thinned, or ``None``, for an image that is too large to be held.
        engine: What ran the model.
        precision: The graph's precision.
        latency_ms: Milliseconds by stage.
        size: ``(width, height)`` of the frame; ``None``: those of ``image``.
        places: Where the detections lie on Earth, where that is known.
        offset_s: Seconds from the start of its recording, where that is known, as in :class:`runtime.sources.Capture`.
        stream: Place of its source among those of its sensor, from 0.

    Raises:
        ValueError: Neither ``image`` nor ``size`` is given.
    """

    source: str
    name: str
    frame: int
    time: str
    detections: Detections
    image: Image | None
    engine: str
    precision: str
    latency_ms: dict[str, float]
    size: tuple[int, int] | None = None
    places: Places | None = None
    offset_s: float | None = None
    stream: int = 0

    def __post_init__(self) -> None:
        if self.image is None and self.size is None:
            raise ValueError(f"{self.source}: a result has no image and no size")

    @property
    def sensor(self) -> Sensor:
        """The sensor."""
        return self.detections.sensor

    @property
    def width(self) -> int:
        """Columns of the frame."""
        return self._shape()[1]

    @property
    def height(self) -> int:
        """Rows of the frame."""
        return self._shape()[0]

    def _shape(self) -> tuple[int, int]:
        if self.size is not None:
            return self.size[1], self.size[0]
        assert self.image is not None  # checked when it was made
        return int(self.image.shape[0]), int(self.image.shape[1])


@dataclass(frozen=True)
class SceneFindings:
    """What was found in one image.

    Attributes:
        scene: The image; its raster is still open.
        detections: In pixels of the image.
        places: Where they lie on Earth, where that is known.
        num_tiles: Tiles that cover the image.
        num_empty: Those of them without a single measurement, which the model did not see.
    """

    scene: Scene
    detections: Detections
    places: Places | None
    num_tiles: int
    num_empty: int


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

    def detect(self, frame: Frame, watch: Stopwatch) -> tuple[Detections, Image]:
        """Detect in one frame that is in memory.

        Args:
            frame: Raw counts.
            watch: Gets the time of the stages.

        Returns:
            Detections in pixels of the frame, and the ``(H, W, C)`` uint8 image the model saw, thinned where it has
            more than :data:`runtime.scene.EXACT_PX` pixels.

        Raises:
            ImageError: The frame does not fit the sensor.
            DeviceError: The engine failed.
        """
        findings = self.detect_raster(FrameRaster(frame), watch)
        return findings.detections, findings.scene.picture()

    def detect_raster(self, raster: Raster, watch: Stopwatch) -> SceneFindings:
        """Detect in one image of any size, of which little is held at a time.

        Args:
            raster: The image; left open.
            watch: Gets the time of the stages.

        Raises:
            ImageError: It cannot be read, or does not fit the sensor.
            DeviceError: The engine failed.
        """
        scene = open_scene(raster, self.entry, watch)
        merger, num_empty = self.merger(scene), 0
        for batch in self.batches(scene, watch):
            num_empty += sum(pixels is None for _, pixels in batch)
            self.merge(batch, self.infer(batch, watch), merger, watch)
        with watch.stage("postprocess"):
            detections = merger.finish()
            return SceneFindings(scene, detections, places_of(detections, raster.geo), scene.num_tiles, num_empty)

    def merger(self, scene: Scene) -> SeamMerger:
        """Takes the detections of a scene's tiles in their order; empty tiles have none."""
        return SeamMerger(scene.raster.width, scene.raster.height, self.entry.nms_iou)

    def detect_tiles(self, tiles: Sequence[Image]) -> list[Detections]:
        """The detections of prepared tiles ``(h, w, C)`` of the input's size, each in pixels of its tile.

        Raises:
            DeviceError: The engine failed.
        """
        return [self._read(*rows) for rows in zip(*self.engine.infer(np.stack(tiles)), strict=True)]

    def batches(self, scene: Scene, watch: Stopwatch) -> Iterator[Batch]:
        """A scene's tiles, in order, read and prepared ``batch`` at a time; empty tiles ride along.

        Raises:
            ImageError: The scene cannot be read, or does not fit the sensor.
        """
        return batched(self._prepared(scene, watch), self.batch)

    def infer(self, batch: Batch, watch: Stopwatch) -> Outputs | None:
        """The graph's outputs for those tiles of a batch that hold something; ``None`` where none does.

        Raises:
            DeviceError: The engine failed.
        """
        seen = [pixels for _, pixels in batch if pixels is not None]
        if not seen:
            return None
        with watch.stage("infer"):
            return self.engine.infer(np.stack(seen))

    def merge(self, batch: Batch, outputs: Outputs | None, merger: SeamMerger, watch: Stopwatch) -> None:
        """Hand the detections of a batch's tiles to the merger."""
        rows = iter(()) if outputs is None else zip(*outputs, strict=True)
        with watch.stage("postprocess"):
            for tile, pixels in batch:
                merger.add(tile, self._nothing() if pixels is None else self._read(*next(rows)))

    def _read(
        self, boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
    ) -> Detections:
        entry = self.entry
        return detections_from_outputs(
            boxes, scores, labels, entry.classes, self.sensor, self.score_threshold, entry.nms_iou
        )

    def _nothing(self) -> Detections:
        return Detections.empty(self.entry.classes, self.sensor)

    def _prepared(self, scene: Scene, watch: Stopwatch) -> Iterator[tuple[Tile, Image | None]]:
        for tile in scene.tiles():
            with watch.stage("read"):
                frame = scene.read(tile)
            with watch.stage("preprocess"):
                pixels = scene.prepare(tile, frame)
            yield tile, pixels


def places_of(detections: Detections, geo: PixelMap | None) -> Places | None:
    """Where detections lie, or ``None`` where the image does not say where it lies."""
    return None if geo is None else locate(detections.boxes, geo)


def batched(tiles: Iterable[tuple[Tile, Image | None]], size: int) -> Iterator[Batch]:
    """In order, each with ``size`` tiles that hold something, but for the last; empty tiles ride along."""
    batch: Batch = []
    full = 0
    for tile, pixels in tiles:
        batch.append((tile, pixels))
        full += pixels is not None
        if full == size:
            yield batch
            batch, full = [], 0
    if batch:
        yield batch
