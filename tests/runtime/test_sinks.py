"""What is on disk is valid at any moment and shows what was found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from babelrs.boxes import to_corners
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.pipeline import FrameResult
from runtime.sinks.coco import CocoSink
from runtime.sinks.csv import CsvSink
from runtime.sinks.dota import DotaSink
from runtime.sinks.image import PALETTE, ImageSink, annotate, display_scale, draw
from runtime.sinks.jsonl import JsonLinesSink
from tests.runtime.results import BOXES, TIME, TIMES_MS, detections_of


def result(
    boxes: list[list[float]], frame: int = 0, size: tuple[int, int] = (120, 160), sensor: Sensor = Sensor.IR
) -> FrameResult:
    detections = detections_of(boxes, ("ship", "small vehicle"), sensor)
    image: npt.NDArray[np.uint8] = np.full((*size, sensor.num_channels), 90, np.uint8)
    return FrameResult(f"in/{frame}.tif", str(frame), frame, TIME, detections, image, "toy", "fp32", TIMES_MS)


def test_every_line_is_on_disk_when_its_frame_is_done(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "d.jsonl")
    for number in range(3):
        sink.write(result(BOXES, number))
        lines = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
        assert [line["frame"] for line in lines] == list(range(number + 1))
    sink.close()


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path) -> None:
    """A process that may write 1500 bytes a file: the line that does not fit is an error and leaves no part of it."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from babelrs.errors import BabelRSError\n"
        "from runtime.sinks.jsonl import JsonLinesSink\n"
        "from tests.runtime.test_sinks import BOXES, result\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "sink = JsonLinesSink(Path(sys.argv[1]))\n"
        "try:\n    [sink.write(result(BOXES, number)) for number in range(9)]\n"
        "except BabelRSError as error:\n    sys.exit('cannot be written' not in str(error))\n"
        "sys.exit('no error')"
    )
    path, root = tmp_path / "d.jsonl", Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert text.endswith("\n") and [json.loads(line)["frame"] for line in text.splitlines()] == [0, 1]


@pytest.mark.parametrize("kind", [JsonLinesSink, CocoSink, CsvSink])
def test_an_output_that_somebody_removes_is_an_error_and_not_lost_in_silence(
    kind: type[JsonLinesSink | CocoSink | CsvSink], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    sink = kind(tmp_path / "out" / "d")
    sink.write(result(BOXES))
    (tmp_path / "out").rename(tmp_path / "elsewhere")  # moved is not lost
    sink.write(result(BOXES, 1))
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(BabelRSError, match="removed"):
        sink.write(result(BOXES, 2))
    sink.close()


def test_an_older_file_of_lines_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("old\n" * 100)
    sink = JsonLinesSink(tmp_path / "d.jsonl")
    sink.write(result([]))
    sink.close()
    (line,) = (tmp_path / "d.jsonl").read_text().splitlines()
    assert json.loads(line)["detections"] == []


def test_the_coco_file_is_valid_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "d.coco.json"
    sink = CocoSink(path)
    assert json.loads(path.read_text()) == []
    for number in range(3):
        sink.write(result(BOXES, number))
        assert len(json.loads(path.read_text())) == 2 * (number + 1)
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["d.coco.json"], "a partial file was left"


def test_the_coco_sink_keeps_nothing_of_what_it_wrote(tmp_path: Path) -> None:
    sink, one = CocoSink(tmp_path / "d.coco.json"), result(BOXES * 20)
    sink.write(one)
    tracemalloc.start()
    for _ in range(50):
        sink.write(one)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sink.close()
    assert (tmp_path / "d.coco.json").stat().st_size > 400_000 > 10 * kept_bytes


def test_pycocotools_loads_the_coco_file(tmp_path: Path) -> None:
    pycoco = pytest.importorskip("pycocotools.coco", reason="the oracle is a ground dependency")
    sink = CocoSink(tmp_path / "d.coco.json")
    sink.write(result(BOXES))
    sink.close()
    truth = pycoco.COCO()
    truth.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}, {"id": 2}], "annotations": [], "info": {}}
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "d.coco.json"))
    assert len(loaded.getAnnIds(imgIds=[1])) == 2


def test_an_image_without_detections_has_an_empty_dota_file(tmp_path: Path) -> None:
    sink = DotaSink(tmp_path / "dota")
    sink.write(result([], 7))
    assert (tmp_path / "dota" / "7.txt").read_text() == ""


