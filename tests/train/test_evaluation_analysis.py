"""Sizes, curves, confusions and the choice of examples, each against a count by other means."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from babelrs.detections import Detections
from babelrs.metrics import GroundTruth, evaluate, match_pool, rematch
from babelrs.pool import Pool, pool_images
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from tests.train import shapely_evaluator as independent
from tests.train.test_metrics_against_shapely import as_detections, as_objects, random_image
from train.evaluation.confusion import confusion
from train.evaluation.curves import calibration, operating_point, precision_recall, ranked_hits, recall_at_false_alarms
from train.evaluation.examples import SHOWN_PX, SUBJECT_COLOUR, draw, worst
from train.evaluation.report import analyse
from train.evaluation.sizes import SIZE_BINS, by_size

CLASSES = ("car", "bus")


def random_pool(seed: int, images: int = 25) -> tuple[Pool, dict[str, Detections], dict[str, GroundTruth]]:
    rng = np.random.default_rng(seed)
    pairs = {f"rgb/{image:02d}.png": random_image(rng) for image in range(images)}
    found, truth = {name: one for name, (_, one) in pairs.items()}, {name: one for name, (one, _) in pairs.items()}
    return pool_images(found, truth)[Sensor.RGB], found, truth


def pool_of(
    found: dict[str, list[tuple[list[float], float, int]]], truth: dict[str, list[tuple[list[float], int, bool]]]
) -> Pool:
    """From (box, score, label) and (box, label, ignore) by image."""
    detections = {
        name: Detections(
            np.array([box for box, _, _ in rows], np.float32), np.array([score for _, score, _ in rows], np.float32),
            np.array([label for _, _, label in rows], np.int32), CLASSES, Sensor.RGB,
        )
        for name, rows in found.items()
    }  # fmt: skip
    objects = {
        name: GroundTruth(
            np.array([box for box, _, _ in rows], np.float32).reshape(-1, 5),
            np.array([label for _, label, _ in rows], np.int32), np.array([flag for _, _, flag in rows], bool),
            CLASSES, Sensor.RGB,
        )
        for name, rows in truth.items()
    }  # fmt: skip
    return pool_images(detections, objects)[Sensor.RGB]


def at(x: float, y: float = 50, width: float = 20, height: float = 10) -> list[float]:
    return [x, y, width, height, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_by_size_equals_the_independent_evaluator_with_other_sizes_ignored(seed: int) -> None:
    pool, found, truth = random_pool(seed)
    results = by_size(match_pool(pool))
    assert sum(one.num_objects for one in results) == sum(int((~one.ignore).sum()) for one in truth.values())
    compared = 0
    for (_, lowest, highest), result in zip(SIZE_BINS, results, strict=True):

        def outside(polygon: object, low: float = lowest**2, high: float = highest**2) -> bool:
            return not low <= polygon.area < high  # type: ignore[attr-defined]

        objects = {
            image: [independent.TrueObject(o.name, o.polygon, o.ignore or outside(o.polygon)) for o in as_objects(one)]
            for image, one in truth.items()
        }
        detections = {image: as_detections(one) for image, one in found.items()}
        per_class = [
            independent.average_precisions(detections, objects, name, lambda d, far=outside: far(d.polygon))
            for name in pool.classes
        ]
        counted = [values for values in per_class if not math.isnan(values[0])]
        if counted:
            expected = np.mean(counted, axis=0)
            got = (result.precision.ap50, result.precision.ap75, result.precision.ap)
            np.testing.assert_allclose(got, [expected[0], expected[5], expected.mean()], rtol=0, atol=1e-9)
            compared += 1
    assert compared >= 4 and len({round(one.precision.ap, 6) for one in results}) >= 4


def test_matching_again_with_the_same_objects_changes_nothing() -> None:
    pool, found, truth = random_pool(7)
    matched = match_pool(pool)
    again = rematch(pool, matched.candidates, pool.objects.ignore)
    np.testing.assert_array_equal(again.chosen, matched.chosen)
    assert (matched.hits.sum(axis=1)[:-1] >= matched.hits.sum(axis=1)[1:]).all()
    assert analyse(matched, 3).curves[0].ap50 == evaluate(found, truth).classes[0].precision.ap50


def by_threshold(hits: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> list[tuple[float, int, int]]:
    """(score, true positives, false alarms) at every threshold that can be set."""
    return [(float(s), int(hits[scores >= s].sum()), int((~hits[scores >= s]).sum())) for s in np.unique(scores)]


@pytest.mark.parametrize("seed", range(3))
def test_recall_at_false_alarms_and_best_f1_are_the_best_over_all_thresholds(seed: int) -> None:
    pool, _, truth = random_pool(seed)
    matched = match_pool(pool)
    count = sum(int((~one.ignore).sum()) for one in truth.values())
    hits, scores = ranked_hits(matched)
    options = by_threshold(hits, scores)
    rates = (0.0, 0.1, 0.5, 2.0, 1e9)
    expected = [max((t / count for _, t, f in options if f <= rate * 25), default=0.0) for rate in rates]
    assert recall_at_false_alarms(hits, scores, count, 25, rates) == pytest.approx(expected)
    assert 0 < expected[1] < expected[3]
    point = operating_point(matched)
    best = max(2 * t / (t + f + count) for _, t, f in options)
    assert point.f1 == pytest.approx(best)
    true, alarms = next((t, f) for s, t, f in options if s == point.score)
    assert (point.precision, point.recall) == pytest.approx((true / (true + alarms), true / count))
    assert point.f1 == pytest.approx(2 * point.precision * point.recall / (point.precision + point.recall))


def test_nothing_found_and_nothing_to_find_have_no_operating_point() -> None:
    missed = operating_point(match_pool(pool_of({}, {"rgb/a.png": [(at(50), 0, False)]})))
    assert math.isnan(missed.score) and missed.recall == 0
    empty = operating_point(match_pool(pool_of({}, {"rgb/a.png": []})))
    assert math.isnan(empty.recall)
    assert math.isnan(recall_at_false_alarms(np.zeros(0, bool), np.zeros(0, np.float32), 0, 1)[0])
    report = analyse(match_pool(pool_of({}, {"rgb/a.png": []})), 4)
    assert report.to_dict()["confusion"]["table"] == [[0] * 3] * 3 and report.examples == []


def test_curve_scores_are_those_that_reach_the_recall() -> None:
    found = {"rgb/a.png": [(at(50), 0.9, 0), (at(300), 0.8, 0), (at(150), 0.7, 0)]}
    truth = {"rgb/a.png": [(at(50), 0, False), (at(150), 0, False), (at(450), 0, False)]}
    (curve,) = precision_recall(match_pool(pool_of(found, truth)))
    assert curve.name == "car" and curve.ap50 == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert curve.score[[0, 33, 34, 66]] == pytest.approx([0.9, 0.9, 0.7, 0.7]) and np.isnan(curve.score[67])
    assert curve.precision[[33, 34, 67]] == pytest.approx([1, 2 / 3, 0])


def test_calibration_counts_right_and_wrong_by_score() -> None:
    found = {"rgb/a.png": [(at(50), 0.95, 0), (at(300), 0.96, 0), (at(150), 0.12, 0), (at(400), 0.2, 0)]}
    truth = {"rgb/a.png": [(at(50), 0, False), (at(150), 0, False), (at(400), 0, True)]}
    result = calibration(match_pool(pool_of(found, truth)), bins=10)
    assert result.right.tolist() == [0, 1, *[0] * 7, 1] and result.wrong.tolist() == [*[0] * 9, 1]
    assert result.error == pytest.approx((abs(1 - 0.12) + abs(1 - 0.95 - 0.96)) / 3, abs=1e-6)


def test_confusion_of_a_scene_worked_out_by_hand() -> None:
    found = {
        "rgb/a.png": [
            (at(50), 0.9, 0),  # car found
            (at(151), 0.8, 0),  # bus taken for a car
            (at(150), 0.7, 1),  # and found too late: a false alarm
            (at(300), 0.6, 1),  # nothing there
            (at(400), 0.9, 0),  # on a difficult object: left out
            (at(500), 0.2, 0),  # below the score
        ]
    }
    truth = {
        "rgb/a.png": [(at(50), 0, False), (at(150), 1, False), (at(400), 0, True), (at(500), 0, False)],
        "rgb/b.png": [(at(300), 1, False)],
    }
    pool = pool_of(found, truth)
    result = confusion(pool, 0.5)
    assert result.table.tolist() == [[1, 0, 1], [1, 0, 1], [0, 2, 0]]
    assert result.false_alarms.scores == pytest.approx([0.7, 0.6])
    assert pool.objects.boxes[result.missed, 0].tolist() == [500, 300]


def test_examples_are_the_surest_false_alarms_and_the_largest_misses_one_an_image() -> None:
    found = {
        "rgb/a.png": [(at(50), 0.9, 0), (at(100), 0.85, 1)],
        "rgb/b.png": [(at(50), 0.95, 1)],
        "rgb/c.png": [(at(50), 0.3, 1)],
    }
    truth = {
        "rgb/a.png": [(at(300, 50, 30, 10), 0, False), (at(400, 50, 40, 10), 0, False)],
        "rgb/b.png": [(at(300, 50, 90, 80), 1, False)],
        "rgb/c.png": [],
    }
    pool = pool_of(found, truth)
    examples = worst(pool, confusion(pool, 0.0), 2)
    assert [(one.kind, one.image, one.name, one.box[0]) for one in examples] == [
        ("false alarm", "rgb/b.png", "bus", 50),
        ("false alarm", "rgb/a.png", "car", 50),
        ("miss", "rgb/b.png", "bus", 300),
        ("miss", "rgb/a.png", "car", 400),
    ]
    assert examples[0].caption == "bus 0.95, 20 x 10 px\nb.png" and examples[2].caption == "bus, 90 x 80 px\nb.png"
    assert examples[3].score is None


def test_a_picture_shows_the_box_where_it_is_and_gray_where_there_is_no_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((60, 90, 3), np.uint8))
    pool = pool_of({"rgb/b.png": [(at(10, 30, 24, 12), 0.9, 0)]}, {"rgb/b.png": []})
    (example,) = worst(pool, confusion(pool, 0.0), 4)
    picture = draw(example, pool, 0.0, tmp_path / "b.png", DEFAULT_PROFILES[Sensor.RGB])
    assert picture.shape == (SHOWN_PX, SHOWN_PX, 3)
    scale = SHOWN_PX / 96  # a crop of 96 px around (10, 30)
    red = np.argwhere((picture == SUBJECT_COLOUR).all(axis=2))
    middle = SHOWN_PX / 2
    assert red.min(axis=0) == pytest.approx([middle - 6 * scale, middle - 12 * scale], abs=2)
    assert red.max(axis=0) == pytest.approx([middle + 6 * scale, middle + 12 * scale], abs=2)
    assert picture[5, 5].tolist() == [128] * 3  # left of and above the image
    assert picture[int(middle + 50), int(middle + 100)].tolist() == [0] * 3  # inside it, away from the box
