"""What may be scored, and what is refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from babelrs.detections import Detections
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from tests.train.builders import dota_line, random_detector, save_tiny, tiny_model, write_all_sensors, write_text_image
from train.data.samples import Sample
from train.data.soi_det import read_split
from train.evaluate import evaluate_samples, main
from train.evaluation.inputs import Scored, check_samples, read_detections, wholly_outside


def frame(sensor: str, source: str, *detections: dict[str, Any], **changes: Any) -> str:
    record = {
        "schema": "babelrs.detections/1", "source": source, "sensor": sensor, "width": 80, "height": 72,
        "detections": list(detections), **changes,
    }  # fmt: skip
    return json.dumps(record)


def item(label: str, obb: list[float], score: float = 0.9) -> dict[str, Any]:
    return {"label": label, "obb": obb, "score": score}


@pytest.fixture
def samples(tmp_path: Path) -> dict[Sensor, list[Sample]]:
    """An image of each sensor, RGB and infrared of the same file name, with one object each."""
    for sensor, name in ((Sensor.RGB, "ship"), (Sensor.IR, "Car")):
        for stem in ("a", "b"):
            write_text_image(
                tmp_path / "data", sensor, "eval", stem, [dota_line([40, 36, 24, 12, 0.4], name)], (72, 80)
            )
    return read_split(tmp_path / "data", [Sensor.RGB, Sensor.IR], "eval")


def lines_of_all() -> list[str]:
    right = [40.0, 36.0, 24.0, 12.0, 0.4]
    return [
        frame("rgb", "flight/a.png", item("ship", right)),
        frame("rgb", "flight/b.png"),
        frame("ir", "C:\\flight\\a.png", item("Car", right), item("Person", right, 0.3)),
        frame("ir", "b.png", item("Car", right, 0.8)),
    ]


def write(folder: Path, lines: list[str], name: str = "detections.jsonl") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_json_lines_are_matched_by_sensor_and_file_name(tmp_path: Path, samples: dict[Sensor, list[Sample]]) -> None:
    lines = lines_of_all()
    (tmp_path / "flown").mkdir()
    write(tmp_path / "flown", lines[:2], "rgb.jsonl")
    write(tmp_path / "flown", lines[2:], "ir.jsonl")
    scored = read_detections(tmp_path / "flown", samples)
    assert {name: len(found) for name, found in scored.found.items()} == {
        "rgb/a.png": 1, "rgb/b.png": 0, "ir/a.png": 2, "ir/b.png": 1,
    }  # fmt: skip
    arguments = ["--detections", str(tmp_path / "flown"), "--data.root", str(tmp_path / "data")]
    assert run_command(main, [*arguments, "--data.sensors", "rgb", "ir", "--examples", "1"]) == 0
    folder = tmp_path / "flown" / "evaluation.eval"
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["sensors"]["ir"]["ap50"] == 1 and record["sensors"]["rgb"]["ap50"] == pytest.approx(51 / 101)
    assert record["sensors"]["ir"]["classes"]["Person"]["ap"] is None  # no object of it: counted, in no mean
    details = record["details"]["rgb"]
    assert details["confusion"] == {
        "least_score": pytest.approx(0.9), "true": ["ship", None], "detected": ["ship", None],
        "table": [[1, 1], [0, 0]],
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} >= {
        "table.txt", "precision-recall.json", "precision-recall.rgb.png", "confusion.ir.png", "scores.png",
        "ap-by-size.png", "recall-at-false-alarms.png", "examples", "results",
    }  # fmt: skip
    assert (folder / "examples" / "rgb.misses.png").is_file()
    assert json.loads((folder / "examples" / "examples.json").read_text())[0]["image"] == "rgb/b.png"
    assert (folder / "results" / "dota.rgb" / "Task1_ship.txt").read_text().startswith("a 0.899999976 ")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("not json", "Expecting value"),
        (frame("rgb", "c.png"), "rgb/c.png is no image of the split"),
        (frame("rgb", "elsewhere/a.png"), "rgb/a.png occurs in .*:1 already"),
        (frame("rgb", "b.png", item("ship", [1, 2, 3, float("nan"), 0])), "detection 0: obb .* is not five finite"),
        (frame("rgb", "b.png", item("ship", [1, 2, 3, 0, 0])), "is not five finite numbers with positive sides"),
        (frame("rgb", "b.png", item("ship", [1, 2, 3, 2, 0], float("nan"))), "detection 0: score nan is outside 0..1"),
        (frame("rgb", "b.png", item("ship", [1, 2, 3, 2, 0], 1.2)), "score 1.2 is outside 0..1"),
        (frame("rgb", "b.png", {"label": "ship", "score": 0.5}), "'obb' is missing"),
        (frame("rgb", "b.png", width=None), "width and height are not whole numbers"),
        (frame("radar", "b.png"), "Unknown sensor 'radar'"),
        (frame("rgb", "b.png", schema="other"), "not a line of schema"),
        ("", "rgb/b.png: no line, so nobody looked at it"),
    ],
)
def test_a_wrong_line_is_named(
    tmp_path: Path, samples: dict[Sensor, list[Sample]], changed: str, expected: str
) -> None:
    lines = lines_of_all()
    lines[1] = changed
    with pytest.raises(BabelRSError, match=expected) as caught:
        read_detections(write(tmp_path, lines), samples)
    assert changed == "" or "detections.jsonl:2" in str(caught.value)


def test_a_sensor_without_lines_and_classes_of_other_names_are_refused(
    tmp_path: Path, samples: dict[Sensor, list[Sample]]
) -> None:
    lines = lines_of_all()
    with pytest.raises(BabelRSError, match="ir: no line at all"):
        read_detections(write(tmp_path, lines[:2]), samples)
    lines[0] = lines[0].replace('"ship"', '"boat"')
    with pytest.raises(BabelRSError, match="rgb: the detections are of boat, the objects of ship"):
        read_detections(write(tmp_path, lines), samples)
    with pytest.raises(BabelRSError, match=r"holds no \*\.jsonl file"):
        read_detections(tmp_path / "data", samples)
    with pytest.raises(BabelRSError, match="cannot be read"):
        read_detections(tmp_path / "missing.jsonl", samples)


def test_a_checkpoint_and_detections_together_or_neither_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--checkpoint", "c", "--detections", "d"]):
        assert run_command(main, arguments) == 2
        assert "either a checkpoint or detections" in capsys.readouterr().err


def test_an_empty_sensor_a_missing_image_and_a_doubled_name_are_all_listed(samples: dict[Sensor, list[Sample]]) -> None:
    first, second = samples[Sensor.RGB]
    (second.path.parent / "sub").mkdir()
    twin = second.path.parent / "sub" / first.path.name
    twin.write_bytes(first.path.read_bytes())
    second.path.unlink()
    group = [first, second, replace(first, path=twin)]
    with pytest.raises(BabelRSError) as caught:
        check_samples({Sensor.RGB: group, Sensor.IR: []})
    message = str(caught.value)
    assert "(3)" in message and "ir: no image" in message
    assert f"{second.path}: no such image" in message and "rgb/a.png: 2 images of this name" in message


def test_the_trainer_is_told_of_an_empty_sensor(tmp_path: Path, samples: dict[Sensor, list[Sample]]) -> None:
    detector = random_detector(tiny_model(), 0)
    record = save_tiny(tmp_path / "c", detector)
    with pytest.raises(BabelRSError, match="sar: no image"):
        evaluate_samples(detector, record, {**samples, Sensor.SAR: []})


def test_a_model_that_gives_nan_is_refused_with_the_image(tmp_path: Path, samples: dict[Sensor, list[Sample]]) -> None:
    detector = random_detector(tiny_model(), 0)
    record = save_tiny(tmp_path / "c", detector)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if "regress" in name and tensor.is_floating_point():
                tensor.fill_(float("nan"))
    with pytest.raises(BabelRSError, match=r"a\.png: the rgb outputs of the model hold NaN"):
        evaluate_samples(detector, record, samples)


def test_images_of_one_name_from_two_sensors_are_kept_apart(
    tmp_path: Path, samples: dict[Sensor, list[Sample]]
) -> None:
    detector = random_detector(tiny_model(), 0)
    result = evaluate_samples(detector, save_tiny(tmp_path / "c", detector), samples)
    assert result.num_images == {Sensor.RGB: 2, Sensor.IR: 2}
    assert sum(one.num_objects for one in result.classes) == 4


def test_boxes_wholly_outside_the_image_are_told_from_those_that_reach_in() -> None:
    boxes = [
        [5, 5, 4, 2, 0],
        [-1, 5, 4, 2, 0],
        [-3, 5, 4, 2, 0],
        [83, 5, 4, 2, 0],
        [40, 74, 9, 2, 0],
        [40, 73, 9, 4, 0],
    ]
    assert wholly_outside(np.array(boxes, np.float32), 80, 72).tolist() == [False, False, True, True, True, False]


def test_an_object_outside_its_image_is_ignored_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_text_image(
        tmp_path / "data", Sensor.IR, "eval", "a",
        [dota_line([40, 36, 24, 12, 0], "Car"), dota_line([140, 36, 24, 12, 0], "Car")], (72, 80),
    )  # fmt: skip
    (sample,) = read_split(tmp_path / "data", [Sensor.IR], "eval")[Sensor.IR]
    scored = Scored()
    scored.add(sample, Detections.empty(("Car",), Sensor.IR), 80, 72)
    assert scored.outside == ["ir/a.png: Car"] and scored.truth["ir/a.png"].ignore.tolist() == [False, True]
    detector = random_detector(tiny_model(), 0)
    record = save_tiny(tmp_path / "c", detector)
    with caplog.at_level(logging.WARNING, "train.evaluate"):
        result = evaluate_samples(detector, record, {Sensor.IR: [sample]})
    assert next(one for one in result.classes if one.name == "Car").num_objects == 1
    assert "1 objects lie wholly outside" in caplog.text and "ir/a.png: Car" in caplog.text


def test_a_sensor_whose_objects_are_all_difficult_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_text_image(tmp_path / "data", Sensor.IR, "eval", "a", [dota_line([40, 36, 24, 12, 0], "Car", 1)], (72, 80))
    detector = random_detector(tiny_model(), 0)
    record = save_tiny(tmp_path / "c", detector)
    with caplog.at_level(logging.WARNING, "train.evaluate"):
        evaluate_samples(detector, record, read_split(tmp_path / "data", [Sensor.IR], "eval"))
    assert "ir: no object counts" in caplog.text


def test_boxes_without_area_are_refused_by_the_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(tmp_path / "c", random_detector(tiny_model(), 0))
    write_all_sensors(tmp_path / "data", "eval", count=1)
    write_text_image(tmp_path / "data", Sensor.IR, "eval", "flat", ["5 5 9 5 9 5 5 5 Car 0"], (72, 80))
    assert run_command(main, ["--checkpoint", str(tmp_path / "c"), "--data.root", str(tmp_path / "data")]) == 2
    assert "flat.txt:1: the box has no area" in capsys.readouterr().err
