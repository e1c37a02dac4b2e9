"""All images of a sensor as flat arrays: what accuracy is computed on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from babelrs.boxes import Boxes
from babelrs.detections import Detections
from babelrs.matching import Candidates, find_candidates
from babelrs.sensors import Sensor

ImageId = TypeVar("ImageId", int, str)


@dataclass(frozen=True)
class GroundTruth:
    """The objects of one image of one sensor.

    Attributes:
        boxes: ``(N, 5)`` float32 ``cx, cy, w, h, theta`` in pixels of the full image and radians, ``le90``.
        labels: ``(N,)`` int32 indices into ``classes``.
        ignore: ``(N,)`` bool; ``True`` for objects that count neither when found nor when missed (DOTA "difficult").
        classes: The sensor's class names.
        sensor: The sensor that took the image.

    Raises:
        ValueError: Shapes disagree, or a label lies outside ``classes``.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]
    classes: tuple[str, ...]
    sensor: Sensor

    def __post_init__(self) -> None:
        ignore = np.asarray(self.ignore, bool)
        checked = Detections(self.boxes, np.zeros(len(self.labels), np.float32), self.labels, self.classes, self.sensor)
        if ignore.shape != (len(checked),):
            raise ValueError(f"ignore {ignore.shape}: ({len(checked)},) expected, one per box")
        for name, value in (("boxes", checked.boxes), ("labels", checked.labels), ("ignore", ignore)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "classes", checked.classes)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Found:
    """The detections of a pool, by image, class and falling score: the order in which they are matched.

    Attributes:
        boxes: ``(D, 5)`` float32.
        scores: ``(D,)`` float32.
        labels: ``(D,)`` int32 indices into the pool's classes.
        images: ``(D,)`` int32 indices into the pool's images.
    """

    boxes: Boxes
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, index: npt.NDArray[Any]) -> Found:
        """The rows that a mask or integer ``index`` picks, in its order."""
        return Found(self.boxes[index], self.scores[index], self.labels[index], self.images[index])


@dataclass(frozen=True)
class Objects:
    """The objects of a pool, by image.

    Attributes:
        boxes: ``(G, 5)`` float32.
        labels: ``(G,)`` int32 indices into the pool's classes.
        images: ``(G,)`` int32 indices into the pool's images.
        ignore: ``(G,)`` bool; ``True`` for objects that do not count.
    """

    boxes: Boxes
    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.int32]
    ignore: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Pool:
    """Every image of one sensor.

    Attributes:
        sensor: The sensor.
        classes: The class names of both sides, in order of appearance.
        images: The images, sorted.
        found: The detections.
        objects: The ground truth.
    """

    sensor: Sensor
    classes: tuple[str, ...]
    images: tuple[Any, ...]
    found: Found
    objects: Objects

    def candidates(self, lowest_iou: float, across_classes: bool = False) -> Candidates:
        """Detections and objects of an image (and of a class) that overlap by ``lowest_iou`` or more."""
        count = 0 if across_classes else len(self.classes)
        mine, true = (
            side.images.astype(np.int64) * max(count, 1) + (side.labels if count else 0)
            for side in (self.found, self.objects)
        )
        return find_candidates(self.found.boxes, mine, self.objects.boxes, true, lowest_iou)


def pool_images(
    detections: Mapping[ImageId, Detections],
    ground_truth: Mapping[ImageId, GroundTruth],
    max_detections: int | None = None,
) -> dict[Sensor, Pool]:
    """Flat arrays of all images, by sensor in the order of :class:`Sensor`; arguments as :func:`metrics.evaluate`.

    Raises:
        ValueError: Detections for an image that ``ground_truth`` lacks or of another sensor than it says, or a box or
            score that is not finite, or a negative side; the image is named.
    """
    unknown = [image for image in detections if image not in ground_truth]
    if unknown:
        raise ValueError(f"detections for {len(unknown)} images without ground truth, such as {unknown[0]!r}")
    by_sensor: dict[Sensor, list[ImageId]] = {}
    for image in sorted(ground_truth):  # equal scores fall in this order
        truth: GroundTruth = ground_truth[image]
        if image in detections and detections[image].sensor is not truth.sensor:
            found = detections[image].sensor
            raise ValueError(f"image {image!r}: detections are {found}, the ground truth is {truth.sensor}")
        by_sensor.setdefault(truth.sensor, []).append(image)
    return {
        sensor: _pool(sensor, by_sensor[sensor], detections, ground_truth, max_detections)
        for sensor in Sensor
        if sensor in by_sensor
    }


def _pool(
    sensor: Sensor,
    images: Sequence[Any],
    detections: Mapping[Any, Detections],
    ground_truth: Mapping[Any, GroundTruth],
    max_detections: int | None,
) -> Pool:
    truths = [ground_truth[image] for image in images]
    found = [
        detections[image] if image in detections else Detections.empty(truth.classes, sensor)
        for image, truth in zip(images, truths, strict=True)
    ]
    lists = dict.fromkeys(one.classes for pair in zip(truths, found, strict=True) for one in pair)
    classes = tuple(dict.fromkeys(name for names in lists for name in names))
    to_pool = {names: np.array([classes.index(name) for name in names], np.int32) for names in lists}
    true = Objects(
        np.concatenate([one.boxes for one in truths]),
        np.concatenate([to_pool[one.classes][one.labels] for one in truths]),
        _numbers(truths),
        np.concatenate([one.ignore for one in truths]),
    )
    mine = Found(
        np.concatenate([one.boxes for one in found]),
        np.concatenate([one.scores for one in found]),
        np.concatenate([to_pool[one.classes][one.labels] for one in found]),
        _numbers(found),
    )
    _refuse("detections", images, mine.images, mine.boxes, mine.scores)
    _refuse("ground truth", images, true.images, true.boxes, np.zeros(len(true)))
    return Pool(sensor, classes, tuple(images), _in_order(mine, len(classes), max_detections), true)


def _numbers(sides: Sequence[Detections] | Sequence[GroundTruth]) -> npt.NDArray[np.int32]:
    """The number of the image that each row of the joined arrays is from."""
    return np.repeat(np.arange(len(sides), dtype=np.int32), [len(one) for one in sides])


def _refuse(
    what: str, names: Sequence[Hashable], images: npt.NDArray[np.int32], boxes: Boxes, scores: npt.NDArray[Any]
) -> None:
    wrong = ~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores)) | (boxes[:, 2:4] < 0).any(axis=1)
    rows = np.flatnonzero(wrong)
    if rows.size:
        shown = [*boxes[rows[0]].tolist(), float(scores[rows[0]])]
        raise ValueError(
            f"image {names[images[rows[0]]]!r}: {what} with a number that is not finite or a negative side: "
            f"{shown} ({rows.size} such rows)"
        )


def _in_order(found: Found, num_classes: int, max_detections: int | None) -> Found:
    """Sorted by image, class and falling score (equal scores as they came), at most so many of each class and image."""
    groups = found.images.astype(np.int64) * num_classes + found.labels
    order = np.lexsort((-found.scores, groups))
    if max_detections is not None:
        groups = groups[order]
        order = order[np.arange(len(groups)) - np.searchsorted(groups, groups) < max_detections]
    return found.select(order)
