from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.boxes import from_coco, rotated_iou
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from tests.train.builders import SAR_IMAGES, TEXT_FOLDERS, coco, dota_line, write_sar, write_text_image
from train.data.samples import check_classes, class_list
from train.data.soi_det import parse_dota, read_split

BOX = [25.0, 20.0, 16.0, 6.0, 0.4]
OTHER = [12.0, 30.0, 9.0, 9.0, -1.2]
Content = dict[str, Any]


def faults_of(root: Path, sensors: list[Sensor], split: str = "train") -> list[str]:
    """The lines of the one error that reading raises."""
    with pytest.raises(BabelRSError) as caught:
        read_split(root, sensors, split)  # type: ignore[arg-type]
    assert caught.value.remedy and caught.value.exit_code == 2
    return [line for line in str(caught.value).splitlines() if line.startswith("  - ")]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("sensor", [Sensor.RGB, Sensor.IR])
def test_dota_text_is_read_from_the_release_and_from_its_small_copy(
    tmp_path: Path, sensor: Sensor, split: str, suffix: str
) -> None:
    lines = ["imagesource:GoogleEarth", "gsd:0.12", "", dota_line(BOX, "large vehicle", 0), dota_line(OTHER, "ship", 1)]
    image, _ = write_text_image(tmp_path, sensor, split, "b", lines, suffix=suffix)
    write_text_image(tmp_path, sensor, split, "a", [], suffix=suffix)
    empty, sample = read_split(tmp_path, [sensor], split)[sensor]  # type: ignore[arg-type]
    assert (empty.path.stem, len(empty.names), empty.boxes.shape, empty.ignore.shape) == ("a", 0, (0, 5), (0,))
    assert sample.path == image and sample.sensor is sensor and sample.name == f"{sensor.value}/b{suffix}"
    assert sample.names == ("large vehicle", "ship") and sample.ignore.tolist() == [False, True]
    overlap = rotated_iou(sample.boxes, np.array([BOX, OTHER], np.float32))
    assert overlap[0, 0] > 0.999 and overlap[1, 1] > 0.999 and sample.boxes.dtype == np.float32


@pytest.mark.parametrize(
    ("tail", "name", "ignored"),
    [
        ("ship 0", "ship", False),
        ("ship 1", "ship", True),
        ("ship 2", "ship", True),
        ("ship", "ship", False),
        ("small vehicle 1", "small vehicle", True),
        ("small vehicle", "small vehicle", False),
        ("storage-tank  0 ", "storage-tank", False),
    ],
)
def test_class_names_may_hold_spaces_and_the_flag_may_be_missing(
    tmp_path: Path, tail: str, name: str, ignored: bool
) -> None:
    text = tmp_path / "a.txt"
    text.write_text(f"{dota_line(BOX, '', None)}{tail}\r\n")
    sample, faults = parse_dota(text, tmp_path / "a.png", Sensor.RGB)
    assert faults == [] and sample.names == (name,) and sample.ignore.tolist() == [ignored]


def test_coco_json_is_read_with_its_own_ids_and_crowds(tmp_path: Path) -> None:
    content = coco({"b.png": [[5, 6, 20, 8], [1, 2, 4, 12]], "a.jpg": []})
    content["annotations"][1]["iscrowd"] = 1
    content["categories"].append({"id": 2, "name": "harbor crane"})
    content["annotations"].append({"image_id": 100, "category_id": 2, "bbox": [30, 20, 5, 5]})  # no id of its own
    write_sar(tmp_path, "eval", content)
    first, second = read_split(tmp_path, [Sensor.SAR], "eval")[Sensor.SAR]
    assert (first.path.name, len(first.names)) == ("a.jpg", 0)
    assert second.names == ("vehicle", "vehicle", "harbor crane") and second.ignore.tolist() == [False, True, False]
    np.testing.assert_array_equal(second.boxes, from_coco(np.array([[5, 6, 20, 8], [1, 2, 4, 12], [30, 20, 5, 5]])))
    assert second.boxes[1, 4] == np.float32(-np.pi / 2) and second.path == tmp_path / SAR_IMAGES / "b.png"


def test_both_sar_splits_share_one_folder_of_images(tmp_path: Path) -> None:
    write_sar(tmp_path, "train", coco({"a.png": [[5, 6, 20, 8]]}))
    write_sar(tmp_path, "eval", coco({"b.png": [[5, 6, 20, 8]]}))
    assert [s.path.name for s in read_split(tmp_path, [Sensor.SAR], "train")[Sensor.SAR]] == ["a.png"]
    assert [s.path.name for s in read_split(tmp_path, [Sensor.SAR], "eval")[Sensor.SAR]] == ["b.png"]


