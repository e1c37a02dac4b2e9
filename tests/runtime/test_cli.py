"""``babelrs-run`` as its users meet it: a process, its exit code, its messages and the files it leaves."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.boxes import from_corners, rotated_iou
from babelrs.bundle import Bundle, pack_bundle
from tests.runtime.dots import write_dots
from tests.runtime.toy_bundle import BOX, CLASSES

DOTS = [(30, 20, 250), (70, 44, 160), (12, 50, 210)]


def babelrs_run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "runtime.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("."), "no remedy at the end"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_dots(folder / "scene10.png", 96, 64, DOTS)
    write_dots(folder / "scene2.png", 96, 64, DOTS[:1])
    write_dots(folder / "sub" / "scene2.png", 50, 40, [])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_gives_every_result_file(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    options = ("--sensor", "ir", "--bundle", toy_bundle.folder, "--format", "jsonl,dota,coco", "--save-images")
    done = babelrs_run(images, "--out", out, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 images" in done.stdout and "bright-dot 3, dim dot 1" in done.stdout
    assert "images/s" in done.stdout and "median ms: read" in done.stdout
    assert "ir: engine onnxruntime fp32: on the CPU" in done.stdout

    lines = records(out / "detections.ir.jsonl")
    assert [Path(str(line["source"])).relative_to(images).as_posix() for line in lines] == [
        "scene2.png",
        "scene10.png",
        "sub/scene2.png",
    ]
    assert sorted(path.name for path in (out / "dota.ir").iterdir()) == ["scene10.txt", "scene2.txt", "sub__scene2.txt"]
    assert sorted(path.name for path in (out / "images.ir").iterdir()) == [
        "scene10.jpg",
        "scene2.jpg",
        "sub__scene2.jpg",
    ]
    assert_formats_agree(out, lines)


def assert_formats_agree(out: Path, lines: list[dict[str, object]]) -> None:
    coco = json.loads((out / "detections.ir.coco.json").read_text())
    for number, line in enumerate(lines):
        detections = line["detections"]
        assert isinstance(detections, list)
        name = "__".join(Path(str(line["source"])).with_suffix("").parts[-1 - (number == 2) :])
        rows = [row.split() for row in (out / "dota.ir" / f"{name}.txt").read_text().splitlines()]
        entries = [entry for entry in coco if entry["image_id"] == number + 1]
        assert len(rows) == len(entries) == len(detections)
        for found, row, entry in zip(detections, rows, entries, strict=True):
            polygon = np.array(found["polygon"])
            assert np.allclose(polygon.reshape(-1), [float(value) for value in row[:8]], atol=0.01)
            assert row[8] == found["label"].replace(" ", "-") and float(row[9]) == pytest.approx(found["score"])
            x, y, width, height = entry["bbox"]
            assert np.allclose([x, y, x + width, y + height], [*polygon.min(axis=0), *polygon.max(axis=0)], atol=0.01)
            assert entry["category_id"] == CLASSES.index(found["label"]) + 1
            assert (
                entry["score"] == pytest.approx(found["score"]) and entry["file_name"] == Path(str(line["source"])).name
            )
            box = np.array([found["obb"]], np.float32)
            assert rotated_iou(box, from_corners(polygon[None]))[0, 0] > 0.999


def test_a_json_line_has_the_documented_fields_and_the_truth(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    babelrs_run("--sensor", "ir", images / "scene10.png", "--bundle", toy_bundle.folder, "--out", tmp_path)
    (line,) = records(tmp_path / "detections.ir.jsonl")
    head = ["schema", "source", "frame", "time", "sensor", "width", "height"]
    assert list(line) == [*head, "engine", "precision", "latency_ms", "detections"]
    assert line["schema"] == "babelrs.detections/1" and line["sensor"] == "ir" and line["frame"] == 0
    assert (line["width"], line["height"], line["engine"], line["precision"]) == (96, 64, "onnxruntime", "fp32")
    latency = line["latency_ms"]
    assert isinstance(latency, dict) and list(latency) == ["read", "preprocess", "infer", "postprocess"]
    assert all(value >= 0 for value in latency.values())
    found = line["detections"]
    assert isinstance(found, list)
    assert [(item["label"], item["score"], item["obb"]) for item in found] == [
        (CLASSES[counts >= 200], pytest.approx(counts / 255, abs=1e-5), pytest.approx([x, y, *BOX], abs=1e-3))
        for x, y, counts in sorted(DOTS, key=lambda dot: -dot[2])
    ]
    assert all(len(item["polygon"]) == 4 and -math.pi / 2 <= item["obb"][4] < math.pi / 2 for item in found)


def test_the_score_option_replaces_the_bundles_threshold(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    for score, expected in (("0.9", 1), ("0.7", 2), ("0.06", 4)):
        babelrs_run(
            "--sensor", "ir", images / "scene10.png", "--bundle", toy_bundle.folder, "--out", tmp_path, "--score", score
        )
        (line,) = records(tmp_path / "detections.ir.jsonl")
        found = line["detections"]
        assert isinstance(found, list)
        assert len(found) == expected if score != "0.06" else len(found) >= expected


def test_an_archive_and_several_sensors_share_one_output_folder(
    toy_bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABELRS_CACHE", str(tmp_path / "cache"))
    archive = pack_bundle(toy_bundle, tmp_path / "toy.babelrs")
    for sensor in ("sar", "RGB"):
        done = babelrs_run("--sensor", sensor, images / "scene2.png", "--bundle", archive, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
    expected = {"detections.sar.jsonl", "detections.rgb.jsonl", "run.journal"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


def test_sources_may_stand_on_both_sides_of_options(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    first, second = images / "scene10.png", images / "scene2.png"
    done = babelrs_run(first, "--sensor", "ir", second, "--bundle", toy_bundle.folder, "--out", tmp_path)
    assert done.returncode == 0 and "2 images" in done.stdout, done.stderr


def test_a_pattern_is_expanded_and_quiet_is_quiet(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    done = babelrs_run(
        "--sensor", "ir", images / "**" / "scene2.*", "--bundle", toy_bundle.folder, "--out", tmp_path, "--quiet"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(records(tmp_path / "detections.ir.jsonl")) == 2


def test_a_bad_image_among_good_ones_is_reported_counted_and_skipped(
    toy_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    whole = (images / "scene2.png").read_bytes()
    (images / "broken.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.jpg").write_bytes(b"")
    cv2.imwrite(str(images / "colour.png"), np.arange(300, dtype=np.uint8).reshape(10, 10, 3) * 7 % 251)
    done = babelrs_run(
        "--sensor", "ir", images, "--bundle", toy_bundle.folder, "--out", tmp_path, "--format", "jsonl,coco"
    )
    assert done.returncode == 0
    assert "3 images" in done.stdout and "3 skipped (band count 1, empty 1, truncated 1)" in done.stdout
    for name in ("broken.png", "empty.jpg", "colour.png"):
        assert done.stderr.count(str(images / name)) == 1
    assert len(records(tmp_path / "detections.ir.jsonl")) == 3
    assert {entry["file_name"] for entry in json.loads((tmp_path / "detections.ir.coco.json").read_text())} == {
        "scene2.png",
        "scene10.png",
    }


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"GIF89a", "not a PNG"), (b"\xff\xd8\xff\xe0\0\x10JFIF", "truncated")],
)
def test_a_run_without_any_usable_image_fails(toy_bundle: Bundle, tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    done = babelrs_run("--sensor", "ir", tmp_path / "bad.jpg", "--bundle", toy_bundle.folder, "--out", tmp_path / "out")
    assert_refused(done, "bad.jpg", word, "None of the 1 images")


def test_a_file_name_that_is_no_text_has_results_in_every_format(toy_bundle: Bundle, tmp_path: Path) -> None:
    write_dots(tmp_path / "dots.png", 96, 64, DOTS)
    odd = os.fsdecode(bytes(tmp_path / "odd-") + b"\xff.png")
    try:
        os.rename(tmp_path / "dots.png", odd)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    formats = "jsonl,dota,coco,csv,geojson"
    done = babelrs_run(
        "--sensor", "ir", odd, "--bundle", toy_bundle.folder, "--out", tmp_path, "--format", formats, "--save-images"
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr and "1 images" in done.stdout
    (line,) = records(tmp_path / "detections.ir.jsonl")
    assert str(line["source"]).endswith("odd-\\udcff.png") and line["detections"]
    assert "odd-\\udcff.png" in (tmp_path / "detections.ir.csv").read_text()


def test_the_wrong_number_of_bands_names_file_and_sensor(toy_bundle: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "colour.png"), np.arange(300, dtype=np.uint8).reshape(10, 10, 3) * 7 % 251)
    done = babelrs_run("--sensor", "sar", tmp_path / "colour.png", "--bundle", toy_bundle.folder, "--out", tmp_path)
    assert_refused(done, "colour.png", "3 bands that differ", "sensor sar takes 1")


def test_sources_that_hold_nothing_are_all_listed(toy_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = babelrs_run(
        "--sensor", "ir", tmp_path / "none", tmp_path / "x.png", tmp_path / "*.tif", "--bundle", toy_bundle.folder
    )
    assert_refused(done, "none: a folder without", "x.png: no such file", "*.tif: no image file matches")


def test_an_unknown_sensor_is_answered_with_those_there_are(images: Path) -> None:
    assert_refused(babelrs_run("--sensor", "lidar", images), "'lidar'", "rgb, sar, ir")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--format", "jsonl,xml"], "xml"),
        (["--format", ","], "--format"),
        (["--score", "1.5"], "1.5"),
        (["--score", "nan"], "nan"),
        (["--batch", "0"], "--batch"),
        (["--batch", "1000000"], "0 to 1024"),
        (["--threads", "100000", "--quiet"], "0 to 1024"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(
    images: Path, tmp_path: Path, arguments: list[str], word: str
) -> None:
    assert_refused(babelrs_run("--sensor", "ir", images, "--out", tmp_path / "out", *arguments), word)
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_parse_are_a_user_error(images: Path) -> None:
    assert babelrs_run("--sensor", "ir").returncode == 2
    assert babelrs_run("--sensor", "ir", images, "--engine", "warp").returncode == 2
    assert babelrs_run(images).returncode == 2


def test_a_missing_bundle_is_named(images: Path, tmp_path: Path) -> None:
    assert_refused(babelrs_run("--sensor", "ir", images, "--bundle", tmp_path / "none"), str(tmp_path / "none"))
    assert_refused(babelrs_run("--sensor", "ir", images, "--bundle", images), "manifest.json")


def test_a_sensor_the_bundle_lacks_is_answered_with_those_it_has(images: Path, tmp_path: Path) -> None:
    from babelrs.sensors import Sensor
    from tests.runtime.toy_bundle import write_toy_bundle

    bundle = write_toy_bundle(tmp_path / "bundle", {Sensor.IR: (64, 64)})
    done = babelrs_run("--sensor", "sar", images, "--bundle", bundle.folder, "--out", tmp_path / "out")
    assert_refused(done, "no model for sensor sar", "It has: ir")


@pytest.mark.parametrize("name", ["weights.bin", "model.ir.onnx", "selftest.sar.npz"])
@pytest.mark.parametrize("fault", ["missing", "altered"])
def test_a_missing_or_altered_bundle_file_is_named(
    toy_bundle: Bundle, images: Path, tmp_path: Path, name: str, fault: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_bundle.folder, copy)
    if fault == "missing":
        (copy / name).unlink()
    else:
        data = bytearray((copy / name).read_bytes())
        data[0] ^= 1
        (copy / name).write_bytes(data)
    done = babelrs_run("--sensor", "ir", images, "--bundle", copy, "--out", tmp_path / "out")
    assert_refused(done, f"{name}: {fault}")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_named(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = babelrs_run("--sensor", "ir", images, "--bundle", toy_bundle.folder, "--out", tmp_path / "file" / "out")
    assert_refused(done, str(tmp_path / "file" / "out"), "cannot be written")
    (tmp_path / "out" / "detections.ir.jsonl").mkdir(parents=True)
    done = babelrs_run("--sensor", "ir", images, "--bundle", toy_bundle.folder, "--out", tmp_path / "out")
    assert_refused(done, "detections.ir.jsonl", "cannot be written")


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(images: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from babelrs.bundle import write_manifest
    from babelrs.sensors import Sensor
    from tests.runtime.toy_bundle import write_toy_bundle

    bundle = write_toy_bundle(tmp_path / "bundle", {Sensor.IR: (64, 64)})
    sensors = {Sensor.IR: replace(bundle.manifest.entry(Sensor.IR), input_width=128)}
    write_manifest(bundle.folder, replace(bundle.manifest, sensors=sensors))
    assert_refused(babelrs_run("--sensor", "ir", images, "--bundle", bundle.folder), "model.ir.onnx", "128")
    (bundle.folder / "model.ir.onnx").write_bytes(b"no graph")
    write_manifest(bundle.folder, bundle.manifest)
    assert_refused(
        babelrs_run("--sensor", "ir", images, "--bundle", bundle.folder), "model.ir.onnx", "Not an ONNX file"
    )
    (bundle.folder / "model.ir.onnx").write_bytes(b"")  # a model, of nothing
    write_manifest(bundle.folder, bundle.manifest)
    done = babelrs_run("--sensor", "ir", images, "--bundle", bundle.folder)
    assert done.returncode == 3 and "model.ir.onnx" in done.stderr and "Traceback" not in done.stderr


def test_help_states_the_exit_codes_and_loads_nothing_heavy() -> None:
    done = babelrs_run("--help")
    assert done.returncode == 0 and "Exit codes" in done.stdout and "--save-images" in done.stdout
    assert "jsonl,geojson,dota,coco,csv" in done.stdout and "onnxruntime,tensorrt" in done.stdout
    code = (
        "import sys\n"
        "from runtime.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'onnxruntime', 'cv2', 'numpy', 'rasterio'} & set(sys.modules)\n"
        "sys.exit(','.join(heavy) or 0)"
    )
    root = Path(__file__).resolve().parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert (loaded.returncode, loaded.stderr) == (0, "")


def test_a_run_loads_neither_torch_nor_matplotlib(toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    arguments = [
        "--sensor",
        "ir",
        str(images),
        "--bundle",
        str(toy_bundle.folder),
        "--out",
        str(tmp_path),
        "--save-images",
    ]
    code = (
        "import sys\n"
        "from runtime.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "heavy = {'torch', 'matplotlib', 'transformers', 'timm', 'rasterio', 'onnx'} & set(sys.modules)\n"
        "sys.exit(','.join(heavy) or 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
