"""The YOLO-OBB exchange formats: a data set's folders and labels, and the raw output of a YOLO-OBB graph.

Nothing here needs a YOLO package: the layout is that of Ultralytics' documentation ("Oriented Bounding Boxes", dataset
format), the output that of its ONNX export.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_yolo_obb
from babelrs.detections import Detections
from babelrs.images import read_frame
from babelrs.postprocess import detections_from_outputs
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor
from train.data.samples import Sample, class_list

Image = npt.NDArray[np.uint8]
FOLDERS = {"train": "train", "eval": "val"}
"""Our splits and the folders YOLO keeps them in."""
PADDING = 114
"""Gray level that YOLO models know as the border of a letterbox."""


def read_image(sample: Sample) -> Image:
    """The image as our training sees it, ``(H, W, C)`` uint8.

    Raises:
        BabelRSError: It cannot be read.
    """
    return to_uint8(read_frame(sample.path), DEFAULT_PROFILES[sample.sensor])


def joint_classes(samples: Mapping[Sensor, Sequence[Sample]]) -> tuple[str, ...]:
    """The classes of all sensors in one list, ``sensor:name``: each sensor is scored on its own classes."""
    return tuple(f"{sensor}:{name}" for sensor, group in samples.items() for name in class_list(list(group)))


def sensor_classes(classes: Sequence[str], sensor: Sensor) -> tuple[list[int], tuple[str, ...]]:
    """Where one sensor's classes stand in the joint list, and their own names."""
    places = [index for index, name in enumerate(classes) if name.startswith(f"{sensor}:")]
    return places, tuple(classes[index].partition(":")[2] for index in places)


def exported_stem(sample: Sample) -> str:
    """File name without ending of a sample in the data set: unique among sensors, and original names keep theirs."""
    return f"{sample.sensor}_{sample.path.name}"


def sample_name(stem: str) -> str:
    """:attr:`Sample.name` of the image that :func:`exported_stem` named."""
    sensor, _, file_name = stem.partition("_")
    return f"{Sensor.parse(sensor)}/{file_name}"


def label_lines(sample: Sample, classes: Sequence[str], width: int, height: int) -> list[str]:
    """A sample's objects, one ``class x1 y1 x2 y2 x3 y3 x4 y4`` each, corners as fractions of the image's sides.

    The format has no mark for difficult objects: they are objects like the others. Objects whose centre lies outside
    the image are left out, because YOLO training refuses an image that has one.
    """
    centres = sample.boxes[:, :2]
    inside = np.all((centres >= 0) & (centres <= (width, height)), axis=1).tolist()
    corners = to_yolo_obb(sample.boxes, width, height)
    return [
        " ".join([str(classes.index(f"{sample.sensor}:{name}")), *(f"{value:.8f}" for value in row)])
        for name, row, kept in zip(sample.names, corners, inside, strict=True)
        if kept
    ]


def write_split(samples: Mapping[Sensor, Sequence[Sample]], classes: Sequence[str], out: Path, folder: str) -> int:
    """Write ``images/FOLDER/*.png`` and ``labels/FOLDER/*.txt`` under ``out``; returns the number of objects written.

    Raises:
        BabelRSError: An image cannot be read.
    """
    images, labels = out / "images" / folder, out / "labels" / folder
    for path in (images, labels):
        path.mkdir(parents=True, exist_ok=True)
    written = 0
    for sample in (sample for group in samples.values() for sample in group):
        image, stem = read_image(sample), exported_stem(sample)
        lines = label_lines(sample, classes, image.shape[1], image.shape[0])
        cv2.imwrite(str(images / f"{stem}.png"), image[..., ::-1])  # OpenCV takes B, G, R; one band stays one
        (labels / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines))
        written += len(lines)
    return written


