"""What was found, for tests of the sinks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from babelrs.detections import Detections
from babelrs.sensors import Sensor
from runtime.stopwatch import STAGES

BOXES = [[60.0, 50.0, 40.0, 12.0, 0.5], [110.0, 90.0, 20.0, 10.0, -1.2]]
TIME = "2026-01-01T00:00:00.000+00:00"
TIMES_MS = dict.fromkeys(STAGES, 1.0)


def detections_of(boxes: Sequence[Sequence[float]], classes: tuple[str, str], sensor: Sensor) -> Detections:
    """Boxes of both classes in turn, with scores from 0.9 down to 0.5."""
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 5),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(count, dtype=np.int32) % 2,
        classes,
        sensor,
    )
