"""Readers of the SOI-Det folder layout: DOTA text for RGB and infrared, COCO JSON for SAR.

The whole split's annotations are checked before anything is returned, and all faults are listed at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from babelrs.boxes import from_coco, from_corners
from babelrs.errors import BabelRSError, collected
from babelrs.sensors import Sensor
from train.data.samples import Sample

Split = Literal["train", "eval"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LARGEST_PX = 1e6
"""No annotated coordinate lies further out than this; beyond it something other than pixels was written."""


@dataclass(frozen=True)
class _TextLayout:
    images: str
    annotations: str


_TEXT_LAYOUTS: dict[tuple[Sensor, Split], _TextLayout] = {
    (Sensor.RGB, "train"): _TextLayout("DOTA_800pix/train/images", "DOTA_800pix/train/annfiles"),
    (Sensor.RGB, "eval"): _TextLayout("DOTA_800pix/val/images", "DOTA_800pix/val/annfiles"),
    (Sensor.IR, "train"): _TextLayout("DroneVehicle/dota_train/png_images", "DroneVehicle/dota_train/annfiles"),
    (Sensor.IR, "eval"): _TextLayout("DroneVehicle/dota_test/png_images", "DroneVehicle/dota_test/annfiles"),
}
SAR_IMAGES = "SARDet_50K/JPEGImages"
SAR_ANNOTATIONS = {
    "train": "SARDet_50K/Annotations/after_merge_train.json",
    "eval": "SARDet_50K/Annotations/after_merge_test.json",
}


def read_split(root: Path, sensors: Iterable[Sensor], split: Split) -> dict[Sensor, list[Sample]]:
    """All samples of a split, by sensor, images in the order of their names.

    Args:
        root: Folder that holds ``DOTA_800pix``, ``DroneVehicle`` and ``SARDet_50K``.
        sensors: The sensors to read.
        split: ``train`` or ``eval``.

    Raises:
        BabelRSError: A folder or file is missing, or annotations are wrong; every fault of every sensor is listed.
    """
    if not root.is_dir():
        raise BabelRSError(f"There is no data folder {root}.", "Give a folder in the SOI-Det layout as data.root.")
    samples: dict[Sensor, list[Sample]] = {}
    faults: list[str] = []
    for sensor in sensors:
        found, wrong = _read_coco(root, split) if sensor is Sensor.SAR else _read_text(root, sensor, split)
        if not found and not wrong:
            wrong = [f"{sensor}: the {split} split is empty"]
        samples[sensor], faults = found, faults + wrong
    if faults:
        raise collected(
            f"The annotations under {root} cannot be used", faults, "Correct or remove these and start again."
        )
    return samples


def _read_text(root: Path, sensor: Sensor, split: Split) -> tuple[list[Sample], list[str]]:
    layout = _TEXT_LAYOUTS[sensor, split]
    image_folder, annotation_folder = root / layout.images, root / layout.annotations
    missing = [f"{folder}: no such folder" for folder in (image_folder, annotation_folder) if not folder.is_dir()]
    if missing:
        return [], missing
    samples, faults = [], []
    texts = {path.stem: path for path in sorted(annotation_folder.glob("*.txt"))}
    images: dict[str, Path] = {}
    for path in sorted(image_folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and images.setdefault(path.stem, path) != path:
            faults.append(f"{path}: {images[path.stem].name} has the same annotation")
    faults += [f"{texts[stem]}: no image {stem}.* in {image_folder}" for stem in sorted(texts.keys() - images.keys())]
    faults += [
        f"{images[stem]}: no annotation {annotation_folder / (stem + '.txt')}"
        for stem in sorted(images.keys() - texts.keys())
    ]
    for stem in sorted(texts.keys() & images.keys()):
        sample, wrong = parse_dota(texts[stem], images[stem], sensor)
        samples.append(sample)
        faults += wrong
    return samples, faults


def parse_dota(text: Path, image: Path, sensor: Sensor) -> tuple[Sample, list[str]]:
    """Read one DOTA text file.

    Lines are ``x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]``; class names may hold spaces; header lines
    (``imagesource:``, ``gsd:``) are skipped.

    Returns:
        The sample with the good lines, and the faults of the others with file and line number.
    """
    corners, names, ignore, faults = [], [], [], []
    try:
        lines = text.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        lines, faults = [], [f"{text}: cannot be read: {error}"]
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].lower().startswith(("imagesource:", "gsd:")):
            continue
        try:
            points, name, difficult = _dota_fields(fields)
        except ValueError as error:
            faults.append(f"{text}:{number}: {error}: {line.strip()[:80]!r}")
            continue
        corners.append(points)
        names.append(name)
        ignore.append(difficult)
    boxes = from_corners(np.array(corners, np.float32).reshape(-1, 4, 2))
    return Sample(image, sensor, boxes, tuple(names), np.array(ignore, bool)), faults


def _dota_fields(fields: list[str]) -> tuple[list[float], str, bool]:
    if len(fields) < 9:
        raise ValueError(f"{len(fields)} fields, at least 9 expected")
    try:
        points = [float(field) for field in fields[:8]]
    except ValueError:
        raise ValueError("a coordinate is not a number") from None
    if not all(abs(point) <= LARGEST_PX for point in points):
        raise ValueError(f"a coordinate is NaN, infinite or beyond {LARGEST_PX:g} px")
    x, y = points[0::2], points[1::2]
    if abs(sum(x[i] * y[i - 3] - x[i - 3] * y[i] for i in range(4))) < 1e-6:
        raise ValueError("the box has no area")
    flagged = len(fields) > 9 and fields[-1].lstrip("-").isdigit()
    name = " ".join(fields[8 : len(fields) - flagged])
    return points, name, flagged and int(fields[-1]) != 0


def _read_coco(root: Path, split: Split) -> tuple[list[Sample], list[str]]:
    file, folder = root / SAR_ANNOTATIONS[split], root / SAR_IMAGES
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images, annotations = list(content["images"]), list(content["annotations"])
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        paths = {image["id"]: folder / image["file_name"] for image in images}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        return [], [f"{file}: not a readable COCO file ({type(error).__name__}: {error})"]
    faults = [f"{file}: image file {path} is missing" for path in paths.values() if not path.is_file()]
    faults += _repeated(f"{file}: image id", [image["id"] for image in images])
    faults += _repeated(f"{file}: image file", [image["file_name"] for image in images])
    faults += _repeated(f"{file}: category id", [category["id"] for category in content["categories"]])
    by_image: dict[Any, list[dict[str, Any]]] = {key: [] for key in paths}
    for annotation in annotations:
        fault = _coco_fault(annotation, categories, by_image)
        if fault:
            name = annotation.get("id", annotation) if isinstance(annotation, dict) else annotation
            faults.append(f"{file}: annotation {name!r}: {fault}")
        else:
            by_image[annotation["image_id"]].append(annotation)
    ordered = sorted(paths.items(), key=lambda item: item[1].name)
    return [_coco_sample(path, by_image[key], categories) for key, path in ordered], faults


def _repeated(what: str, values: list[Any]) -> list[str]:
    return [f"{what} {value!r} occurs more than once" for value, count in Counter(values).items() if count > 1]


def _coco_fault(annotation: Any, categories: dict[Any, str], images: dict[Any, Any]) -> str:
    if not isinstance(annotation, dict):
        return "is not a mapping"
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box))):
        return f"bbox {box!r} is not four finite numbers"
    if box[2] <= 0 or box[3] <= 0:
        return f"bbox {box!r} has no area"
    if not _among(annotation.get("category_id"), categories):
        return f"category_id {annotation.get('category_id')!r} is not among the categories"
    if not _among(annotation.get("image_id"), images):
        return f"image_id {annotation.get('image_id')!r} is not among the images"
    return ""


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= LARGEST_PX


def _among(key: Any, known: dict[Any, Any]) -> bool:
    return isinstance(key, (int, str)) and key in known


def _coco_sample(path: Path, annotations: list[dict[str, Any]], categories: dict[Any, str]) -> Sample:
    boxes = from_coco(np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4))
    names = tuple(categories[annotation["category_id"]] for annotation in annotations)
    ignore = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool)
    return Sample(path, Sensor.SAR, boxes, names, ignore)
