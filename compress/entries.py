"""How a sensor's graph is fed and read: its entry in the manifest, from the checkpoint it was made of."""

from __future__ import annotations

from babelrs.manifest import SensorEntry
from babelrs.sensors import Sensor
from train.checkpoint import Checkpoint


def sensor_entry(checkpoint: Checkpoint, sensor: Sensor, precision: str, score_threshold: float) -> SensorEntry:
    """A sensor's entry in the manifest.

    Args:
        checkpoint: The model's record.
        sensor: The sensor.
        precision: Of its graph.
        score_threshold: Least score that is reported.
    """
    model = checkpoint.model
    height, width = model.input_px.of(sensor)
    return SensorEntry(
        classes=checkpoint.classes[sensor],
        profile=checkpoint.profiles[sensor],
        graph=f"model.{sensor}.onnx",
        selftest=f"selftest.{sensor}.npz",
        input_height=height,
        input_width=width,
        channels=sensor.num_channels,
        max_detections=model.max_detections,
        score_threshold=score_threshold,
        nms_iou=model.nms_iou,
        tile_overlap=model.tile_overlap,
        precision=precision,
    )
