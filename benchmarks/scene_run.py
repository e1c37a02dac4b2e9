"""One run over one scene, in a process of its own, so that its peak memory is that of the run; prints a JSON object.

``python -m benchmarks.scene_run ours|sahi SCENE --bundle B ...``; :mod:`benchmarks.scene` starts it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from babelrs.bundle import open_bundle
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from runtime.engines import Engine, Outputs, open_engine
from runtime.gdal import load_rasterio
from runtime.pipeline import Detector
from runtime.rasters import open_raster
from runtime.run import run_sources
from runtime.sinks import Sink
from runtime.sinks.geojson import GeoJsonSink
from runtime.sinks.jsonl import JsonLinesSink
from runtime.sources.files import FileSource, find_images


class TimedEngine:
    """An engine that keeps the time and the size of every batch.

    Args:
        engine: What does the work.
    """

    def __init__(self, engine: Engine) -> None:
        self.name, self.precision, self.reason, self._engine = engine.name, engine.precision, engine.reason, engine
        self.is_on_cpu = engine.is_on_cpu
        self.seconds, self.tiles = 0.0, 0

    def infer(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Outputs:
        """See :class:`runtime.engines.Engine`."""
        begin = time.perf_counter()
        outputs = self._engine.infer(pixels)
        self.seconds += time.perf_counter() - begin
        self.tiles += len(pixels)
        return outputs


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def ours(scene: Path, detector: Detector) -> int:
    """Detect and write JSON Lines and GeoJSON through the runtime's threads; returns the number of detections.

    Raises:
        BabelRSError: The scene cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        sinks: list[Sink] = [JsonLinesSink(Path(folder) / "d.jsonl"), GeoJsonSink(Path(folder) / "d.geojson")]
        source = FileSource("scene", detector.sensor, find_images([str(scene)]), open_raster)
        (summary,) = run_sources([source], {detector.sensor: detector}, {detector.sensor: sinks})
    if summary.skipped:
        raise BabelRSError(f"The scene was skipped: {dict(summary.skipped)}.", "See the message above.")
    return sum(summary.detections.values())


def engine_alone_s(engine: Engine, batch: int, size: tuple[int, int, int], repeats: int) -> float:
    """Median seconds of a tile in full batches of random pixels, with nothing else going on."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *size), np.uint8)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        engine.infer(pixels)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / batch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scene_run", description=__doc__)
    parser.add_argument("method", choices=("ours", "sahi"))
    parser.add_argument("scene", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--sensor", type=Sensor.parse, default=Sensor.RGB)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--alone", type=int, default=10, help="batches that the engine is timed with alone")
    return parser


def main(argv: list[str]) -> int:
    """Run once and print what it took."""
    given = _parser().parse_args(argv)
    bundle = open_bundle(given.bundle)
    entry = replace(bundle.manifest.entry(given.sensor), tile_overlap=given.overlap)
    plain = open_engine(bundle, given.sensor, threads=given.threads)
    size = (entry.input_height, entry.input_width, entry.channels)
    alone_s = engine_alone_s(plain, given.batch, size, given.alone)
    engine = TimedEngine(plain)
    detector = Detector(engine, entry, given.sensor, entry.score_threshold, given.batch)
    load_rasterio()  # that is no part of a scene's time
    before = peak_bytes()
    begin = time.perf_counter()
    if given.method == "ours":
        detections = ours(given.scene, detector)
    else:
        from benchmarks.scene_sahi import sliced

        detections = sliced(given.scene, detector)
    record = {
        "wall_s": time.perf_counter() - begin,
        "engine_s": engine.seconds,
        "engine_alone_s": alone_s * engine.tiles,
        "tiles": engine.tiles,
        "detections": detections,
        "peak_bytes": peak_bytes(),
        "peak_before_bytes": before,
    }
    sys.stdout.write(json.dumps(record) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
