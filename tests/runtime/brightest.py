"""An engine for tests that needs no graph: it boxes the brightest pixel of every tile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from babelrs.errors import DeviceError
from babelrs.manifest import SensorEntry
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from runtime.engines import Outputs


@dataclass
class BrightestPixel:
    """Finds one box a tile, 6 by 4 pixels, with the brightness as score.

    Attributes:
        breaks_at: The batch that fails.
        pause_s: How long a batch takes.
        batches: Tiles of every batch.
        tiles: Every tile that was looked at.
    """

    breaks_at: int = -1
    pause_s: float = 0.0
    name: str = "fake"
    precision: str = "fp32"
    reason: str = "a test"
    is_on_cpu: bool = True
    batches: list[int] = field(default_factory=list)
    tiles: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        if len(self.batches) == self.breaks_at:
            raise DeviceError("The engine failed.", "Try another.")
        time.sleep(self.pause_s)
        self.batches.append(len(pixels))
        self.tiles += list(pixels)
        flat = pixels.max(axis=3).reshape(len(pixels), -1)
        best = flat.argmax(axis=1)
        boxes = np.zeros((len(pixels), 1, 5), np.float32)
        boxes[:, 0, 0], boxes[:, 0, 1] = best % pixels.shape[2] + 0.5, best // pixels.shape[2] + 0.5
        boxes[:, 0, 2:4] = 6, 4
        scores = np.take_along_axis(flat, best[:, None], 1).astype(np.float32) / 255
        return boxes, scores, np.zeros((len(pixels), 1), np.int32)


def dot_entry(sensor: Sensor) -> SensorEntry:
    """What a manifest would say of it: tiles of 64 by 64 pixels."""
    return SensorEntry(
        classes=("dot",),
        profile=DEFAULT_PROFILES[sensor],
        graph="g.onnx",
        selftest="s.npz",
        input_height=64,
        input_width=64,
        channels=sensor.num_channels,
        max_detections=8,
        score_threshold=0.3,
        nms_iou=0.3,
        tile_overlap=0.2,
        precision="fp32",
    )
