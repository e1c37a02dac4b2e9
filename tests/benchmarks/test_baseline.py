"""The YOLO-OBB side of the comparison: what it is trained on is ours, and its output is read as it is meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.boxes import from_corners, to_corners
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from benchmarks.baseline import epochs_of, main
from benchmarks.yolo_obb import Letterbox, decode, exported_stem, label_lines, letterbox, read_image, sample_name
from tests.train.builders import dota_line, write_all_sensors, write_text_image
from train.data.samples import Sample
from train.data.soi_det import read_split

CLASSES = ("rgb:ship", "sar:vehicle", "ir:Car", "ir:Person")
SIDE = 96


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    root = tmp_path / "scenes"
    write_all_sensors(root, "train")
    write_all_sensors(root, "eval")
    return root


def exported(scenes: Path) -> Path:
    out = scenes.parent / "yolo"
    assert main(["export", "--data", str(scenes), "--out", str(out)]) == 0
    return out


def gray(boxes: list[list[float]]) -> Sample:
    return Sample(
        Path("a.png"), Sensor.IR, np.array(boxes, np.float32), ("Car",) * len(boxes), np.zeros(len(boxes), bool)
    )


def test_labels_give_back_the_corners_of_the_original_boxes() -> None:
    rng = np.random.default_rng(5)
    boxes = rng.uniform([0, 0, 8, 2, -1.5], [640, 512, 80, 8, 1.5], (200, 5)).astype(np.float32)
    lines = label_lines(gray(boxes.tolist()), CLASSES, 640, 512)
    rows = np.array([[float(field) for field in line.split()] for line in lines])
    assert (rows[:, 0] == CLASSES.index("ir:Car")).all()
    corners = rows[:, 1:].reshape(-1, 4, 2) * (640, 512)
    assert np.abs(corners - to_corners(boxes)).max() < 1e-3


def test_labels_leave_out_only_objects_whose_centre_is_outside_the_image() -> None:
    boxes = [[639.0, 5.0, 30.0, 10.0, 0.0], [641.0, 5.0, 30.0, 10.0, 0.0], [5.0, -0.5, 30.0, 10.0, 0.0]]
    lines = label_lines(gray(boxes), CLASSES, 640, 512)
    assert len(lines) == 1
    assert float(lines[0].split()[3]) == pytest.approx(654 / 640)  # the corner outside stays where it is


def test_the_exported_pixels_and_names_lead_back_to_the_original_images(scenes: Path) -> None:
    out = exported(scenes)
    for split, folder in (("train", "train"), ("eval", "val")):
        samples = [sample for group in read_split(scenes, list(Sensor), split).values() for sample in group]  # type: ignore[arg-type]
        stems = [path.stem for path in sorted((out / "images" / folder).iterdir())]
        assert sorted(map(sample_name, stems)) == sorted(sample.name for sample in samples)
        for sample in samples:
            seen = cv2.imread(str(out / "images" / folder / f"{exported_stem(sample)}.png"))
            assert np.array_equal(seen[..., ::-1], np.repeat(read_image(sample), 3 // sample.sensor.num_channels, 2))
            assert (out / "labels" / folder / f"{exported_stem(sample)}.txt").read_text().count("\n") == 1


def test_a_class_of_one_name_is_kept_apart_by_sensor(scenes: Path) -> None:
    write_text_image(scenes, Sensor.RGB, "train", "more", [dota_line([20, 20, 8, 4, 0], "vehicle")])
    description = (exported(scenes) / "data.yaml").read_text()
    assert [line.strip() for line in description.splitlines()[3:]] == [
        '0: "rgb:ship"', '1: "rgb:vehicle"', '2: "sar:vehicle"', '3: "ir:Car"',
    ]  # fmt: skip


def test_export_refuses_a_taken_folder_and_eval_classes_that_training_lacks(scenes: Path) -> None:
    out = exported(scenes)
    with pytest.raises(BabelRSError, match="holds a data set already"):
        main(["export", "--data", str(scenes), "--out", str(out)])
    write_text_image(scenes, Sensor.IR, "eval", "bus", [dota_line([20, 20, 8, 4, 0], "Bus")])
    with pytest.raises(BabelRSError, match="'Bus'"):
        main(["export", "--data", str(scenes), "--out", str(out.parent / "other")])


def test_the_letterbox_puts_the_image_in_the_middle_and_boxes_back() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[..., 0] = 200  # red
    pixels, placed = letterbox(image, 160)
    assert pixels.shape == (1, 3, 160, 160) and pixels.dtype == np.float32
    assert placed == Letterbox(2.0, 2.0, 0, 40)
    assert np.allclose(pixels[0, :, 80, 80], [200 / 255, 0, 0])
    assert np.allclose(pixels[0, :, 20, 80], 114 / 255)
    assert placed.to_image(np.array([[80.0, 80.0, 20.0, 10.0, 0.3]])) == pytest.approx(np.array([[40, 20, 10, 5, 0.3]]))


def test_boxes_return_along_each_axis_by_what_the_image_was_stretched() -> None:
    _, placed = letterbox(np.zeros((512, 640, 1), np.uint8), 512)
    assert placed.top == 51  # 512 rows become 410, not 409.6
    rng = np.random.default_rng(11)
    boxes = rng.uniform([0, 0, 20, 4, -1.5], [640, 512, 60, 18, 1.5], (50, 5)).astype(np.float32)
    corners = to_corners(boxes) * (512 / 640, 410 / 512) + (0, 51)
    # The stretch turns a rectangle into a parallelogram, by less than 0.02 px here.
    assert np.abs(to_corners(placed.to_image(from_corners(corners))) - to_corners(boxes)).max() < 0.05


def made_up_output() -> np.ndarray:
    """Four points: an infrared car, its near copy, a person whose car score is low, and a ship."""
    points = [
        [48, 60, 10, 20, 0.0, 0.0, 0.9, 0.002, 0.2],  # its long edge is h
        [48, 60, 10, 21, 0.0, 0.0, 0.8, 0.0, 0.2],
        [20, 50, 6, 6, 0.0, 0.0, 0.0005, 0.3, 0.0],
        [70, 70, 30, 10, 0.99, 0.0, 0.0, 0.0, -0.1],
    ]
    return np.array(points, np.float32).T[None]  # (1, 4 + 4 + 1, 4)


def test_decode_takes_the_classes_of_the_sensor_and_boxes_in_pixels_of_the_image() -> None:
    candidates = decode(made_up_output(), CLASSES, Sensor.IR, Letterbox(2.0, 2.0, 8, 0), 0.001)
    found = candidates.detections(0.001, 0.7, 300)
    assert found.classes == ("Car", "Person")
    assert [found.classes[label] for label in found.labels] == ["Car", "Person", "Person"]
    assert found.scores == pytest.approx([0.9, 0.3, 0.002])
    assert found.boxes[0] == pytest.approx([20, 30, 10, 5, 0.2 + math.pi / 2 - math.pi], abs=1e-6)
    assert found.boxes[2] == pytest.approx(found.boxes[0])  # one point may count for two classes
    assert len(candidates.detections(0.001, 0.7, 1)) == 1
    assert len(decode(made_up_output(), CLASSES, Sensor.SAR, Letterbox(2.0, 2.0, 8, 0), 0.001).scores) == 0


def test_decode_refuses_an_output_of_other_classes() -> None:
    with pytest.raises(ValueError, match="expected for 3 classes"):
        decode(made_up_output(), CLASSES[:3], Sensor.IR, Letterbox(1.0, 1.0, 0, 0), 0.001)


def write_constant_graph(path: Path, output: np.ndarray, names: dict[int, str]) -> None:
    """A graph that answers ``output`` to any ``(1, 3, SIDE, SIDE)``."""
    onnx = pytest.importorskip("onnx", reason="the graph is made with onnx")
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["output", "nothing"], ["output0"]),
    ]
    constants = [numpy_helper.from_array(output, "output"), numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    pixels = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    answer = helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, output.shape)
    graph = helper.make_graph(nodes, "constant", [pixels], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"names": str(names)})
    onnx.save(model, path)


def answers(scenes: Path) -> np.ndarray:
    """The objects of the eval scenes, which all lie alike, as a graph of input ``SIDE`` would say them."""
    box = read_split(scenes, [Sensor.RGB], "eval")[Sensor.RGB][0].boxes[0]
    scale, top = SIDE / 80, (SIDE - round(72 * SIDE / 80)) // 2
    cx, cy, width, height = (scale * box[:4]).tolist()
    upright = [scale * 40, scale * 36 + top, scale * 24, scale * 12]
    rows = [[cx, cy + top, width, height, 0.9, 0.0, 0.8, float(box[4])], [*upright, 0.0, 0.7, 0.0, 0.0]]
    return np.array(rows, np.float32).T[None]


def test_a_graph_that_knows_the_answers_reaches_full_accuracy(scenes: Path, tmp_path: Path) -> None:
    names = {0: "rgb:ship", 1: "sar:vehicle", 2: "ir:Car"}
    write_constant_graph(tmp_path / "epochs-002.onnx", answers(scenes), names)
    out = tmp_path / "result.json"
    common = ["--data", str(scenes), "--size", str(SIDE), "--runs", "1", "--out", str(out)]
    assert main(["evaluate", "--onnx", str(tmp_path / "epochs-002.onnx"), *common]) == 0
    record = json.loads(out.read_text())
    assert record["h_map"] == pytest.approx(1.0)
    assert record["by_nms_iou"]["0.3"]["sensors"]["sar"]["ap50"] == pytest.approx(1.0)
    assert record["latency_ms"] >= 0
    assert main(["curve", "--onnx-dir", str(tmp_path), *common]) == 0
    assert [point["epochs"] for point in json.loads(out.read_text())["curve"]] == [2]


def test_a_graph_of_another_size_or_without_sensors_is_refused(scenes: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "g.onnx", ["--data", str(scenes), "--out", str(tmp_path / "o.json")]
    write_constant_graph(path, answers(scenes), {0: "rgb:ship", 1: "sar:vehicle", 2: "ir:Car"})
    with pytest.raises(BabelRSError, match="--size"):
        main(["evaluate", "--onnx", str(path), "--size", "128", *data])
    write_constant_graph(path, answers(scenes), {0: "ship", 1: "vehicle", 2: "Car"})
    with pytest.raises(BabelRSError, match="'ship' names no sensor"):
        main(["evaluate", "--onnx", str(path), "--size", str(SIDE), *data])


def test_a_file_name_says_its_epochs_or_is_refused() -> None:
    assert epochs_of(Path("epochs-012.onnx")) == 12
    with pytest.raises(BabelRSError, match="best"):
        epochs_of(Path("best.onnx"))


def test_an_unknown_command_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BabelRSError, match="export, evaluate, curve"):
        main(["train"])
