"""The one value type that flows from a detection head to a file or link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from babelrs.sensors import Sensor


@dataclass(frozen=True)
class Detections:
    """Oriented detections of one image of one sensor.

    Attributes:
        boxes: ``(N, 5)`` float32 ``cx, cy, w, h, theta`` in pixels of the full image and radians, ``le90``.
        scores: ``(N,)`` float32 in ``[0, 1]``.
        labels: ``(N,)`` int32 indices into ``classes``.
        classes: The sensor's class names.
        sensor: The sensor that took the image.

    Raises:
        ValueError: Shapes disagree, or a label lies outside ``classes``.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    sensor: Sensor

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32)
        boxes = boxes.reshape(0, 5) if boxes.size == 0 else boxes
        scores, labels = np.asarray(self.scores, np.float32), np.asarray(self.labels, np.int32)
        if boxes.ndim != 2 or boxes.shape[1] != 5 or scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
            raise ValueError(
                f"boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape}: (N, 5), (N,), (N,) expected"
            )
        if labels.size and not (0 <= labels.min() and labels.max() < len(self.classes)):
            raise ValueError(f"labels span {labels.min()}..{labels.max()}, but there are {len(self.classes)} classes")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, classes: Sequence[str], sensor: Sensor) -> Detections:
        """No detections, of the given class list and sensor."""
        return cls(np.zeros((0, 5), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), tuple(classes), sensor)

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """All detections of ``parts``, in order.

        Raises:
            ValueError: ``parts`` is empty or mixes class lists or sensors.
        """
        if not parts:
            raise ValueError("nothing to concatenate")
        if any(part.classes != parts[0].classes or part.sensor != parts[0].sensor for part in parts):
            raise ValueError("detections of different class lists or sensors cannot be concatenated")
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            parts[0].classes,
            parts[0].sensor,
        )

    def select(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detections:
        """The detections that a boolean mask or integer ``index`` picks, in its order."""
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def shifted(self, dx: float, dy: float) -> Detections:
        """The same detections, moved by ``(dx, dy)`` pixels."""
        return replace(self, boxes=self.boxes + np.array([dx, dy, 0, 0, 0], np.float32))
