"""Processes that are killed, run out of disk or meet another, and what ``--resume`` makes of what they left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babelrs.bundle import Bundle
from tests.runtime.dots import write_dots

NUM_IMAGES = 60


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(NUM_IMAGES):
        write_dots(tmp_path / "images" / f"{number}.png", 400, 300, [(20 + 5 * number, 30, 250)])
    return tmp_path / "images"


def start(bundle: Bundle, source: str, out: Path, *more: str) -> subprocess.Popen[str]:
    options = ["--sensor", "ir", "--bundle", str(bundle.folder), "--out", str(out), "--format", "jsonl,csv,dota"]
    command = [sys.executable, "-m", "runtime.cli", source, *options, "--threads", "1", "--resume", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def num_lines(out: Path) -> int:
    path = out / "detections.ir.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(out: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while num_lines(out) < count:
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.01)


def assert_each_once(out: Path) -> None:
    lines = [json.loads(line) for line in (out / "detections.ir.jsonl").read_text().splitlines()]
    assert sorted(Path(line["source"]).stem for line in lines) == sorted(str(number) for number in range(NUM_IMAGES))
    assert [line["frame"] for line in lines] == list(range(NUM_IMAGES))
    rows = (out / "detections.ir.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(line["detections"]) for line in lines)
    assert len([path for path in (out / "dota.ir").iterdir() if path.suffix == ".txt"]) == NUM_IMAGES


@pytest.mark.parametrize("kind", ["folder", "spool"])
def test_a_killed_run_goes_on_and_has_every_image_once(
    kind: str, toy_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", f"spool:{images}" if kind == "spool" else str(images)
    running = start(toy_bundle, source, out)
    wait_for(out, 3, running)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    running = start(toy_bundle, source, out)
    if kind == "spool":
        wait_for(out, NUM_IMAGES, running)
        running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 0 and "by the run before" in output, errors
    assert_each_once(out)


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_is_not_disturbed(
    toy_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    first = start(toy_bundle, f"spool:{images}", tmp_path / "out")
    wait_for(tmp_path / "out", 1, first)
    second = start(toy_bundle, f"spool:{images}", tmp_path / "out")
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2 and "another run writes to this folder" in errors
    wait_for(tmp_path / "out", NUM_IMAGES, first)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert_each_once(tmp_path / "out")


def test_a_full_disk_ends_the_run_with_2_and_it_goes_on_once_there_is_space(
    toy_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    """A process that may write so many bytes a file; once the output does not fit, once the journal."""
    out = tmp_path / "out"
    for most in (2_500, 9_000):
        code = (
            "import resource, signal, sys\n"
            "from runtime.cli import main\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        options = [
            "--sensor",
            "ir",
            "--bundle",
            str(toy_bundle.folder),
            "--out",
            str(out),
            "--format",
            "jsonl,csv,dota",
        ]
        command = [sys.executable, "-c", code, str(images), *options, "--threads", "1", "--resume"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    before = num_lines(out)
    running = start(toy_bundle, str(images), out)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 0 and 0 < before < NUM_IMAGES, errors
    assert_each_once(out)
