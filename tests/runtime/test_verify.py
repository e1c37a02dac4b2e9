"""``babelrs-verify`` says of every check whether it holds, and its exit code says the worst."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from babelrs.bundle import Bundle, read_selftest, write_manifest, write_selftest
from babelrs.sensors import Sensor
from runtime.engines import open_engine
from runtime.selftest import corner_distances, run_selftest


def babelrs_verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "runtime.verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def copy(toy_bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(toy_bundle.folder, tmp_path / "copy")
    return replace(toy_bundle, folder=tmp_path / "copy")


def test_a_sound_bundle_passes_every_check(toy_bundle: Bundle) -> None:
    done = babelrs_verify(toy_bundle.folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1] == "files    ok: 7 match their SHA-256"
    assert lines[2] == "signature none"
    assert [line.split()[2] for line in lines if line.startswith("selftest ok")] == ["ir", "rgb", "sar"]
    engines = [line for line in lines if line.startswith("engine ")]
    assert len(engines) == 3 and len(lines) == 9 and "ir: onnxruntime, on the CPU" in engines[0]


def test_an_engine_that_was_not_built_is_exit_3_with_the_command_that_builds_it(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABELRS_CACHE", str(tmp_path))
    done = babelrs_verify(toy_bundle.folder, "--engine", "tensorrt")
    assert done.returncode == 3 and f"babelrs-build {toy_bundle.folder}" in done.stderr


def test_a_missed_tolerance_is_exit_1_and_the_other_sensors_are_still_checked(copy: Bundle) -> None:
    selftest = read_selftest(copy, Sensor.RGB)
    write_selftest(copy.folder / "selftest.rgb.npz", replace(selftest, scores=selftest.scores * np.float32(0.99)))
    write_manifest(copy.folder, copy.manifest)
    done = babelrs_verify(copy.folder)
    assert done.returncode == 1 and "missed its tolerance" in done.stderr
    assert "selftest FAILED: rgb" in done.stdout
    assert "selftest ok: ir" in done.stdout and "selftest ok: sar" in done.stdout


def test_altered_files_are_exit_2_and_named(copy: Bundle) -> None:
    (copy.folder / "weights.bin").write_bytes(b"\0" * 12)
    done = babelrs_verify(copy.folder)
    assert done.returncode == 2 and "weights.bin: altered" in done.stderr and "Traceback" not in done.stderr


def test_no_bundle_is_exit_2(tmp_path: Path) -> None:
    done = babelrs_verify(tmp_path / "none.babelrs")
    assert done.returncode == 2 and "none.babelrs" in done.stderr


def test_a_graph_that_does_not_load_is_exit_3(copy: Bundle) -> None:
    (copy.folder / "model.ir.onnx").write_bytes(b"")  # a model, of nothing
    write_manifest(copy.folder, copy.manifest)
    done = babelrs_verify(copy.folder)
    assert done.returncode == 3 and "model.ir.onnx" in done.stderr


def test_the_self_test_tells_how_far_the_outputs_are(toy_bundle: Bundle) -> None:
    engine, selftest = open_engine(toy_bundle, Sensor.SAR), read_selftest(toy_bundle, Sensor.SAR)
    assert run_selftest(engine, selftest).passed
    moved = selftest.boxes.copy()
    moved[0, 0, 0] += 0.04
    near = run_selftest(engine, replace(selftest, boxes=moved))
    assert near.passed and near.box_difference_px == pytest.approx(0.04, abs=1e-4)
    moved[0, 0, 0] += 0.04
    far = run_selftest(engine, replace(selftest, boxes=moved))
    assert not far.passed and far.num_missed == 1


def test_the_self_test_does_not_mind_the_order_of_near_equal_scores(toy_bundle: Bundle) -> None:
    class Swapped:
        name, precision = "swapped", "fp32"

        def infer(self, pixels: object) -> object:
            order = [1, 0, 2, 3]
            return selftest.boxes[:, order], scores[:, order], selftest.labels[:, order]

    scores = np.array([[0.9, 0.8995, 0.5, 0.1]], np.float32)
    whole = read_selftest(toy_bundle, Sensor.SAR)
    selftest = replace(
        whole,
        boxes=whole.boxes[:, :4],
        labels=np.zeros((1, 4), np.int32),
        scores=scores,
    )
    assert run_selftest(Swapped(), selftest).passed  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_fail(toy_bundle: Bundle, bad: float) -> None:
    class Broken:
        name, precision = "broken", "fp32"

        def infer(self, pixels: object) -> object:
            boxes = selftest.boxes.copy()
            boxes[0, 0, 0] = bad
            return boxes, selftest.scores, selftest.labels

    selftest = read_selftest(toy_bundle, Sensor.SAR)
    assert not run_selftest(Broken(), selftest).passed  # type: ignore[arg-type]


def test_corner_distance_knows_no_angle_boundary() -> None:
    box = np.array([50, 50, 20, 10, -np.pi / 2], np.float32)
    others = np.array(
        [[50, 50, 20, 10, np.pi / 2 - 1e-4], [50, 50, 10, 20, 0], [50, 53, 20, 10, np.pi / 2]], np.float32
    )
    assert corner_distances(box, others) == pytest.approx([0.0011, 0, 3], abs=1e-3)
