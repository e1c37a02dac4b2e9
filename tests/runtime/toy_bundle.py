"""A bundle without training: its graphs find bright dots, with the signature of an exported detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from babelrs.bundle import Bundle, Manifest, SelfTest, SensorEntry, write_manifest, write_selftest
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from runtime.engines.onnxruntime import OnnxRuntimeEngine

CLASSES = ("dim dot", "bright-dot")
BOX = np.array([24.0, 10.0, 0.4], np.float32)  # w, h, theta of every box
BRIGHT = 200  # counts from which a dot is of the second class
NUM_CANDIDATES = 16


def toy_graph(height: int, width: int, channels: int) -> onnx.ModelProto:
    """A dot is the brightest pixel of its 9x9 neighbourhood; its score is its count / 255."""
    constants = {
        "k": np.array([NUM_CANDIDATES], np.int64),
        "width": np.array([width], np.int64),
        "flat": np.array([0, -1], np.int64),
        "last": np.array([-1], np.int64),
        "axis1": np.array([1], np.int64),
        "scale": np.array(1 / 255, np.float32),
        "bright": np.array(BRIGHT / 255, np.float32),
        "extra": np.array([0, 0, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["counts"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["counts", "last"], ["gray"], keepdims=0),
        helper.make_node("Mul", ["gray", "scale"], ["level"]),
        helper.make_node("Unsqueeze", ["level", "axis1"], ["plane"]),  # (N, 1, H, W)
        helper.make_node("MaxPool", ["plane"], ["peak"], kernel_shape=[9, 9], pads=[4, 4, 4, 4]),
        helper.make_node("Equal", ["plane", "peak"], ["is_peak"]),
        helper.make_node("Cast", ["is_peak"], ["peak_mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["plane", "peak_mask"], ["kept"]),
        helper.make_node("Reshape", ["kept", "flat"], ["candidates"]),
        helper.make_node("TopK", ["candidates", "k"], ["scores", "index"], axis=1, largest=1, sorted=1),
        helper.make_node("Mod", ["index", "width"], ["x"]),
        helper.make_node("Div", ["index", "width"], ["y"]),
        helper.make_node("Cast", ["x"], ["x_float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["y"], ["y_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["x_float", "last"], ["cx"]),
        helper.make_node("Unsqueeze", ["y_float", "last"], ["cy"]),
        helper.make_node("Shape", ["cx"], ["shape"]),
        helper.make_node("Add", ["shape", "extra"], ["box_shape"]),
        helper.make_node("Expand", ["size", "box_shape"], ["sizes"]),
        helper.make_node("Concat", ["cx", "cy", "sizes"], ["boxes"], axis=2),
        helper.make_node("GreaterOrEqual", ["scores", "bright"], ["is_bright"]),
        helper.make_node("Cast", ["is_bright"], ["labels"], to=TensorProto.INT32),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    size = numpy_helper.from_array(BOX, "size")
    set_external_data(size, "weights.bin", offset=0, length=BOX.nbytes)
    size.ClearField("raw_data")
    size.data_location = TensorProto.EXTERNAL
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", height, width, channels])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", NUM_CANDIDATES, 5]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", NUM_CANDIDATES]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, ["N", NUM_CANDIDATES]),
        ],
        [*tensors, size],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_toy_bundle(
    folder: Path,
    sizes: Mapping[Sensor, tuple[int, int]] | None = None,
    score_tolerance: float = 1e-3,
) -> Bundle:
    """Write a bundle of toy graphs into ``folder``; ``sizes`` gives (height, width) by sensor."""
    sizes = {Sensor.IR: (64, 96), Sensor.SAR: (64, 64), Sensor.RGB: (64, 64)} if sizes is None else sizes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(BOX.tobytes())
    entries = {}
    for sensor, (height, width) in sizes.items():
        entry = SensorEntry(
            classes=CLASSES,
            profile=DEFAULT_PROFILES[sensor],
            graph=f"model.{sensor}.onnx",
            selftest=f"selftest.{sensor}.npz",
            input_height=height,
            input_width=width,
            channels=sensor.num_channels,
            max_detections=NUM_CANDIDATES,
            score_threshold=0.5,
            nms_iou=0.3,
            tile_overlap=0.25,
            precision="fp32",
        )
        entries[sensor] = entry
        (folder / entry.graph).write_bytes(toy_graph(height, width, sensor.num_channels).SerializeToString())
        write_selftest(folder / entry.selftest, _selftest(folder, entry, score_tolerance))
    return write_manifest(folder, Manifest("toy", "cpu", (0, 1), (8, 16), entries))


def _selftest(folder: Path, entry: SensorEntry, score_tolerance: float) -> SelfTest:
    pixels = np.zeros((1, entry.input_height, entry.input_width, entry.channels), np.uint8)
    for number, (x, y) in enumerate([(10, 12), (40, 30), (22, 50)]):
        pixels[0, y, x] = 150 + 40 * number
    boxes, scores, labels = OnnxRuntimeEngine(folder, entry, threads=1).infer(pixels)
    return SelfTest(pixels, boxes, scores, labels, score_tolerance, 0.05)
