"""A run begins only after its engines have shown that they compute what they must."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from babelrs.bundle import Bundle, SelfTest, read_selftest, write_manifest, write_selftest
from babelrs.sensors import Sensor
from tests.runtime.dots import write_dots
from tests.runtime.toy_bundle import write_toy_bundle


def run(bundle: Bundle, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    write_dots(folder / "one.png", 96, 64, [(30, 20, 250)])
    command = [sys.executable, "-m", "runtime.cli", "--sensor", "ir", "--bundle", str(bundle.folder)]
    command += ["--engine", "onnxruntime", str(folder / "one.png"), "--out", str(folder / "out"), *options]
    root = Path(__file__).resolve().parents[3]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


def test_a_selftest_that_misses_ends_the_run_before_the_first_frame_with_exit_code_1(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle", {Sensor.IR: (64, 96)})
    sound = read_selftest(bundle, Sensor.IR)
    moved = SelfTest(sound.pixels, sound.boxes + 2, sound.scores, sound.labels, 1e-3, 0.05)
    write_selftest(bundle.folder / "selftest.ir.npz", moved)
    done = run(write_manifest(bundle.folder, bundle.manifest), tmp_path)
    assert done.returncode == 1, done
    assert "ir: a self-test missed its tolerance" in done.stderr and "Do not fly this bundle" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_gives_the_same_detections_with_the_crc_and_without(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle", {Sensor.IR: (64, 96)})
    found = []
    for interval in ("0.01", "0"):
        done = run(bundle, tmp_path, "--check-interval", interval)
        assert done.returncode == 0, done
        lines = (tmp_path / "out" / "detections.ir.jsonl").read_text().splitlines()
        found.append(json.loads(lines[-1])["detections"])
    assert found[0] == found[1] and len(found[0]) == 1


def test_an_interval_that_is_none_is_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    for interval in ("-1", "nan", "1e9"):
        done = run(toy_bundle, tmp_path, f"--check-interval={interval}")
        assert done.returncode == 2 and "--check-interval is" in done.stderr
