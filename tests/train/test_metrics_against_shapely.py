"""Rotated average precision against the evaluator written on shapely."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from babelrs.detections import Detections
from babelrs.metrics import Evaluation, GroundTruth, evaluate
from babelrs.sensors import Sensor
from tests.train import shapely_evaluator as independent

CLASSES = ("ship", "large vehicle", "never seen")


def random_image(rng: np.random.Generator) -> tuple[GroundTruth, Detections]:
    """Oriented objects, thin and small ones too; disturbed, doubled and false detections with tied scores."""
    count = int(rng.integers(0, 10))
    objects = np.column_stack([
        rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(1, 4, (count, 2))), rng.uniform(-np.pi / 2, 1.5, count)
    ])  # fmt: skip
    objects[rng.random(count) < 0.2, 4] = np.float32(-np.pi / 2)
    labels = rng.integers(0, 2, count)
    source = rng.integers(0, max(count, 1), 3 * count)
    noise = rng.normal(0, 0.07, (3 * count, 5)) * np.column_stack(
        [objects[source][:, [2, 3, 2, 3]], np.ones(len(source))]
    )
    found = np.vstack([objects[source] + noise, np.column_stack([rng.uniform(5, 99, (3, 4)), rng.uniform(-1, 1, 3)])])
    found[:, 2:4] = np.maximum(found[:, 2:4], 0.5)
    guesses = np.where(rng.random(len(found)) < 0.9, np.append(labels[source], [0, 1, 2]), 1)
    truth = GroundTruth(objects, labels.astype(np.int32), rng.random(count) < 0.2, CLASSES, Sensor.RGB)
    scores = np.round(rng.random(len(found)), 2).astype(np.float32)
    return truth, Detections(found, scores, guesses.astype(np.int32), CLASSES, Sensor.RGB)


def assert_same(
    result: Evaluation, found: Mapping[str, Detections], truth: Mapping[str, GroundTruth], atol: float = 1e-9
) -> None:
    """Every class of every sensor has the independent evaluator's AP50, AP75 and AP."""
    for one in result.classes:
        images = [image for image in truth if truth[image].sensor is one.sensor]
        expected = independent.average_precisions(
            {image: as_detections(found[image]) for image in images if image in found},
            {image: as_objects(truth[image]) for image in images},
            one.name,
        )
        got = (one.precision.ap50, one.precision.ap75, one.precision.ap)
        np.testing.assert_allclose(got, [expected[0], expected[5], np.mean(expected)], rtol=0, atol=atol)


def as_detections(found: Detections) -> list[independent.Detection]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        independent.Detection(found.classes[label], independent.polygon_of(box), score) for box, score, label in rows
    ]


def as_objects(truth: GroundTruth) -> list[independent.TrueObject]:
    rows = zip(truth.boxes.tolist(), truth.labels.tolist(), truth.ignore.tolist(), strict=True)
    return [
        independent.TrueObject(truth.classes[label], independent.polygon_of(box), ignore) for box, label, ignore in rows
    ]


@pytest.mark.parametrize("seed", range(5))
def test_rotated_ap_equals_the_independent_evaluator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = {f"{image:02d}": random_image(rng) for image in rng.permutation(30).tolist()}
    truth = {image: one for image, (one, _) in pairs.items()}
    found = {image: one for image, (_, one) in pairs.items()}
    result = evaluate(found, truth)
    assert 0.2 < result.overall.ap < 0.9 and result.overall.ap50 > result.overall.ap75 > 0
    assert_same(result, found, truth)


def test_the_independent_evaluator_gives_what_is_worked_out_by_hand() -> None:
    boxes = [[10, 10, 8, 8, 0], [50, 50, 8, 8, 0]]
    true = {"a": [independent.TrueObject("car", independent.polygon_of(box)) for box in boxes]}
    rows = [(boxes[0], 0.9), ([200, 200, 8, 8, 0], 0.8), ([51, 50, 8, 8, 0], 0.7)]  # the last overlaps by 7/9
    found = {"a": [independent.Detection("car", independent.polygon_of(box), score) for box, score in rows]}
    half = pytest.approx(51 / 101)
    both = pytest.approx((51 + 50 * 2 / 3) / 101)
    assert independent.average_precisions(found, true, "car") == [both] * 6 + [half] * 4
