"""Faults that nobody foresaw, and memory that runs out, as processes: a safe stop, and ``--resume`` has every frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError, DeviceError
from babelrs.images import ImageError, read_frame
from runtime.unforeseen import unforeseen_ends_safely
from tests.runtime.dots import write_dots

NUM_IMAGES, AT = 9, 6
MARK = 251
"""Counts of the dot in the image at which the engine fails; no other image, and no self-test, has them."""
FORMATS = "jsonl,csv,dota,coco"

RAISING = f"""
import sys
import runtime.cli as cli
from runtime.engines.onnxruntime import OnnxRuntimeEngine
infer = OnnxRuntimeEngine.infer
def raising(self, pixels):
    if (pixels == {MARK}).any():
        raise ZeroDivisionError("the fault of a test")
    return infer(self, pixels)
OnnxRuntimeEngine.infer = raising
sys.exit(cli.main())
"""
LIMITED = """
import resource, sys
import runtime.cli as cli, runtime.rasters as rasters
opened, margin = rasters.open_raster, int(sys.argv.pop(1))
def limited(path):
    if path.stem == "5":
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + margin, resource.RLIM_INFINITY))
    return opened(path)
rasters.open_raster = limited
sys.exit(cli.main())
"""
PLAIN = "import sys, runtime.cli as cli; sys.exit(cli.main())"


def run(code: str, bundle: Bundle, images: Path, out: Path, *first: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
    options = ["--sensor", "ir", "--bundle", str(bundle.folder), "--out", str(out), "--format", FORMATS, "--resume"]
    command = [sys.executable, "-c", code, *first, str(images), *options, "--threads", "1", *more]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "MALLOC_ARENA_MAX": "1",  # memory is asked of the system when it is needed, and not long before
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    return done.returncode, done.stderr


def stems_written(out: Path) -> list[list[int]]:
    """Numbers of the images in every output, by format."""
    lines = [json.loads(line)["source"] for line in (out / "detections.ir.jsonl").read_text().splitlines()]
    rows = [line.split(",")[0] for line in (out / "detections.ir.csv").read_text().splitlines()[1:]]
    coco = json.loads((out / "detections.ir.coco.json").read_text())
    names = [found["file_name"] for found in coco]
    dota = [str(path) for path in (out / "dota.ir").glob("*.txt")]
    return [sorted(int(Path(name).stem) for name in found) for found in (lines, rows, names, dota)]


def assert_each_once(out: Path, count: int) -> None:
    assert stems_written(out) == [list(range(count))] * 4


def test_an_engine_that_raises_what_nobody_foresaw_stops_the_run_safely(toy_bundle: Bundle, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    for number in range(NUM_IMAGES):
        write_dots(images / f"{number}.png", 90, 60, [(20 + 5 * number, 30, MARK if number == AT else 240)])
    code, errors = run(RAISING, toy_bundle, images, out)
    assert code == 3 and "Traceback" not in errors
    (line,) = errors.splitlines()
    assert "not foreseen, in raising, line" in line and "ZeroDivisionError: the fault of a test" in line
    assert_each_once(out, AT)
    code, errors = run(RAISING, toy_bundle, images, out, more=("--verbose",))
    assert code == 3 and errors.count("Traceback") == 1, "for who asks for more"
    assert_each_once(out, AT)
    code, errors = run(PLAIN, toy_bundle, images, out)
    assert (code, errors) == (0, "")
    assert_each_once(out, NUM_IMAGES)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
@pytest.mark.parametrize(
    ("margin", "suffix"),
    [(2_000_000, "png"), (2_000_000, "jpg"), (2_000_000, "tif"), (17_000_000, "png"), (-20_000_000, "png")],
)
def test_memory_that_runs_out_stops_the_run_safely_and_costs_no_image(
    margin: int, suffix: str, toy_bundle: Bundle, tmp_path: Path
) -> None:
    """The small images fit and the large ones do not: while they are decoded, then while they are looked at; the last
    has less memory than the run holds already, and ends wherever it next needs some."""
    images, out = tmp_path / "images", tmp_path / "out"
    for number in range(7):
        width, height = (90, 60) if number < 5 else (3000, 2500)
        write_dots(images / f"{number}.{suffix}", width, height, [(20 + 5 * number, 30, 240)])
    code, errors = run(LIMITED, toy_bundle, images, out, str(margin))
    assert code == 3 and "Traceback" not in errors, errors
    assert len(errors.splitlines()) == 1 and "memory" in errors.lower(), errors
    if margin > 0:
        assert stems_written(out)[0] == list(range(5))
    code, errors = run(PLAIN, toy_bundle, images, out)
    assert (code, errors) == (0, "")
    assert_each_once(out, 7)


def test_an_image_is_not_blamed_for_memory_that_is_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    def lacking(*arguments: object) -> None:
        error = cv2.error("Insufficient memory")
        error.code = cv2.Error.StsNoMem
        raise error

    path = write_dots(tmp_path / "sound.png", 90, 60, [])
    monkeypatch.setattr(cv2, "imdecode", lacking)
    with pytest.raises(MemoryError, match=r"sound\.png"):
        read_frame(path)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: None)
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_frame(path)


def test_errors_of_the_users_pass_and_interrupts_too() -> None:
    for error in (BabelRSError("what", "remedy"), KeyboardInterrupt(), SystemExit(4)):
        with pytest.raises(type(error)) as raised, unforeseen_ends_safely():
            raise error
        assert raised.value is error
    with pytest.raises(DeviceError, match=r"KeyError: 'x'\. --resume goes on"), unforeseen_ends_safely():
        raise KeyError("x")
