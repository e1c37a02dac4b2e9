from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from compress.pixel_input import take_pixels
from tests.train.builders import random_pixels
from train.models.detector import PIXEL_MEAN, PIXEL_STD, normalise

WIDTHS = 5


def normalising_graph(weight: np.ndarray, bias: np.ndarray, stride: int, pad: int, shape: list[int]) -> onnx.ModelProto:
    """Pixels, normalised as the exported detector does it, and a convolution named ``first``."""
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (PIXEL_MEAN, PIXEL_STD))
    stored = {"mean": mean, "std": std, "weight": weight, "bias": bias}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["a"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["a"], ["b"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["b", "mean"], ["c"], "sub"),
        helper.make_node("Div", ["c", "std"], ["d"], "div"),
        helper.make_node(
            "Conv", ["d", "weight", "bias"], ["map"], "first",
            kernel_shape=weight.shape[-2:], strides=[stride] * 2, pads=[pad] * 4,
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", *shape])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", WIDTHS, "h", "w"])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["map"], {"pixels": pixels})[0]
    return found


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "size"),
    [
        (3, 2, 1, (12, 16)),  # the small configurations' stem
        (16, 16, 0, (32, 48)),  # patches
        (7, 4, 2, (16, 24)),
        (7, 4, 3, (16, 24)),
        (4, 2, 1, (12, 10)),
        (3, 1, 1, (7, 9)),
        (3, 2, 1, (11, 14)),  # the stride does not divide the height
        (1, 2, 0, (8, 8)),
    ],
)
def test_the_first_map_is_the_same_from_pixels_as_they_are(
    kernel: int, stride: int, pad: int, size: tuple[int, int], bands: int
) -> None:
    rng = np.random.default_rng(kernel + stride)
    weight = rng.normal(size=(WIDTHS, 3, kernel, kernel)).astype(np.float32)
    bias = rng.normal(size=WIDTHS).astype(np.float32)
    model = normalising_graph(weight, bias, stride, pad, [*size, bands])
    take_pixels(model.graph)
    onnx.checker.check_model(model)
    pixels = random_pixels((2, *size, bands), 3)
    exact = functional.conv2d(
        normalise(pixels).double(), torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), stride, pad
    ).numpy()
    found = run(model, pixels.numpy())
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, atol=2e-5 * np.abs(exact).max())  # up to and at the border


def test_nothing_but_bytes_lies_between_the_pixels_and_their_convolution() -> None:
    model = normalising_graph(np.ones((4, 3, 3, 3), np.float32), np.zeros(4, np.float32), 2, 1, [8, 8, 3])
    take_pixels(model.graph)
    *moves, dequantize, first = model.graph.node
    assert {node.op_type for node in moves} <= {"Transpose", "Reshape", "Pad"}
    assert (dequantize.op_type, first.op_type, first.name) == ("DequantizeLinear", "Conv", "first")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert stored[dequantize.input[1]] == 1 and stored[dequantize.input[2]].dtype == np.uint8
    assert stored[first.input[1]].shape[1] % 4 == 0  # what integer kernels are fast with


def test_what_reads_normalised_pixels_otherwise_is_named() -> None:
    model = normalising_graph(np.ones((4, 3, 3, 3), np.float32), np.zeros(4, np.float32), 2, 1, [8, 8, 3])
    model.graph.node.append(helper.make_node("Relu", ["d"], ["e"], "early"))
    with pytest.raises(ValueError, match=r"early \(Relu\) reads the normalised pixels"):
        take_pixels(model.graph)
