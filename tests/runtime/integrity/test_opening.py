"""A run begins only after its engines have shown that they compute what they must."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from babelrs.bundle import Bundle, SelfTest, read_selftest, write_manifest, write_selftest
from babelrs.sensors import Sensor
from runtime.integrity.opening import open_guarded
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


def test_by_default_float_weights_are_watched_and_int8_ones_are_not(tmp_path: Path) -> None:
    """The manifest's precision decides; who asks for an interval has it for any graph."""
    bundle = write_toy_bundle(tmp_path / "bundle", {Sensor.IR: (64, 96)})
    manifest = bundle.manifest
    entry = replace(manifest.entry(Sensor.IR), precision="int8")
    int8 = write_manifest(bundle.folder, replace(manifest, sensors={Sensor.IR: entry}))
    assert open_guarded(bundle, Sensor.IR, "onnxruntime").watched_bytes > 0
    assert open_guarded(int8, Sensor.IR, "onnxruntime").watched_bytes == 0
    assert open_guarded(int8, Sensor.IR, "onnxruntime", check_interval_s=5.0).watched_bytes > 0
