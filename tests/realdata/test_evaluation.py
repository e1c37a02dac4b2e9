"""Accuracy of real predictions: the demo bundle on real images, ours against the evaluator written on shapely."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from babelrs.bundle import open_bundle
from babelrs.detections import Detections
from babelrs.images import read_frame
from babelrs.metrics import GroundTruth, evaluate
from babelrs.pool import pool_images
from babelrs.sensors import Sensor
from runtime.cli import DEMO_BUNDLE
from runtime.engines import open_engine
from runtime.pipeline import Detector, Stopwatch
from tests.train import shapely_evaluator as independent
from tests.train.test_metrics_against_shapely import as_objects, assert_same
from tests.train.test_result_files import read_task1
from train.data.samples import Sample
from train.data.soi_det import read_split
from train.evaluation.result_files import write_dota

pytestmark = pytest.mark.realdata

IMAGES = 10
#: What the demo bundle, which knows simulated scenes only, comes nearest to.
NAMES = {
    "Car": "car", "ship": "ship", "small-vehicle": "car", "large-vehicle": "truck", "vehicle": "truck",
    "Person": "person", "Bicycle": "bicycle",
}  # fmt: skip


@pytest.fixture(scope="module")
def scored(shared_data: Path) -> tuple[dict[str, Detections], dict[str, GroundTruth]]:
    bundle = open_bundle(DEMO_BUNDLE)
    found: dict[str, Detections] = {}
    truth: dict[str, GroundTruth] = {}
    for sensor, samples in read_split(shared_data / "soi-mini", list(Sensor), "eval").items():
        detector = Detector(open_engine(bundle, sensor), bundle.manifest.entry(sensor), sensor, 0.02)
        known = set(bundle.manifest.entry(sensor).classes)
        for sample in sorted(samples, key=lambda one: (-num_known(one, known), one.name))[:IMAGES]:
            found[sample.name], _ = detector.detect(read_frame(sample.path), Stopwatch())
            truth[sample.name] = renamed(sample)
    return found, truth


def num_known(sample: Sample, known: set[str]) -> int:
    """Objects of classes that the bundle has."""
    return sum(NAMES[name] in known for name in sample.names)


def renamed(sample: Sample) -> GroundTruth:
    classes = tuple(dict.fromkeys(NAMES.values()))
    labels = np.array([classes.index(NAMES[name]) for name in sample.names], np.int32)
    return GroundTruth(sample.boxes, labels, sample.ignore, classes, sample.sensor)


def test_ap_of_real_predictions_equals_the_independent_evaluator(
    scored: tuple[dict[str, Detections], dict[str, GroundTruth]],
) -> None:
    found, truth = scored
    result = evaluate(found, truth)
    assert sum(one.num_detections for one in result.classes) > 500 and result.overall.ap50 > 0.005
    assert_same(result, found, truth)


def test_ap_without_regard_to_class_equals_the_independent_evaluator(
    scored: tuple[dict[str, Detections], dict[str, GroundTruth]],
) -> None:
    found = {name: replace(one, labels=np.zeros_like(one.labels), classes=("any",)) for name, one in scored[0].items()}
    truth = {name: replace(one, labels=np.zeros_like(one.labels), classes=("any",)) for name, one in scored[1].items()}
    result = evaluate(found, truth)
    assert all(precision.ap50 > 0.001 for precision in result.sensors.values()), result.format_table()
    assert_same(result, found, truth)


def test_dota_files_of_real_predictions_give_the_independent_evaluator_our_ap(
    scored: tuple[dict[str, Detections], dict[str, GroundTruth]], tmp_path: Path
) -> None:
    found, truth = scored
    result = evaluate(found, truth)
    for sensor in (Sensor.RGB, Sensor.IR):
        pool = pool_images(found, truth)[sensor]
        write_dota(pool, tmp_path / sensor.value)
        read = read_task1(tmp_path / sensor.value)
        objects = {Path(name).stem: as_objects(truth[name]) for name in pool.images}
        for one in result.classes:
            if one.sensor is sensor and one.num_objects:
                expected = independent.average_precisions(read, objects, one.name)
                got = (one.precision.ap50, one.precision.ap)
                np.testing.assert_allclose(got, [expected[0], np.mean(expected)], rtol=0, atol=1e-4)
