from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from babelrs.errors import BabelRSError, run_command
from babelrs.images import read_frame
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor
from tests.train.builders import (
    CLASSES,
    dota_line,
    random_detector,
    random_pixels,
    save_tiny,
    tiny_model,
    write_all_sensors,
    write_text_image,
)
from train.data.soi_det import read_split
from train.evaluate import SHARE, evaluate_samples, ground_truth, main, predict_samples
from train.models.detector import SensorDetector
from train.predict import Predictor


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "c", random_detector(tiny_model(), 0))
    return tmp_path / "c"


def test_a_measured_checkpoint_leaves_a_record_and_a_table(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all_sensors(tmp_path / "data", "eval", count=2)
    out = tmp_path / "new" / "e"
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--data.root",
        str(tmp_path / "data"),
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    assert run_command(main, arguments) == 0
    record = json.loads((out / "evaluation.json").read_text())
    assert record["schema"] == "babelrs.evaluation/1" and record["images"] == {"rgb": 2, "sar": 2, "ir": 2}
    table = capsys.readouterr().out
    for name in ("ship", "vehicle", "Car"):
        assert name in table


def test_a_sensor_that_the_checkpoint_does_not_serve_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny(tmp_path / "c", random_detector(tiny_model(), 0, {Sensor.IR: CLASSES[Sensor.IR]}))
    write_all_sensors(tmp_path / "data", "eval")
    arguments = ["--checkpoint", str(tmp_path / "c"), "--data.root", str(tmp_path / "data")]
    assert run_command(main, [*arguments, "--data.sensors", "ir", "sar"]) == 2
    message = capsys.readouterr().err
    assert "sar" in message and "ir" in message and "Traceback" not in message
    assert run_command(main, [*arguments, "--data.sensors", "ir"]) == 0


def test_a_class_that_the_checkpoint_lacks_is_named_with_its_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [dota_line([20, 20, 10, 5, 0], "Car"), dota_line([20, 20, 10, 5, 0], "hover craft")]
    write_text_image(tmp_path / "data", Sensor.IR, "eval", "odd", lines)
    arguments = ["--checkpoint", str(checkpoint), "--data.root", str(tmp_path / "data"), "--data.sensors", "ir"]
    assert run_command(main, arguments) == 2
    message = capsys.readouterr().err
    assert "hover craft" in message and "odd" in message and "'Car'" not in message


def test_labels_of_the_truth_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    lines = [dota_line([20, 20, 10, 5, 0], "Person", 1), dota_line([30, 20, 12, 5, 0], "Bicycle")]
    write_text_image(tmp_path, Sensor.IR, "eval", "a", lines)
    truth = ground_truth(read_split(tmp_path, [Sensor.IR], "eval")[Sensor.IR][0], ("Person", "Car", "Bicycle"))
    assert truth.labels.tolist() == [0, 2] and truth.ignore.tolist() == [True, False]


def test_images_of_one_stem_do_not_hide_each_other(tmp_path: Path) -> None:
    from tests.train.builders import coco, write_sar

    write_sar(tmp_path, "eval", coco({"a.png": [[5, 5, 20, 8]], "a.jpg": [[9, 9, 8, 20]]}))
    samples = read_split(tmp_path, [Sensor.SAR], "eval")
    detector = random_detector(tiny_model(), 0)
    record = save_tiny(tmp_path / "c", detector)
    found = evaluate_samples(detector, record, samples)
    assert found.num_images == {Sensor.SAR: 2} and found.classes[0].num_objects == 2


def test_prediction_of_one_tile_is_the_model_s_own_output_after_suppression(tmp_path: Path) -> None:
    detector = random_detector(tiny_model(), 2)
    pixels = random_pixels((1, 50, 60, 1), 3)[0].numpy()  # smaller than the input: padded right and below
    predictor = Predictor(detector, DEFAULT_PROFILES[Sensor.IR], Sensor.IR, score_threshold=0.0)
    found = predictor(pixels)
    padded = np.zeros((1, 64, 64, 1), np.uint8)
    padded[0, :50, :60] = pixels
    with torch.no_grad():
        boxes, scores, _ = SensorDetector(detector, Sensor.IR, 24).eval()(torch.from_numpy(padded))
    assert len(found) > 0 and found.scores[0] == pytest.approx(float(scores[0, 0]), abs=1e-6)
    for box, score in zip(found.boxes, found.scores, strict=True):
        nearest = np.abs(scores[0].numpy() - score) + np.abs(boxes[0].numpy() - box).max(axis=1)
        assert nearest.min() < 1e-3


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_tiles_of_several_images_in_a_batch_give_each_image_its_own(tmp_path: Path, batch_size: int) -> None:
    detector = random_detector(tiny_model(), 2)
    sizes = [(40, 50), (150, 100), (64, 64), (70, 200), (30, 30)]  # one tile, several, one, several, one
    paths = [write_text_image(tmp_path, Sensor.IR, "eval", f"i{n}", [], size)[0] for n, size in enumerate(sizes)]
    profile = DEFAULT_PROFILES[Sensor.IR]
    predictor = Predictor(detector, profile, Sensor.IR, score_threshold=0.0, batch_size=batch_size)
    predictions = list(predictor.stream(paths))
    assert [(one.height, one.width) for one in predictions] == sizes
    for path, prediction in zip(paths, predictions, strict=True):
        alone = predictor(to_uint8(read_frame(path), profile))
        assert len(alone) > 0 and len(prediction.detections) == len(alone)
        np.testing.assert_allclose(prediction.detections.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(prediction.detections.boxes, alone.boxes, atol=1e-2)


def test_what_is_found_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    detector = random_detector(tiny_model(), 2)
    record = save_tiny(tmp_path / "c", detector)
    for number in range(2 * SHARE + 3):
        write_text_image(tmp_path, Sensor.IR, "eval", f"i{number}", [], (70 + number, 90))
    samples = read_split(tmp_path, [Sensor.IR], "eval")
    alone, together = (predict_samples(detector, record, samples, threads=threads).found for threads in (1, 3))
    assert list(alone) == list(together) and len(alone) == 2 * SHARE + 3
    for name, found in alone.items():
        assert len(found) and np.array_equal(found.boxes, together[name].boxes)


def test_a_damaged_image_stops_the_evaluation_with_its_name(tmp_path: Path) -> None:
    paths = [write_text_image(tmp_path, Sensor.IR, "eval", stem, [])[0] for stem in ("a", "b")]
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    predictor = Predictor(random_detector(tiny_model(), 2), DEFAULT_PROFILES[Sensor.IR], Sensor.IR)
    with pytest.raises(BabelRSError, match=r"b\.png"):
        list(predictor.stream(paths))


def test_an_image_file_is_read_by_the_profile_of_the_checkpoint(tmp_path: Path) -> None:
    image, _ = write_text_image(tmp_path, Sensor.RGB, "eval", "a", [], size=(64, 96))
    predictor = Predictor(
        random_detector(tiny_model(), 2), DEFAULT_PROFILES[Sensor.RGB], Sensor.RGB, score_threshold=0.0
    )
    direct = predictor(to_uint8(read_frame(image), DEFAULT_PROFILES[Sensor.RGB]))
    np.testing.assert_array_equal(predictor.from_file(image).boxes, direct.boxes)