GOOD = dota_line(BOX, "Car", 0)
NUMBERS = GOOD.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (" ".join(["nan", *NUMBERS[1:]]), "NaN"),
        (" ".join(["inf", *NUMBERS[1:]]), "infinite"),
        (" ".join(["1e300", *NUMBERS[1:]]), "1e300"),
        (" ".join(NUMBERS[:8]), "8 fields"),
        (" ".join(NUMBERS[:5]), "5 fields"),
        ("x " + " ".join(NUMBERS[1:]), "not a number"),
        ("10 10 10 10 10 10 10 10 Car 0", "no area"),
        ("0 0 10 10 20 20 5 5 Car 0", "no area"),
    ],
)
def test_each_fault_of_a_line_is_named_with_file_and_number(tmp_path: Path, line: str, words: str) -> None:
    _, text = write_text_image(tmp_path, Sensor.IR, "train", "a", [GOOD, line, GOOD])
    (fault,) = faults_of(tmp_path, [Sensor.IR])
    assert f"{text}:2:" in fault and words in fault and line[:20].strip() in fault


def test_a_missing_image_a_missing_annotation_and_unreadable_text_are_named(tmp_path: Path) -> None:
    image, _ = write_text_image(tmp_path, Sensor.RGB, "train", "a", [GOOD])
    _, lonely = write_text_image(tmp_path, Sensor.RGB, "train", "b", [GOOD])
    _, binary = write_text_image(tmp_path, Sensor.RGB, "train", "c", [GOOD])
    binary.write_bytes(b"\xff\xfe\x00\x81" * 10)
    (image.parent / "b.png").unlink()
    shutil.copy(image, image.parent / "d.png")
    faults = faults_of(tmp_path, [Sensor.RGB])
    assert len(faults) == 3
    for path in (lonely, binary, image.parent / "d.png"):
        assert sum(str(path) in fault for fault in faults) == 1, path


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    image, _ = write_text_image(tmp_path, Sensor.IR, "train", "a", [GOOD])
    shutil.copy(image, image.with_suffix(".jpg"))
    (fault,) = faults_of(tmp_path, [Sensor.IR])
    assert "a.jpg" in fault and "a.png" in fault


def test_a_missing_root_folder_or_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match=r"no data folder .*nowhere"):
        read_split(tmp_path / "nowhere", [Sensor.RGB], "train")
    faults = faults_of(tmp_path, [Sensor.RGB, Sensor.IR, Sensor.SAR])
    for folder in (*TEXT_FOLDERS[Sensor.RGB, "train"], *TEXT_FOLDERS[Sensor.IR, "train"], "after_merge_train.json"):
        assert any(folder in fault for fault in faults), folder


@pytest.mark.parametrize("sensor", [Sensor.RGB, Sensor.SAR])
def test_an_empty_split_is_refused(tmp_path: Path, sensor: Sensor) -> None:
    if sensor is Sensor.SAR:
        write_sar(tmp_path, "train", coco({}))
    else:
        for folder in TEXT_FOLDERS[sensor, "train"]:
            (tmp_path / folder).mkdir(parents=True)
    (fault,) = faults_of(tmp_path, [sensor])
    assert sensor.value in fault and "empty" in fault


