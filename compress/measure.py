"""What graphs find in labelled images through the engine code that flies."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping

from babelrs.images import read_frame
from babelrs.manifest import SensorEntry
from babelrs.sensors import Sensor
from runtime.engines import Engine
from runtime.pipeline import Detector, Stopwatch
from train.data.samples import check_classes
from train.evaluation.inputs import Samples, Scored
from train.predict import EVALUATION_SCORE

log = logging.getLogger("compress.measure")


def measure(
    engines: Callable[[Sensor], Engine], entries: Mapping[Sensor, SensorEntry], samples: Samples
) -> tuple[Scored, dict[Sensor, float]]:
    """Detect in every sample.

    Args:
        engines: Opens a sensor's graph; one is open at a time.
        entries: How the graphs are fed and read.
        samples: Labelled images by sensor.

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
        for sample in group:
            watch = Stopwatch()
            found, image = detector.detect(read_frame(sample.path), watch)
            scored.add(sample, found, image.shape[1], image.shape[0])
            times.append(watch.elapsed_ms["infer"])
        infer_ms[sensor] = statistics.median(times)
        log.info("%s: %d images", sensor, len(group))
    return scored, infer_ms
