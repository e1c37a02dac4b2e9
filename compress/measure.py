"""What graphs find in labelled images through the engine code that flies."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping
from functools import partial

from babelrs.detections import Detections
from babelrs.images import read_frame
from babelrs.manifest import SensorEntry
from babelrs.sensors import Sensor
from runtime.engines import Engine
from runtime.pipeline import Detector, Stopwatch
from train.data.read_ahead import ahead
from train.data.samples import Sample, check_classes
from train.evaluation.inputs import Samples, Scored
from train.predict import EVALUATION_SCORE

log = logging.getLogger("compress.measure")


def measure(
    engines: Callable[[Sensor], Engine], entries: Mapping[Sensor, SensorEntry], samples: Samples, threads: int = 1
) -> tuple[Scored, dict[Sensor, float]]:
    """Detect in every sample.

    Args:
        engines: Opens a sensor's graph; one is open at a time.
        entries: How the graphs are fed and read.
        samples: Labelled images by sensor.
        threads: Images at a time; times say little with more than one.

    Returns:
        Detections and truth, and the median engine time of an image in milliseconds by sensor.

    Raises:
        BabelRSError: A class of a sample is not the model's, or an image cannot be read.
    """
    scored, infer_ms = Scored(), {}
    for sensor, group in samples.items():
        entry = entries[sensor]
        check_classes(list(group), entry.classes, sensor)
        detector, times = Detector(engines(sensor), entry, sensor, EVALUATION_SCORE), []
        looked = ahead(partial(_look, detector), group, threads)
        for sample, (found, (height, width), infer) in zip(group, looked, strict=True):
            scored.add(sample, found, width, height)
            times.append(infer)
        infer_ms[sensor] = statistics.median(times)
        log.info("%s: %d images", sensor, len(group))
    return scored, infer_ms


def _look(detector: Detector, sample: Sample) -> tuple[Detections, tuple[int, int], float]:
    """Detections in one image, its height and width, and the milliseconds in the engine."""
    watch = Stopwatch()
    found, image = detector.detect(read_frame(sample.path), watch)
    return found, (image.shape[0], image.shape[1]), watch.elapsed_ms["infer"]
