"""Files for other evaluators: pycocotools and the evaluator written on shapely read them and say what we say."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import shapely
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from babelrs.boxes import from_coco
from babelrs.detections import Detections
from babelrs.errors import BabelRSError
from babelrs.metrics import GroundTruth, evaluate
from babelrs.pool import pool_images
from babelrs.sensors import Sensor
from tests.train import shapely_evaluator as independent
from tests.train.builders import SAR_FILES
from tests.train.test_metrics_against_shapely import as_objects, random_image
from train.evaluation.result_files import write_coco, write_dota

SAR_CLASSES = ("bridge", "ship")


def read_task1(folder: Path) -> dict[str, list[independent.Detection]]:
    """Detections by image from ``Task1_CLASS.txt`` files, by nothing but their text."""
    found: dict[str, list[independent.Detection]] = {}
    for file in sorted(folder.glob("Task1_*.txt")):
        name = file.stem.removeprefix("Task1_")
        for line in file.read_text().splitlines():
            image, score, *points = line.split(" ")
            corners = [(float(points[i]), float(points[i + 1])) for i in range(0, 8, 2)]
            found.setdefault(image, []).append(independent.Detection(name, shapely.Polygon(corners), float(score)))
    return found


def test_dota_files_read_by_the_independent_evaluator_give_our_ap(tmp_path: Path) -> None:
    rng = np.random.default_rng(21)
    pairs = {f"rgb/P{image:04d}.png": random_image(rng) for image in range(25)}
    found = {image: one for image, (_, one) in pairs.items()}
    truth = {image: one for image, (one, _) in pairs.items()}
    result = evaluate(found, truth)
    files = write_dota(pool_images(found, truth)[Sensor.RGB], tmp_path)
    assert [file.name for file in files] == ["Task1_ship.txt", "Task1_large-vehicle.txt", "Task1_never-seen.txt"]
    read = read_task1(tmp_path)
    assert sum(map(len, read.values())) == sum(map(len, found.values()))
    true = {Path(image).stem: as_objects(one) for image, one in truth.items()}
    for one in result.classes[:2]:
        spelled = {
            image: [independent.TrueObject("-".join(o.name.split()), o.polygon, o.ignore) for o in objects]
            for image, objects in true.items()
        }
        expected = independent.average_precisions(read, spelled, "-".join(one.name.split()))
        got = (one.precision.ap50, one.precision.ap75, one.precision.ap)
        assert 0.1 < one.precision.ap < 0.9
        # Corners are written to 1e-4 px: an overlap within that of a threshold may change sides.
        np.testing.assert_allclose(got, [expected[0], expected[5], np.mean(expected)], atol=2e-3)


def test_names_that_the_dota_format_cannot_hold_are_listed(tmp_path: Path) -> None:
    truth, found = random_image(np.random.default_rng(0))
    names = ["rgb/a.png", "rgb/a.jpg", "rgb/b c.png"]
    pool = pool_images(dict.fromkeys(names, found), dict.fromkeys(names, truth))[Sensor.RGB]
    with pytest.raises(BabelRSError, match=r"(?s)'b c' holds a blank.*'a' is the name of 2 images"):
        write_dota(pool, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def sar_set(rng: np.random.Generator) -> tuple[dict[str, Detections], dict[str, GroundTruth]]:
    """Horizontal objects and disturbed detections of two classes."""
    found, truth = {}, {}
    for image in range(30):
        count = int(rng.integers(0, 8))
        objects = np.hstack([rng.uniform(0, 300, (count, 2)), rng.uniform(6, 60, (count, 2))])
        labels = rng.integers(0, 2, count).astype(np.int32)
        source = rng.integers(0, max(count, 1), 2 * count)
        moved = objects[source] + rng.normal(0, 0.1, (2 * count, 4)) * objects[source][:, [2, 3, 2, 3]]
        moved[:, 2:] = np.maximum(moved[:, 2:], 1)
        name = f"sar/chip {image}.jpg"  # COCO has no trouble with blanks
        scores = rng.random(2 * count).astype(np.float32)
        found[name] = Detections(from_coco(moved), scores, labels[source], SAR_CLASSES, Sensor.SAR)
        truth[name] = GroundTruth(from_coco(objects), labels, np.zeros(count, bool), SAR_CLASSES, Sensor.SAR)
        truth_xywh[name] = objects
    return found, truth


truth_xywh: dict[str, np.ndarray] = {}


def write_annotations(root: Path, truth: Mapping[str, GroundTruth]) -> Path:
    """A COCO file whose ids follow no order that one could guess."""
    file = root / "SARDet_50K/Annotations" / SAR_FILES["eval"]
    file.parent.mkdir(parents=True)
    images = [{"id": 1000 - 7 * i, "file_name": name.partition("/")[2]} for i, name in enumerate(truth)]
    rows = [
        {
            "image_id": image["id"], "category_id": (40, 12)[label], "bbox": box.tolist(), "iscrowd": 0,
            "area": float(box[2] * box[3]),
        }
        for image, name in zip(images, truth, strict=True)
        for box, label in zip(truth_xywh[name], truth[name].labels, strict=True)
    ]  # fmt: skip
    content = {
        "images": images,
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": 40, "name": "bridge"}, {"id": 12, "name": "ship"}],
        "info": {},
    }
    file.write_text(json.dumps(content))
    return file


def test_coco_results_give_pycocotools_our_sar_ap(tmp_path: Path) -> None:
    found, truth = sar_set(np.random.default_rng(5))
    annotations = write_annotations(tmp_path, truth)
    pool = pool_images(found, truth)[Sensor.SAR]
    file = write_coco(pool, tmp_path, "eval", tmp_path / "coco.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(annotations))
        run = COCOeval(coco, coco.loadRes(str(file)), "bbox")
        run.params.maxDets = [1000]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 0]  # (T, R, K), categories by id: ship, bridge
    ours = {one.name: one.precision for one in evaluate(found, truth).classes}
    for index, name in enumerate(("ship", "bridge")):
        expected = precision[:, :, index].mean(axis=1)
        got = (ours[name].ap50, ours[name].ap75, ours[name].ap)
        assert 0.1 < ours[name].ap < 0.95
        np.testing.assert_allclose(got, [expected[0], expected[5], expected.mean()], atol=1e-6)


def test_an_image_or_class_without_an_id_is_named(tmp_path: Path) -> None:
    found, truth = sar_set(np.random.default_rng(5))
    file = write_annotations(tmp_path, truth)
    content = json.loads(file.read_text())
    content["images"] = [image for image in content["images"] if image["file_name"] != "chip 3.jpg"]
    content["categories"][1]["name"] = "boat"
    file.write_text(json.dumps(content))
    with pytest.raises(BabelRSError, match=r"(?s)image sar/chip 3\.jpg.*class ship"):
        write_coco(pool_images(found, truth)[Sensor.SAR], tmp_path, "eval", tmp_path / "coco.json")
