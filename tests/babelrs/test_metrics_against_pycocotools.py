"""Average precision against pycocotools on horizontal boxes, where both must say the same."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from babelrs.boxes import from_coco, to_coco
from babelrs.detections import Detections
from babelrs.metrics import GroundTruth, evaluate
from babelrs.sensors import Sensor

CLASSES = ("ship", "plane", "tank", "never seen")


class PlainIouEvaluation(COCOeval):
    """COCO's evaluation with the plain IoU for ignored objects too, as ``babelrs.metrics`` documents it."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        objects, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not objects and not found:
            return []
        order = np.argsort([-one["score"] for one in found], kind="mergesort")[: self.params.maxDets[-1]]
        boxes = [found[i]["bbox"] for i in order]
        return mask.iou(boxes, [one["bbox"] for one in objects], [0] * len(objects))


def _random_image(rng: np.random.Generator, sensor: Sensor) -> tuple[GroundTruth, Detections]:
    """Objects and detections near them, some doubled, some shifted, with scores of one decimal: many ties."""
    count = int(rng.integers(0, 12))
    sides = np.exp(rng.uniform(np.log(4), np.log(200), (count, 2)))
    objects = np.hstack([rng.uniform(0, 400, (count, 2)), sides])
    labels = rng.integers(0, 3, count)
    source = rng.integers(0, max(count, 1), 2 * count)
    found = objects[source] + rng.normal(0, 0.12, (2 * count, 4)) * objects[source][:, [2, 3, 2, 3]]
    found = np.vstack([found, np.hstack([rng.uniform(0, 400, (3, 2)), rng.uniform(4, 99, (3, 2))])])
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    guesses = np.where(
        rng.random(len(found)) < 0.8, np.append(labels[source], [0, 1, 3]), rng.integers(0, 4, len(found))
    )
    truth = GroundTruth(from_coco(objects), labels.astype(np.int32), rng.random(count) < 0.25, CLASSES, sensor)
    scores = np.round(rng.random(len(found)), 1).astype(np.float32)
    return truth, Detections(from_coco(found), scores, guesses.astype(np.int32), CLASSES, sensor)


def _coco(truths: Mapping[int, GroundTruth]) -> COCO:
    rows = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(ignore)}
        for image, truth in truths.items()
        for box, label, ignore in zip(to_coco(truth.boxes).tolist(), truth.labels, truth.ignore, strict=True)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in truths],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)],
        "annotations": [{"id": number + 1, **row} for number, row in enumerate(rows)],
    }
    coco.createIndex()
    return coco


def _coco_precision(
    truths: Mapping[int, GroundTruth], found: Mapping[int, Detections], max_detections: int
) -> npt.NDArray[np.float64]:
    """``(T, K)`` average precision per IoU threshold and class; NaN where there is no ground truth."""
    rows = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": box, "score": float(score)}
        for image, one in found.items()
        for box, score, label in zip(to_coco(one.boxes).tolist(), one.scores, one.labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = _coco(truths)
        run = PlainIouEvaluation(coco, coco.loadRes(rows), "bbox")
        run.params.maxDets = [max_detections]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 0]  # (T, R, K)
    return np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


@pytest.mark.parametrize("max_detections", [3, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_every_class_equals_pycocotools(seed: int, max_detections: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = {image: _random_image(rng, Sensor.SAR) for image in rng.permutation(40).tolist()}
    truths = {image: truth for image, (truth, _) in pairs.items()}
    found = {image: detections for image, (_, detections) in pairs.items()}
    expected = _coco_precision(truths, found, max_detections)
    ours = evaluate(found, truths, max_detections=max_detections)
    assert [result.name for result in ours.classes] == list(CLASSES)
    got = [(one.precision.ap50, one.precision.ap75, one.precision.ap) for one in ours.classes]
    np.testing.assert_allclose(np.transpose(got), [expected[0], expected[5], expected.mean(axis=0)], atol=1e-6)
    assert ours.overall.ap == pytest.approx(np.nanmean(expected), abs=1e-6)
    assert 0.05 < ours.overall.ap < 0.95  # the comparison has something to compare


def test_a_sensor_has_the_numbers_it_has_alone() -> None:
    rng = np.random.default_rng(11)
    sensors = dict(enumerate([Sensor.RGB, Sensor.IR, Sensor.SAR] * 8))
    pairs = {image: _random_image(rng, sensor) for image, sensor in sensors.items()}
    truths = {image: truth for image, (truth, _) in pairs.items()}
    found = {image: detections for image, (_, detections) in pairs.items()}
    together = evaluate(found, truths)
    for sensor in Sensor:
        mine = {image: truth for image, truth in truths.items() if truth.sensor is sensor}
        expected = _coco_precision(mine, {image: found[image] for image in mine}, 1000)
        assert together.sensors[sensor].ap == pytest.approx(np.nanmean(expected), abs=1e-6)
    mean = np.nanmean([result.precision.ap for result in together.classes])
    assert together.overall.ap == pytest.approx(mean, abs=1e-12)


def test_turning_the_whole_image_changes_nothing() -> None:
    rng = np.random.default_rng(12)
    pairs = {image: _random_image(rng, Sensor.IR) for image in range(20)}
    straight = evaluate({i: d for i, (_, d) in pairs.items()}, {i: t for i, (t, _) in pairs.items()})
    turned = evaluate(
        {i: replace(d, boxes=_turned(d.boxes)) for i, (_, d) in pairs.items()},
        {i: replace(t, boxes=_turned(t.boxes)) for i, (t, _) in pairs.items()},
    )
    assert turned.overall.ap == pytest.approx(straight.overall.ap, abs=1e-6)


def _turned(boxes: npt.NDArray[np.float32], angle_rad: float = 0.6) -> npt.NDArray[np.float64]:
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    centres = boxes[:, :2].astype(np.float64) @ np.array([[cosine, sine], [-sine, cosine]])
    return np.hstack([centres, boxes[:, 2:4], boxes[:, 4:] + angle_rad])
