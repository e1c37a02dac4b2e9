"""From a graph's raw outputs to detections; the same code in evaluation and on board."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_nms, to_le90
from babelrs.detections import Detections
from babelrs.sensors import Sensor


def detections_from_outputs(
    boxes: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    classes: Sequence[str],
    sensor: Sensor,
    score_threshold: float,
    nms_iou: float,
) -> Detections:
    """The detections of one image or tile, in descending score.

    Candidates below the threshold, with a non-finite number, without area, or of a label that is no class are
    dropped; the rest are put in ``le90`` and pass class-aware rotated non-maximum suppression.

    Args:
        boxes: ``(K, 5)`` ``cx, cy, w, h, theta`` in pixels and radians.
        scores: ``(K,)`` in ``[0, 1]``.
        labels: ``(K,)`` indices into ``classes``.
        classes: The sensor's class names.
        sensor: The sensor.
        score_threshold: Least score that is kept.
        nms_iou: Rotated IoU above which the lower-scored of two boxes of a class goes.

    Raises:
        ValueError: The shapes disagree.
    """
    boxes, scores, labels = np.asarray(boxes), np.asarray(scores), np.asarray(labels)
    if boxes.ndim != 2 or boxes.shape[1:] != (5,) or scores.shape != boxes.shape[:1] or labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape}: (K, 5), (K,), (K,) expected"
        )
    keep = _usable(boxes, scores, score_threshold) & (labels >= 0) & (labels < len(classes))
    if not keep.any():
        return Detections.empty(classes, sensor)
    found = Detections(
        to_le90(boxes[keep]), scores[keep].astype(np.float32), labels[keep].astype(np.int32), tuple(classes), sensor
    )
    return found.select(rotated_nms(found.boxes, found.scores, found.labels, nms_iou))


def _usable(
    boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], score_threshold: float
) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        keep: npt.NDArray[np.bool_] = finite & (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (scores >= score_threshold)
    return keep