def write_description(classes: Sequence[str], out: Path) -> None:
    """Write ``data.yaml``: paths relative to its own folder, and the class names."""
    names = "".join(f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(classes))
    splits = "".join(f"{folder}: images/{folder}\n" for folder in FOLDERS.values())
    (out / "data.yaml").write_text(f"{splits}names:\n{names}")


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the square a graph takes.

    Attributes:
        scale_x: Columns of the square for one of the image.
        scale_y: Rows alike; the two differ by the rounding to whole pixels.
        left: Width of the border left of the image, pixels of the square.
        top: Height of the border above it.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_image(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Boxes ``(N, 5)`` of the square in pixels of the image; each side and the direction of ``w`` as they fall."""
        cx, cy, width, height, theta = np.asarray(boxes, np.float64).T
        along_x, along_y = np.cos(theta) / self.scale_x, np.sin(theta) / self.scale_y
        across_x, across_y = np.sin(theta) / self.scale_x, np.cos(theta) / self.scale_y
        sides = [width * np.hypot(along_x, along_y), height * np.hypot(across_x, across_y)]
        centres = [(cx - self.left) / self.scale_x, (cy - self.top) / self.scale_y]
        return np.column_stack([*centres, *sides, np.arctan2(along_y, along_x)])


def letterbox(image: Image, side: int) -> tuple[npt.NDArray[np.float32], Letterbox]:
    """An image scaled to fit a square, in its middle, as a YOLO graph takes it.

    Args:
        image: ``(H, W, C)`` uint8 of one band or R, G, B.
        side: Side of the square, pixels.

    Returns:
        ``(1, 3, side, side)`` float32 in ``[0, 1]``, and where the image lies.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(np.repeat(image, 3 // image.shape[2], axis=2), fitted, interpolation=cv2.INTER_LINEAR)
    left, top = (side - fitted[0]) // 2, (side - fitted[1]) // 2
    square = np.full((side, side, 3), PADDING, np.uint8)
    square[top : top + fitted[1], left : left + fitted[0]] = resized
    pixels = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / np.float32(255)  # (1, 3, side, side)
    return pixels, Letterbox(fitted[0] / width, fitted[1] / height, left, top)


@dataclass(frozen=True)
class Candidates:
    """What a graph says of one image before suppression: boxes ``(K, 5)`` in pixels of the image, scores, labels."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    sensor: Sensor

    def detections(self, score_floor: float, nms_iou: float, max_detections: int) -> Detections:
        """The best ``max_detections`` that class-aware rotated suppression leaves, in descending score."""
        found = detections_from_outputs(
            self.boxes, self.scores, self.labels, self.classes, self.sensor, score_floor, nms_iou
        )
        return found.select(np.arange(min(len(found), max_detections)))


def decode(
    output: npt.NDArray[np.float32], classes: Sequence[str], sensor: Sensor, placed: Letterbox, score_floor: float
) -> Candidates:
    """Candidates of one sensor from a YOLO-OBB graph's output; a box may count for several classes.

    Args:
        output: ``(1, 4 + C + 1, N)``: ``cx, cy, w, h`` in pixels of the square, C class scores, the angle in radians.
        classes: The C names ``sensor:name``.
        sensor: The image's sensor; only its classes count.
        placed: Where the image lies in the square.
        score_floor: Least score of a candidate.

    Raises:
        ValueError: The output has another shape.
    """
    if output.ndim != 3 or output.shape[:2] != (1, len(classes) + 5):
        raise ValueError(f"output {output.shape}: (1, {len(classes) + 5}, N) expected for {len(classes)} classes")
    places, names = sensor_classes(classes, sensor)
    rows = output[0].T  # (N, 4 + C + 1)
    scores = rows[:, 4:-1][:, places]
    points, labels = np.nonzero(scores >= score_floor)
    boxes = placed.to_image(np.column_stack([rows[:, :4], rows[:, -1]])[points])
    return Candidates(boxes, scores[points, labels], labels.astype(np.int64), names, sensor)
