"""The command line of the simulator: layout on disk, determinism, bad input."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from babelrs.errors import run_command
from train import simulate

_DOTA_LINE = re.compile(r"^(-?\d+\.\d ){8}(ship|car|truck) [01]$")
_ANNOTATION_FOLDERS = {
    ("rgb", "train"): "DOTA_800pix/train",
    ("rgb", "eval"): "DOTA_800pix/val",
    ("ir", "train"): "DroneVehicle/dota_train",
    ("ir", "eval"): "DroneVehicle/dota_test",
}


def run(out: Path, *arguments: str) -> int:
    return run_command(simulate.main, ["--out", str(out), *arguments])


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "set"
    assert run(out, "--train-scenes", "9", "--eval-scenes", "3", "--size", "320x256", "--seed", "3") == 0
    return out


def descriptions(dataset: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dataset / "descriptions.jsonl").read_text().splitlines()]


def test_the_same_seed_gives_the_same_bytes_on_one_process_and_on_two(tmp_path: Path) -> None:
    arguments = ("--train-scenes", "3", "--eval-scenes", "2", "--size", "128", "--seed", "11")
    assert run(tmp_path / "one", *arguments, "--workers", "1") == 0
    assert run(tmp_path / "two", *arguments, "--workers", "2") == 0
    assert len(hashes(tmp_path / "one")) == 3 * 5 + 2 * 5 + 4
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_another_seed_gives_other_scenes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        assert run(tmp_path / seed, "--train-scenes", "1", "--eval-scenes", "1", "--size", "96", "--seed", seed) == 0
    first, second = hashes(tmp_path / "1"), hashes(tmp_path / "2")
    images = [name for name in first if name.endswith((".png", ".tif"))]
    assert len({first[name] for name in images} | {second[name] for name in images}) == 2 * len(images)


def test_a_scene_depends_neither_on_other_scenes_nor_on_other_sensors(tmp_path: Path) -> None:
    assert run(tmp_path / "all", "--train-scenes", "3", "--eval-scenes", "1", "--size", "96") == 0
    assert run(tmp_path / "ir", "--train-scenes", "1", "--eval-scenes", "0", "--size", "96", "--sensors", "ir") == 0
    few, many = hashes(tmp_path / "ir"), hashes(tmp_path / "all")
    name = "DroneVehicle/dota_train/png_images/sim_train_000000.png"
    assert few[name] == many[name]
    assert not any(path.startswith(("DOTA", "SARDet")) for path in few)


def test_images_have_the_size_and_type_of_their_sensor(dataset: Path) -> None:
    for entry in descriptions(dataset):
        image = cv2.imread(str(dataset / entry["image"]), cv2.IMREAD_UNCHANGED)
        assert image is not None, entry["image"]
        dtype, bands = {"rgb": (np.uint8, 3), "ir": (np.uint16, 1), "sar": (np.float32, 1)}[entry["sensor"]]
        assert image.dtype == dtype
        assert image.shape == ((256, 320, 3) if bands == 3 else (256, 320))


def test_annotations_parse_and_count_as_described(dataset: Path) -> None:
    counted = {(entry["sensor"], entry["split"], Path(entry["image"]).name): entry for entry in descriptions(dataset)}
    assert len(counted) == 12 * 3
    for (sensor, split, name), entry in counted.items():
        assert Counter(item["class"] for item in entry["objects"]) == entry["counts"]
        for label, number in entry["counts"].items():
            assert f"{number} {label}" in entry["text"]
        if sensor == "sar":
            continue
        lines = (dataset / _ANNOTATION_FOLDERS[sensor, split] / "annfiles" / f"{Path(name).stem}.txt").read_text()
        assert all(_DOTA_LINE.match(line) for line in lines.splitlines()), lines
        assert Counter(line.split()[8] for line in lines.splitlines()) == entry["counts"]


def test_coco_files_match_the_images_and_descriptions(dataset: Path) -> None:
    named = {Path(entry["image"]).name: entry for entry in descriptions(dataset) if entry["sensor"] == "sar"}
    seen = 0
    for split, name in (("train", "after_merge_train.json"), ("eval", "after_merge_test.json")):
        document = json.loads((dataset / "SARDet_50K" / "Annotations" / name).read_text())
        classes = {category["id"]: category["name"] for category in document["categories"]}
        images = {image["id"]: image for image in document["images"]}
        assert len({a["id"] for a in document["annotations"]}) == len(document["annotations"])
        counts: dict[int, Counter[str]] = {image_id: Counter() for image_id in images}
        for annotation in document["annotations"]:
            x, y, width, height = annotation["bbox"]
            assert width > 0 and height > 0
            assert x >= 0 and y >= 0 and x + width <= 320.1 and y + height <= 256.1
            counts[annotation["image_id"]][classes[annotation["category_id"]]] += 1
        for image_id, image in images.items():
            assert (image["width"], image["height"]) == (320, 256)
            assert named[image["file_name"]]["split"] == split
            assert counts[image_id] == named[image["file_name"]]["counts"]
            seen += 1
    assert seen == len(named) == 12


def test_the_record_repeats_the_arguments(dataset: Path) -> None:
    record = json.loads((dataset / "simulation.json").read_text())
    assert record["schema"] == "babelrs.simulation/1"
    assert record["arguments"]["seed"] == 3
    assert (record["arguments"]["width_px"], record["arguments"]["height_px"]) == (320, 256)


def test_it_starts_without_torch_or_pydantic() -> None:
    code = "import sys, train.simulate; print([m for m in ('torch', 'pydantic', 'rasterio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--size", "many"], "'many'"),
        (["--size", "12"], "'12'"),
        (["--size", "640x"], "'640x'"),
        (["--size", "640x480x3"], "'640x480x3'"),
        (["--size", "64x30000"], "'64x30000'"),
        (["--train-scenes", "-1"], "--train-scenes -1"),
        (["--eval-scenes", "-2"], "--eval-scenes -2"),
        (["--train-scenes", "x"], "--train-scenes"),
        (["--train-scenes", "0", "--eval-scenes", "0"], "No scenes"),
        (["--sensors", "rgb,lidar"], "'lidar'"),
        (["--sensors", ","], "--sensors"),
        (["--seed", "-4"], "--seed -4"),
        (["--looks", "0"], "--looks 0.0"),
        (["--looks", "nan"], "--looks nan"),
        (["--gsd", "0"], "--gsd 0.0"),
        (["--workers", "0"], "--workers 0"),
        (["--colour", "blue"], "--colour"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert run(tmp_path / "out", *arguments) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "out", "--train-scenes", "1") == 2
    assert "Cannot write" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert run(tmp_path, "--train-scenes", "1") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(tmp_path, "--train-scenes", "1", "--overwrite") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_an_earlier_simulation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "--train-scenes", "2", "--eval-scenes", "0", "--size", "64") == 0
    assert run(out, "--train-scenes", "1", "--eval-scenes", "0", "--size", "64", "--overwrite") == 0
    assert run(tmp_path / "fresh", "--train-scenes", "1", "--eval-scenes", "0", "--size", "64") == 0
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_geotiffs_carry_a_coordinate_system_and_the_scale(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the geo extra")
    arguments = ("--train-scenes", "1", "--eval-scenes", "0", "--size", "96x64", "--gsd", "0.5", "--geotiff")
    assert run(tmp_path / "out", *arguments) == 0
    for sensor, bands in (("rgb", 3), ("sar", 1), ("ir", 1)):
        with rasterio.open(tmp_path / "out" / "geotiff" / sensor / "train" / "sim_train_000000.tif") as image:
            assert (image.count, image.width, image.height) == (bands, 96, 64)
            assert image.crs.is_projected
            assert (image.transform.a, image.transform.e) == (0.5, -0.5)


def test_geotiffs_without_rasterio_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert run(tmp_path / "out", "--train-scenes", "1", "--geotiff") == 2
    assert "babelrs[geo]" in capsys.readouterr().err


def test_a_run_that_broke_off_can_be_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("train.simulation.scenes.annotate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(out, "--train-scenes", "1", "--size", "64")
    assert not (out / "descriptions.jsonl").exists()
    assert run(out, "--train-scenes", "1", "--eval-scenes", "0", "--size", "64", "--overwrite") == 0
