"""A scene larger than the model's input gives what one look at the whole would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs.bundle import Bundle
from babelrs.detections import Detections
from babelrs.images import Frame
from babelrs.sensors import Sensor
from runtime.engines import open_engine
from runtime.pipeline import Detector, Stopwatch
from tests.runtime.dots import dots_image
from tests.runtime.toy_bundle import BOX, write_toy_bundle


def detect(bundle: Bundle, frame: Frame, batch: int = 4, sensor: Sensor = Sensor.IR) -> Detections:
    entry = bundle.manifest.entry(sensor)
    detector = Detector(open_engine(bundle, sensor, threads=1), entry, sensor, entry.score_threshold, batch)
    return detector.detect(frame, Stopwatch())[0]


@pytest.fixture(scope="session")
def whole_scene_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("onnx", reason="the toy graphs are made with onnx")
    return write_toy_bundle(tmp_path_factory.mktemp("whole") / "bundle", {Sensor.IR: (200, 300)})


def as_rows(found: Detections) -> list[list[float]]:
    rows = np.column_stack([found.scores, found.labels, found.boxes])
    return sorted(rows.round(3).tolist())


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_tiling_equals_one_look_at_the_whole(
    toy_bundle: Bundle, whole_scene_bundle: Bundle, seed: int, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.choice(7 * 5, 10, replace=False)
    dots = [(int(20 + 40 * (cell % 7)), int(20 + 38 * (cell // 7)), 140 + 10 * n) for n, cell in enumerate(cells)]
    dots = [(x + int(rng.integers(-5, 6)), y + int(rng.integers(-5, 6)), counts) for x, y, counts in dots]
    frame = Frame(dots_image(300, 200, dots))
    tiled, whole = detect(toy_bundle, frame, batch), detect(whole_scene_bundle, frame)
    assert len(whole) == 10
    assert as_rows(tiled) == as_rows(whole)
    assert as_rows(tiled) == sorted(
        np.round([[counts / 255, counts >= 200, x, y, *BOX] for x, y, counts in dots], 3).tolist()
    )


def test_an_image_smaller_than_the_input_is_padded_not_resized(toy_bundle: Bundle) -> None:
    found = detect(toy_bundle, Frame(dots_image(31, 17, [(30, 16, 230)])))
    assert found.boxes.tolist() == [pytest.approx([30, 16, *BOX])]


def test_one_window_serves_all_tiles_of_a_thermal_scene(toy_bundle: Bundle) -> None:
    """A window of its own would make the cold tile's slightly warm dot as bright as anything."""
    counts = np.full((200, 300), 7000, np.uint16)
    counts[:, 150:] = 9000
    counts[100, 40] = 7300
    found = detect(toy_bundle, Frame(counts))
    assert len(found) > 0 and found.boxes[:, 0].min() >= 150
    assert len(detect(toy_bundle, Frame(counts[:, :96]))) == 1


def test_every_stage_is_timed_and_an_error_does_not_stop_the_clock(toy_bundle: Bundle) -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.stage("read"):
        raise ZeroDivisionError
    entry = toy_bundle.manifest.entry(Sensor.IR)
    Detector(open_engine(toy_bundle, Sensor.IR), entry, Sensor.IR, 0.5).detect(Frame(dots_image(200, 90, [])), watch)
    assert list(watch.elapsed_ms) == ["read", "preprocess", "infer", "postprocess"]
    assert all(value > 0 for value in watch.elapsed_ms.values())


def test_colour_images_reach_the_graph_with_three_channels(toy_bundle: Bundle) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[20, 30, 2] = 250
    found = detect(toy_bundle, Frame(pixels), sensor=Sensor.RGB)
    assert found.boxes.tolist() == [pytest.approx([30, 20, *BOX])] and found.sensor is Sensor.RGB


def test_a_failing_engine_is_a_device_error(toy_bundle: Bundle, tmp_path: Path) -> None:
    from babelrs.errors import BabelRSError, DeviceError

    engine = open_engine(toy_bundle, Sensor.IR)
    with pytest.raises(DeviceError, match=r"model\.ir\.onnx.*batch of \(1, 3, 3, 1\)"):
        engine.infer(np.zeros((1, 3, 3, 1), np.uint8))
    with pytest.raises(BabelRSError, match="auto, onnxruntime"):
        open_engine(toy_bundle, Sensor.IR, "warp")