def _set(index: int, key: str, value: object) -> Callable[[Content], None]:
    return lambda content: content["annotations"][index].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(0, "bbox", [float("nan"), 1, 5, 5]), ["annotation 1", "finite"]),
        (_set(0, "bbox", [1, 1, float("inf"), 5]), ["annotation 1", "finite"]),
        (_set(0, "bbox", [1, 1, 1e300, 5]), ["annotation 1", "1e+300"]),
        (_set(1, "bbox", [1, 1, 5]), ["annotation 2", "four"]),
        (_set(1, "bbox", ["1", 1, 5, 5]), ["annotation 2", "four"]),
        (_set(1, "bbox", None), ["annotation 2", "None"]),
        (_set(1, "bbox", [1, 1, 0, 5]), ["annotation 2", "no area"]),
        (_set(1, "bbox", [1, 1, 5, -3]), ["annotation 2", "no area"]),
        (_set(0, "category_id", 77), ["annotation 1", "category_id 77"]),
        (_set(0, "category_id", [9]), ["annotation 1", "category_id"]),
        (_set(0, "image_id", 77), ["annotation 1", "image_id 77"]),
        (_set(0, "image_id", {}), ["annotation 1", "image_id"]),
        (lambda c: c["annotations"].__setitem__(0, 5), ["annotation 5"]),
        (lambda c: c["images"][1].__setitem__("id", 100), ["image id 100", "more than once"]),
        (lambda c: c["images"].append({**c["images"][0], "id": 999}), ["a.png", "more than once"]),
        (lambda c: c["categories"].append({"id": 9, "name": "ship"}), ["categor", "more than once"]),
        (lambda c: c["images"].append({"id": 5, "file_name": "missing.png"}), ["missing.png", "missing"]),
    ],
)
def test_each_fault_of_a_coco_file_is_named(
    tmp_path: Path, change: Callable[[Content], None], words: list[str]
) -> None:
    content = coco({"a.png": [[5, 6, 20, 8], [1, 2, 4, 12]], "b.png": []})
    file = write_sar(tmp_path, "train", content)
    change(content)
    file.write_text(json.dumps(content))
    faults = faults_of(tmp_path, [Sensor.SAR])
    assert len(faults) == 1 and str(file) in faults[0]
    for word in words:
        assert word in faults[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"images": [',
        "[]",
        "3",
        '{"images": [], "annotations": []}',
        '{"images": 5, "annotations": [], "categories": []}',
        '{"images": [], "annotations": 5, "categories": []}',
        '{"images": [], "annotations": null, "categories": []}',
        '{"images": [{"file_name": "a.png"}], "annotations": [], "categories": []}',
        '{"images": [{"id": [], "file_name": "a.png"}], "annotations": [], "categories": []}',
        '{"images": [{"id": 1, "file_name": 7}], "annotations": [], "categories": []}',
    ],
)
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    file = write_sar(tmp_path, "train", coco({"a.png": [[1, 1, 5, 5]]}))
    file.write_text(text)
    (fault,) = faults_of(tmp_path, [Sensor.SAR])
    assert str(file) in fault


def test_all_faults_of_all_sensors_are_listed_in_one_error(tmp_path: Path) -> None:
    write_text_image(tmp_path, Sensor.RGB, "train", "r", ["1 2 3", GOOD, "nan " + " ".join(NUMBERS[1:])])
    (tmp_path / TEXT_FOLDERS[Sensor.IR, "train"][0]).mkdir(parents=True)
    content = coco({"a.png": [[5, 6, 20, 8]]})
    file = write_sar(tmp_path, "train", content)
    content["annotations"] += [{"id": 7, "image_id": 100, "category_id": 3, "bbox": [1, 1, 2, 2]}, {"id": 8}]
    file.write_text(json.dumps(content))
    faults = faults_of(tmp_path, [Sensor.RGB, Sensor.SAR, Sensor.IR])
    assert len(faults) == 5
    for part in ("r.txt:1", "r.txt:3", "annotation 7", "annotation 8", "dota_train/annfiles: no such folder"):
        assert sum(part in fault for fault in faults) == 1, part


def test_many_faults_are_counted_and_not_all_printed(tmp_path: Path) -> None:
    write_text_image(tmp_path, Sensor.IR, "train", "a", ["1 2 3"] * 500)
    with pytest.raises(BabelRSError, match=r"\(500\)") as caught:
        read_split(tmp_path, [Sensor.IR], "train")
    assert len(str(caught.value).splitlines()) < 100


def test_class_lists_come_from_the_data_sorted(tmp_path: Path) -> None:
    write_text_image(
        tmp_path, Sensor.IR, "train", "a", [dota_line(BOX, name) for name in ("truck", "Car", "freight car")]
    )
    write_text_image(tmp_path, Sensor.IR, "train", "b", [dota_line(BOX, "Car")])
    samples = read_split(tmp_path, [Sensor.IR], "train")[Sensor.IR]
    assert class_list(samples) == ("Car", "freight car", "truck")
    check_classes(samples, ("Car", "freight car", "truck", "bus"), Sensor.IR)
    with pytest.raises(BabelRSError) as caught:
        check_classes(samples, ("Car",), Sensor.IR)
    message = str(caught.value)
    assert "'freight car'" in message and "'truck'" in message and str(samples[0].path) in message and "ir" in message
