"""Pictures of what went wrong: the surest false alarms and the largest missed objects, cut out of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners
from babelrs.images import quiet_opencv, read_frame
from babelrs.pool import Pool
from babelrs.radiometry import RadiometryProfile, to_uint8
from train.drawing import outline
from train.evaluation.confusion import Confusion
from train.evaluation.sizes import sizes_px

LEAST_CROP_PX, CROP_PER_SIDE = 96, 4.0
"""A crop is at least this wide, and this many times the longer side of its box: the surroundings explain the error."""
SHOWN_PX = 320
MOST_PER_IMAGE = 1

TRUE_COLOUR, FOUND_COLOUR, SUBJECT_COLOUR = (80, 255, 80), (255, 176, 0), (255, 70, 70)  # R, G, B
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """One error.

    Attributes:
        kind: Whether something was missed or found where nothing is.
        image: Name of the image, ``sensor/file name``.
        name: The class, as annotated or as detected.
        box: ``cx, cy, w, h, theta``, pixels and radians.
        score: Of a false alarm; ``None`` for a miss.
    """

    kind: Literal["false alarm", "miss"]
    image: str
    name: str
    box: tuple[float, ...]
    score: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "kind": self.kind, "image": self.image, "class": self.name, "obb": list(self.box), "score": self.score
        }  # fmt: skip

    @property
    def caption(self) -> str:
        """Two lines for above the picture."""
        size = f"{self.box[2]:.0f} x {self.box[3]:.0f} px"
        what = f"{self.name} {self.score:.2f}, {size}" if self.score is not None else f"{self.name}, {size}"
        return f"{what}\n{Path(self.image).name}"


def worst(pool: Pool, result: Confusion, count: int) -> list[Example]:
    """The highest-scored false alarms and the largest missed objects, ``count`` of each, one an image at most.

    Equal ones come in the order of their images.
    """
    alarms = result.false_alarms
    sizes = sizes_px(pool.objects.boxes[result.missed])
    missed = result.missed[np.argsort(-sizes, kind="stable")]
    examples = []
    for row in _spread(alarms.images, count):
        box = tuple(alarms.boxes[row].tolist())
        name = pool.classes[alarms.labels[row]]
        examples.append(Example("false alarm", pool.images[alarms.images[row]], name, box, float(alarms.scores[row])))
    for row in missed[_spread(pool.objects.images[missed], count)]:
        box = tuple(pool.objects.boxes[row].tolist())
        name = pool.classes[pool.objects.labels[row]]
        examples.append(Example("miss", pool.images[pool.objects.images[row]], name, box, None))
    return examples


def _spread(images: Sequence[int] | npt.NDArray[np.int32], count: int) -> list[int]:
    """The first ``count`` rows, at most :data:`MOST_PER_IMAGE` of each image."""
    seen: dict[int, int] = {}
    rows: list[int] = []
    for row, image in enumerate(images):
        if len(rows) == count:
            break
        seen[int(image)] = seen.get(int(image), 0) + 1
        if seen[int(image)] <= MOST_PER_IMAGE:
            rows.append(row)
    return rows


def draw(example: Example, pool: Pool, least_score: float, path: Path, profile: RadiometryProfile) -> Picture:
    """The surroundings of an error with the truth, the detections of at least ``least_score`` and the error's own box.

    Args:
        example: The error.
        pool: Where it was found.
        least_score: Detections below it are not drawn.
        path: The image file.
        profile: Radiometry that makes the image 8-bit.

    Returns:
        ``(SHOWN_PX, SHOWN_PX, 3)`` uint8 R, G, B; outside the image it is gray.

    Raises:
        ImageError: The file cannot be read.
    """
    cv2 = quiet_opencv()
    image = to_uint8(read_frame(path), profile)
    image = np.repeat(image, 3 // image.shape[2], axis=2)
    side = round(max(LEAST_CROP_PX, CROP_PER_SIDE * max(example.box[2:4])))
    left, top = (round(centre - side / 2) for centre in example.box[:2])
    crop = _cut(image, left, top, side)
    scale = SHOWN_PX / side
    canvas = cv2.resize(crop, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    number = pool.images.index(example.image)
    true = pool.objects.boxes[pool.objects.images == number]
    found = pool.found.boxes[(pool.found.images == number) & (pool.found.scores >= least_score)]
    subject = np.array([example.box], np.float32)
    for boxes, colour, width in ((found, FOUND_COLOUR, 1), (true, TRUE_COLOUR, 1), (subject, SUBJECT_COLOUR, 2)):
        outline(canvas, (to_corners(boxes) - (left, top)) * scale, colour, width)
    drawn: Picture = canvas
    return drawn


def _cut(image: Picture, left: int, top: int, side: int) -> Picture:
    height, width = image.shape[:2]
    crop = np.full((side, side, 3), 128, np.uint8)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x1 > x0 and y1 > y0:
        crop[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return crop


def write_sheets(
    examples: Sequence[Example],
    pool: Pool,
    least_score: float,
    paths: Mapping[str, Path],
    profile: RadiometryProfile,
    folder: Path,
) -> list[Path]:
    """Write ``SENSOR.false-alarms.png`` and ``SENSOR.misses.png``, each where there are such.

    Args:
        examples: Of one sensor; see :func:`worst`.
        pool: The sensor's images.
        least_score: Detections below it are not drawn.
        paths: Image files by name.
        profile: The sensor's radiometry.
        folder: Where the files go; made where it is missing.
    """
    from train.evaluation.plots import plot_sheet

    written = []
    sensor = pool.sensor.value
    legend = f"green: truth; orange: detections from score {least_score:.2f}"
    titles = {
        "false alarm": (
            "false-alarms",
            f"{sensor.upper()}: surest false alarms. Red: false alarm with score; {legend}",
        ),
        "miss": ("misses", f"{sensor.upper()}: largest missed objects. Red: missed object; {legend}"),
    }
    for kind, (word, title) in titles.items():
        mine = [example for example in examples if example.kind == kind]
        if mine:
            pictures = [draw(example, pool, least_score, paths[example.image], profile) for example in mine]
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{sensor}.{word}.png"
            plot_sheet(pictures, [example.caption for example in mine], title, path)
            written.append(path)
    return written
