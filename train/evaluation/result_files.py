"""Detections in the files that other evaluators read: DOTA Task 1 and COCO results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from babelrs.boxes import to_coco, to_corners
from babelrs.errors import BabelRSError, collected
from babelrs.pool import Pool
from train.data.soi_det import SAR_ANNOTATIONS, Split

ROWS_AT_ONCE = 100_000


def write_dota(pool: Pool, folder: Path) -> list[Path]:
    """Write ``Task1_CLASS.txt`` for every class: ``image score x1 y1 x2 y2 x3 y3 x4 y4`` a line.

    The image is the file's name without suffix; scores are written so that float32 reads back what it was, corners to
    1e-4 px, clockwise on screen. Blanks in class names become hyphens.

    Raises:
        BabelRSError: Names of images hold blanks, or two differ in their suffix only: the format cannot hold them.
    """
    stems = [PurePath(str(image).partition("/")[2] or str(image)).stem for image in pool.images]
    faults = [f"{stem!r} holds a blank" for stem in stems if len(stem.split()) != 1]
    faults += [f"{stem!r} is the name of {count} images" for stem, count in Counter(stems).items() if count > 1]
    if faults:
        remedy = "Rename the images, or evaluate with result_files false."
        raise collected("DOTA Task 1 cannot hold these names", faults, remedy)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_class(pool, stems, label, folder) for label in range(len(pool.classes))]


def _write_class(pool: Pool, stems: list[str], label: int, folder: Path) -> Path:
    path = folder / f"Task1_{'-'.join(pool.classes[label].split())}.txt"
    rows = np.flatnonzero(pool.found.labels == label)
    line = "%s %.9g" + " %.4f" * 8 + "\n"
    with path.open("w", encoding="utf-8") as file:
        for part in _parts(rows):
            corners = to_corners(pool.found.boxes[part]).reshape(-1, 8).tolist()
            names = [stems[image] for image in pool.found.images[part].tolist()]
            scores = pool.found.scores[part].tolist()
            file.writelines(
                line % (name, score, *points) for name, score, points in zip(names, scores, corners, strict=True)
            )
    return path


def write_coco(pool: Pool, root: Path, split: Split, path: Path) -> Path:
    """Write COCO results of the SAR detections, with the ids of the annotation file.

    ``bbox`` is the smallest horizontal box around a detection, ``x, y, w, h`` in pixels; no rounding takes place that
    float32 would notice.

    Raises:
        BabelRSError: The annotation file cannot be read, or lacks an image or class of the detections.
    """
    annotations = root / SAR_ANNOTATIONS[split]
    images, categories = _ids(annotations)
    missing = [f"image {name}" for name in pool.images if str(name).partition("/")[2] not in images]
    used = np.unique(pool.found.labels).tolist()
    missing += [f"class {pool.classes[label]}" for label in used if pool.classes[label] not in categories]
    if missing:
        raise collected(f"{annotations} has no id for these", missing, "Restore the annotation file.")
    image_ids = [images[str(name).partition("/")[2]] for name in pool.images]
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, text in enumerate(_coco_rows(pool, image_ids, categories)):
            file.write(",\n" + text if number else text)
        file.write("]\n")
    return path


def _coco_rows(pool: Pool, image_ids: list[Any], categories: Mapping[str, Any]) -> Iterator[str]:
    for part in _parts(np.arange(len(pool.found))):
        found = pool.found.select(part)
        rows = zip(
            found.images.tolist(),
            found.labels.tolist(),
            to_coco(found.boxes).tolist(),
            found.scores.tolist(),
            strict=True,
        )
        for image, label, box, score in rows:
            yield json.dumps(
                {
                    "image_id": image_ids[image],
                    "category_id": categories[pool.classes[label]],
                    "bbox": [float(f"{value:.9g}") for value in box],
                    "score": float(f"{score:.9g}"),
                }
            )


def _ids(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Image ids by file name (without folders) and category ids by name."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {PurePath(image["file_name"]).name: image["id"] for image in content["images"]}
        return images, {str(category["name"]): category["id"] for category in content["categories"]}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BabelRSError(f"{file}: not a readable COCO file ({error}).", "Restore the annotation file.") from None


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
