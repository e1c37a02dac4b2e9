"""A sensor's images through the whole pipeline, as ``babelrs-run`` takes them, and through its engine alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.engines import Engine
from runtime.engines.onnxruntime import SETTINGS, OnnxRuntimeEngine
from runtime.pipeline import Detector, Stopwatch
from runtime.rasters import open_raster
from runtime.run import run_sources
from runtime.scene import open_scene
from runtime.sinks.jsonl import JsonLinesSink
from runtime.sources.files import FileSource, ImageFile, find_images
from runtime.summary import Summary

FOLDERS: Mapping[Sensor, str] = {
    Sensor.RGB: "DOTA_800pix/val/images",
    Sensor.SAR: "SARDet_50K/JPEGImages",
    Sensor.IR: "DroneVehicle/dota_test/png_images",
}
"""Where a SOI-Det folder has the images that a sensor's results are shown on."""
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def chosen_images(data: Path, sensor: Sensor, count: int) -> list[ImageFile]:
    """``count`` images of a sensor, spread over all of it; all where it has no more.

    Raises:
        BabelRSError: There is none.
    """
    found = find_images([str(data / FOLDERS[sensor])])
    return [found[place] for place in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]


def open_detector(
    bundle: Bundle, sensor: Sensor, threads: int, batch: int, settings: Mapping[str, str] = SETTINGS
) -> Detector:
    """A sensor's model on ONNX Runtime."""
    entry = bundle.manifest.entry(sensor)
    engine = OnnxRuntimeEngine(bundle.folder, entry, threads, settings)
    return Detector(engine, entry, sensor, entry.score_threshold, batch)


def prepared_batches(detector: Detector, images: Sequence[ImageFile]) -> Iterator[Pixels]:
    """What the engine gets of images, ``(N, H, W, C)``, one run's after the other."""
    for image in images:
        raster = open_raster(image.path)
        scene = open_scene(raster, detector.entry, watch := Stopwatch())
        for batch in detector.batches(scene, watch):
            seen = [pixels for _, pixels in batch if pixels is not None]
            if seen:
                yield np.stack(seen)
        raster.close()


def engine_s(engine: Engine, batches: Sequence[Pixels]) -> float:
    """Seconds that an engine takes for batches with nothing else going on."""
    begin = time.perf_counter()
    for pixels in batches:
        engine.infer(pixels)
    return time.perf_counter() - begin


def pipeline_s(detector: Detector, images: Sequence[ImageFile]) -> tuple[float, Summary]:
    """Seconds from images in files to JSON Lines, through the runtime's threads, and what the run says of itself.

    Raises:
        BabelRSError: An image could not be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = FileSource("images", detector.sensor, images, open_raster)
        sink = JsonLinesSink(Path(folder) / "detections.jsonl")
        begin = time.perf_counter()
        (summary,) = run_sources([source], {detector.sensor: detector}, {detector.sensor: [sink]})
        seconds = time.perf_counter() - begin
    require_all_used(summary)
    return seconds, summary


def require_all_used(summary: Summary) -> None:
    """Let nobody measure a run that skipped images.

    Raises:
        BabelRSError: It did.
    """
    if summary.skipped:
        raise BabelRSError(f"Images were skipped: {dict(summary.skipped)}.", "Leave them out.")


def stage_percentiles(summaries: Sequence[Summary]) -> dict[str, dict[str, float]]:
    """Milliseconds an image takes in each stage, and in all from its reading to its result: p50, p95, p99 and most."""
    found = {}
    for stage in summaries[0].latencies_ms:
        values = np.concatenate([list(summary.latencies_ms[stage]) for summary in summaries])
        found[stage] = {name: float(np.percentile(values, at)) for name, at in PERCENTILES.items()}
    return found


def format_stages(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A line for every stage of every sensor, milliseconds."""
    lines = [f"{'':<6}{'stage':<12}" + "".join(f"{name + ' ms':>10}" for name in PERCENTILES)]
    lines += [
        f"{sensor:<6}{stage:<12}" + "".join(f"{values[name]:>10.1f}" for name in PERCENTILES)
        for sensor, stages in found.items()
        for stage, values in stages.items()
    ]
    return "\n".join(lines) + "\n"
