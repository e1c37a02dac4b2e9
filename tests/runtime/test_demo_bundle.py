"""The bundle in the package: sound, small, made from simulated scenes only, and of some use."""

from __future__ import annotations

from pathlib import Path

import pytest

from babelrs.bundle import Bundle, open_bundle, read_selftest, verify_files
from babelrs.detections import Detections
from babelrs.images import read_frame
from babelrs.metrics import GroundTruth, evaluate
from babelrs.sensors import Sensor
from runtime.cli import DEMO_BUNDLE
from runtime.engines import open_engine
from runtime.pipeline import Detector, Stopwatch
from runtime.selftest import run_selftest
from train.data.soi_det import read_split
from train.evaluate import ground_truth
from train.simulate import main as simulate

LARGEST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return open_bundle(DEMO_BUNDLE)


def test_its_files_are_unaltered_and_small(demo: Bundle) -> None:
    verify_files(demo)
    assert sum(file.stat().st_size for file in DEMO_BUNDLE.iterdir()) <= LARGEST_BYTES


@pytest.mark.parametrize("sensor", list(Sensor))
def test_its_self_test_passes_here(demo: Bundle, sensor: Sensor) -> None:
    result = run_selftest(open_engine(demo, sensor), read_selftest(demo, sensor))
    assert result.passed and result.num_expected > 10


def test_it_says_how_it_was_trained(demo: Bundle) -> None:
    training = demo.manifest.training
    assert training["command"] == "python -m train.finetune" and training["settings"]["seed"] == 2026
    assert set(demo.manifest.sensors) == set(Sensor)
    assert all(entry.classes == ("car", "ship", "truck") for entry in demo.manifest.sensors.values())


def test_it_finds_simulated_objects_that_it_was_not_trained_on(demo: Bundle, tmp_path: Path) -> None:
    arguments = ["--train-scenes", "0", "--eval-scenes", "8", "--size", "512", "--seed", "77"]
    assert simulate(["--out", str(tmp_path / "scenes"), *arguments]) == 0
    found: dict[str, Detections] = {}
    truth: dict[str, GroundTruth] = {}
    for sensor, samples in read_split(tmp_path / "scenes", list(Sensor), "eval").items():
        entry = demo.manifest.entry(sensor)
        detector = Detector(open_engine(demo, sensor), entry, sensor, 0.02)
        for sample in samples:
            found[sample.name], _ = detector.detect(read_frame(sample.path), Stopwatch())
            truth[sample.name] = ground_truth(sample, entry.classes)
    result = evaluate(found, truth)
    for sensor, precision in result.sensors.items():
        assert precision.ap50 > 0.3, f"{sensor}\n{result.format_table()}"
