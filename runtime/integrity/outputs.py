"""What no sound graph gives: values that are not finite, out of range, of another shape, or always the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from babelrs.manifest import SensorEntry
from runtime.engines import Outputs

REACH = 4
"""Long sides of the input that a box's centre may lie outside it; a side may be twice as long. Boxes of objects that a
tile cuts do reach outside; a head's distances are bounded by its coarsest stride, far below this."""
SLACK = 1e-3
"""How much a score may be above the one before: logits are ordered, and an engine's sigmoid need not be monotonic to
the last bit, of float16 less so."""
MOST_ANGLE_RAD = 2 * np.pi
FEWEST_ALIKE = 3
"""Outputs in a row, of different inputs, that are bit for bit the same before the engine is suspected."""
_DTYPES = {"boxes": np.float32, "scores": np.float32, "labels": np.int32}


def output_fault(outputs: Outputs, entry: SensorEntry, num_images: int) -> str:
    """What is wrong with the outputs of a batch, in words; empty where nothing is.

    Args:
        outputs: Boxes ``(N, K, 5)`` in pixels of the input and radians, scores ``(N, K)``, labels ``(N, K)``.
        entry: Of the sensor: K, input size, classes.
        num_images: N.
    """
    rows = (num_images, entry.max_detections)
    for (name, dtype), shape, found in zip(_DTYPES.items(), ((*rows, 5), rows, rows), outputs, strict=True):
        if found.shape != shape or found.dtype != dtype:
            return f"{name} are {found.dtype} {found.shape}, where {np.dtype(dtype)} {shape} belong"
    boxes, scores, labels = outputs
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "boxes or scores are not finite"
    return _score_fault(scores) or _label_fault(labels, len(entry.classes)) or _box_fault(boxes, entry)


def _score_fault(scores: npt.NDArray[np.float32]) -> str:
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        return f"scores span {scores.min():.3g} to {scores.max():.3g}, where 0 to 1 belong"
    return "scores do not descend" if (scores[:, 1:] > scores[:, :-1] + SLACK).any() else ""


def _label_fault(labels: npt.NDArray[np.int32], num_classes: int) -> str:
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        return f"labels span {labels.min()} to {labels.max()}, but there are {num_classes} classes"
    return ""


def _box_fault(boxes: npt.NDArray[np.float32], entry: SensorEntry) -> str:
    reach = REACH * max(entry.input_height, entry.input_width)
    size = np.array([entry.input_width, entry.input_height], np.float32)
    centres, sides, angles = boxes[..., :2], boxes[..., 2:4], boxes[..., 4]
    if (centres < -reach).any() or (centres > size + reach).any():
        return f"a box lies more than {reach} px outside the input"
    if (sides < 0).any() or (sides > 2 * reach).any():
        return f"a box has a side of less than 0 or more than {2 * reach} px"
    return "an angle is more than a full turn" if (np.abs(angles) > MOST_ANGLE_RAD).any() else ""


class Sameness:
    """Notices an engine that gives the same whatever it sees, by the first image of every batch.

    A sound engine may do so too in some scene, so each suspicion that proves wrong doubles what the next one takes.
    """

    def __init__(self) -> None:
        self._allowed = FEWEST_ALIKE
        self._alike = 0
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._rows: tuple[npt.NDArray[np.generic], ...] = ()

    def suspect(self, pixels: npt.NDArray[np.uint8], outputs: Outputs) -> bool:
        """Take a batch ``(N, H, W, C)`` and its outputs; whether it is one too many of the same outputs."""
        rows = tuple(output[:1].copy() for output in outputs)
        same = bool(self._rows) and all(
            now.tobytes() == before.tobytes() for now, before in zip(rows, self._rows, strict=True)
        )
        if not same:
            self._alike = 1
        elif self._pixels is not None and not np.array_equal(pixels[:1], self._pixels):
            self._alike += 1
        self._rows, self._pixels = rows, pixels[:1].copy()
        return self._alike > 1 and self._alike >= self._allowed

    def acquit(self) -> None:
        """The engine was found sound: begin anew, slower to suspect."""
        self._alike, self._allowed = 1, 2 * self._allowed