def test_a_dota_line_has_ten_words_whatever_the_class_is_called(tmp_path: Path) -> None:
    DotaSink(tmp_path).write(result(BOXES))
    lines = [line.split() for line in (tmp_path / "0.txt").read_text().splitlines()]
    assert [len(line) for line in lines] == [10, 10] and [line[8] for line in lines] == ["ship", "small-vehicle"]
    assert [float(value) for value in lines[0][:8]] == pytest.approx(
        to_corners(np.array(BOXES[:1], np.float32)).reshape(-1), abs=0.006
    )


@pytest.mark.parametrize("sensor", list(Sensor))
def test_an_annotated_image_differs_where_the_boxes_are_and_only_near_them(sensor: Sensor) -> None:
    shown, plain = annotate(result(BOXES, sensor=sensor)), annotate(result([], sensor=sensor))
    scale = display_scale(160, 120)
    assert shown.shape == plain.shape == (120 * scale, 160 * scale, 3)
    changed = (shown != plain).any(axis=2)
    for corners in to_corners(np.array(BOXES, np.float32)) * scale:
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            x, y = np.rint(start + (end - start) * 0.5).astype(int)
            assert changed[y - 1 : y + 2, x - 1 : x + 2].all()
    assert not changed[: 20 * scale, : 20 * scale].any() and not changed[-10 * scale :, : 60 * scale].any()
    assert (shown == np.array(PALETTE[0])).all(axis=2).any() and (shown == np.array(PALETTE[1])).all(axis=2).any()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.5])
def test_boxes_land_where_the_scaled_image_has_them(scale: float) -> None:
    frame = result(BOXES)
    shown = draw(frame.image, frame.detections, scale, captions=False)
    assert shown.shape == (round(120 * scale), round(160 * scale), 3)
    drawn = np.argwhere((shown != 90).any(axis=2))[:, ::-1]  # x, y of every pixel that a line touched
    corners = to_corners(np.array(BOXES, np.float32)).reshape(-1, 2) * scale
    low, high = drawn.min(axis=0), drawn.max(axis=0) + 1
    assert (low + high) / 2 == pytest.approx((corners.min(axis=0) + corners.max(axis=0)) / 2, abs=0.8)
    assert high - low == pytest.approx(np.ptp(corners, axis=0) + 6, abs=2)  # a line with its rim is 6 px wide


def test_labels_of_crowded_boxes_do_not_cover_each_other() -> None:
    boxes = [[80.0, 60.0 + 3 * n, 30.0, 2.0, 0.0] for n in range(-3, 4)]
    shown = annotate(result(boxes))
    plates = sum(int((shown == np.array(colour)).all(axis=2).sum()) for colour in PALETTE[:2])
    single = annotate(result(boxes[:1]))
    assert plates > 4 * int((single == np.array(PALETTE[0])).all(axis=2).sum())


def test_an_image_that_no_picture_format_takes_is_left_out_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ImageSink(tmp_path / "images")
    sink.write(result([], 0, (1, 1_000_001)))
    sink.write(result([], 1))
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["1.jpg"]
    assert "in/0.tif: a side of over 1000000 pixels: no annotated image" in caplog.text


def test_boxes_far_outside_the_image_are_drawn_without_harm() -> None:
    shown = annotate(result([[-500.0, 60.0, 30.0, 10.0, 0.3], [1e6, 1e6, 1e6, 10.0, 0.3]]))
    assert shown.shape == annotate(result([])).shape


def test_annotated_files_decode_to_the_displayed_size(tmp_path: Path) -> None:
    sink = ImageSink(tmp_path / "images")
    sink.write(result(BOXES, 3))
    sink.close()
    assert cv2.imread(str(tmp_path / "images" / "3.jpg")).shape == (480, 640, 3)


@pytest.mark.parametrize(
    ("size", "scale"), [((10, 10), 4), ((640, 512), 2), ((800, 999), 2), ((1000, 10), 1), ((9000, 9000), 1)]
)
def test_small_images_are_enlarged_by_a_whole_factor(size: tuple[int, int], scale: int) -> None:
    assert display_scale(*size) == scale


def test_a_folder_that_cannot_be_made_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for make in (DotaSink, ImageSink):
        with pytest.raises(BabelRSError, match="cannot be written"):
            make(tmp_path / "file" / "x")
    sink = DotaSink(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(BabelRSError, match=r"0\.txt: cannot be written"):
        sink.write(result([]))
