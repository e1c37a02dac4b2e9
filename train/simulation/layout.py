"""The SOI-Det folder layout: where images and annotations go, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from train.simulation.annotate import Annotation
from train.simulation.world import CLASSES, View

SPLITS = ("train", "eval")
_IMAGES = {
    (Sensor.RGB, "train"): "DOTA_800pix/train/images",
    (Sensor.RGB, "eval"): "DOTA_800pix/val/images",
    (Sensor.IR, "train"): "DroneVehicle/dota_train/png_images",
    (Sensor.IR, "eval"): "DroneVehicle/dota_test/png_images",
    (Sensor.SAR, "train"): "SARDet_50K/JPEGImages",
    (Sensor.SAR, "eval"): "SARDet_50K/JPEGImages",
}
_COCO = {
    "train": "SARDet_50K/Annotations/after_merge_train.json",
    "eval": "SARDet_50K/Annotations/after_merge_test.json",
}
#: All that a simulation writes below its folder.
OUTPUTS = ("DOTA_800pix", "DroneVehicle", "SARDet_50K", "geotiff", "descriptions.jsonl", "simulation.json")


def image_path(sensor: Sensor, split: str, stem: str) -> Path:
    """Where an image goes, relative to the output folder."""
    return Path(_IMAGES[sensor, split]) / f"{stem}{'.tif' if sensor is Sensor.SAR else '.png'}"


def make_folders(out: Path, sensors: Sequence[Sensor]) -> None:
    """Make all folders that the sensors need.

    Raises:
        BabelRSError: A folder cannot be made.
    """
    try:
        for sensor in sensors:
            for split in SPLITS:
                folder = out / _IMAGES[sensor, split]
                folder.mkdir(parents=True, exist_ok=True)
                beside = "Annotations" if sensor is Sensor.SAR else "annfiles"
                (folder.parent / beside).mkdir(exist_ok=True)
    except OSError as error:
        raise BabelRSError(f"Cannot write to {out}: {error.strerror}.", "Name another --out folder.") from error


def write_image(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write pixels losslessly: R, G, B as PNG, counts as 16-bit PNG, dB as float32 TIFF.

    Raises:
        BabelRSError: The file cannot be written.
    """
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if path.suffix == ".tif" else [cv2.IMWRITE_PNG_COMPRESSION, 2]
    done, data = cv2.imencode(path.suffix, image, options)
    try:
        if not done:
            raise OSError(0, "the image could not be encoded")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise BabelRSError(f"Cannot write {path}: {error.strerror}.", "Check the folder and the free space.") from error


def dota_text(annotations: Sequence[Annotation]) -> str:
    """DOTA lines ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``."""
    lines = []
    for annotation in annotations:
        numbers = " ".join(f"{value:.1f}" for value in annotation.corners_px.ravel())
        lines.append(f"{numbers} {annotation.solid.label} {int(annotation.difficult)}\n")
    return "".join(lines)


def write_scene(
    out: Path, sensor: Sensor, split: str, stem: str, view: View, annotations: Sequence[Annotation]
) -> list[list[float | str]]:
    """Write an image and, for RGB and infrared, its annotation file.

    Returns:
        For SAR one row ``class, x, y, width, height, x1, y1, ..., y4`` per object, else nothing.
    """
    path = out / image_path(sensor, split, stem)
    write_image(path, view.pixels)
    if sensor is not Sensor.SAR:
        (path.parent.parent / "annfiles" / f"{stem}.txt").write_text(dota_text(annotations))
        return []
    rows: list[list[float | str]] = []
    for annotation in annotations:
        numbers = np.round(np.concatenate([annotation.horizontal_px, annotation.corners_px.ravel()]), 1)
        rows.append([str(annotation.solid.label), *(float(value) for value in numbers)])
    return rows


def write_coco(out: Path, split: str, shape: tuple[int, int], images: Sequence[tuple[str, list[list[Any]]]]) -> None:
    """Write the COCO file of a split from ``(file name, rows of write_scene)`` in scene order."""
    document: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for image_id, (name, rows) in enumerate(images, 1):
        document["images"].append({"id": image_id, "file_name": name, "width": shape[1], "height": shape[0]})
        for label, x, y, width, height, *polygon in rows:
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": CLASSES.index(label) + 1,
                    "bbox": [x, y, width, height],
                    "area": round(width * height, 1),
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    document["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    (out / _COCO[split]).write_text(json.dumps(document, indent=None, separators=(",", ":")) + "\n")
