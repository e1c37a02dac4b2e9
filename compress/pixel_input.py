"""First convolutions that read the pixels as they are, with the normalisation in their weights.

Counts are uint8 already: for integer kernels such an input loses nothing and needs no range, and normalising in float
and rounding again would take longer than the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, helper

from compress.onnx_graph import attribute, constant_values, readers, replace_nodes, store
from train.models.detector import PIXEL_MEAN, PIXEL_STD

PIXEL_ZERO = round(sum(PIXEL_MEAN) / len(PIXEL_MEAN))
"""The count that pixels are padded with; it stands for zero."""
INSIDE, NUM_INSIDE = 16, 4
"""Value above :data:`PIXEL_ZERO` of the constant channels beside the pixels, and their number.

The float model pads with each band's own mean, for which there is no one count. These channels tell the image from its
padding, and their weights make up for the difference. Four, since integer kernels take channels by fours.
"""

Weights = npt.NDArray[np.float64]


def take_pixels(graph: GraphProto) -> None:
    """Rewrite the convolutions that read the normalised pixels; what they compute stays the same.

    One band that would be used three times is used once. A strided convolution reads blocks of pixels (space to
    depth): they have more channels, and integer kernels fetch whole pixels.

    Raises:
        ValueError: Something but a convolution reads the normalised pixels.
    """
    (given,) = graph.input
    _, height, width, bands = (dim.dim_value for dim in given.type.tensor_type.shape.dim)
    image = _Image(given.name, height, width, bands)
    normalised, path = _normalised_pixels(graph, given.name)
    replacements: dict[str, list[NodeProto]] = {name: [] for name in path}
    for node in readers(graph)[normalised]:
        if node.op_type != "Conv":
            raise ValueError(f"{node.name} ({node.op_type}) reads the normalised pixels; only convolutions may")
        replacements[node.name] = _on_counts(graph, node, image, _blocks(node, image))
    replace_nodes(graph, replacements)


def _normalised_pixels(graph: GraphProto, pixels: str) -> tuple[str, list[str]]:
    """The tensor that holds the normalised pixels, and the names of the nodes that compute it."""
    reading, tensor, path = readers(graph), pixels, list[str]()
    while len(reading[tensor]) == 1 and reading[tensor][0].op_type in ("Cast", "Transpose", "Sub", "Div"):
        path.append(reading[tensor][0].name)
        tensor = reading[tensor][0].output[0]
    return tensor, path


@dataclass(frozen=True)
class _Image:
    """The graph's input, ``(N, height, width, bands)``."""

    name: str
    height: int
    width: int
    bands: int


@dataclass(frozen=True)
class _Blocks:
    """How a convolution reads pixels: in blocks of ``side`` x ``side``; strides and pads count blocks.

    Attributes:
        side: Of a block, pixels.
        pad_px: Padding before the first pixel.
        stride: Of the convolution of blocks.
        before: Blocks of padding above and to the left.
        after: Blocks of padding below and to the right.
    """

    side: int
    pad_px: int
    stride: int
    before: int
    after: int


def _blocks(node: NodeProto, image: _Image) -> _Blocks:
    kernel = attribute(node, "kernel_shape", None)[0]
    stride, pad = attribute(node, "strides", [1, 1])[0], attribute(node, "pads", [0] * 4)[0]
    if stride == 1 or image.height % stride or image.width % stride:
        return _Blocks(1, pad, stride, pad, pad)
    last = (kernel - 1 - pad) // stride  # the block that the kernel's last tap reads
    return _Blocks(stride, pad, 1, -(-pad // stride), (2 * pad - kernel) // stride + 1 + last)


def _on_counts(graph: GraphProto, node: NodeProto, image: _Image, blocks: _Blocks) -> list[NodeProto]:
    """The nodes from pixels to the convolution's output."""
    values = constant_values(graph)
    weight, shift = of_counts(values[node.input[1]], image.bands)
    weight, bias = in_blocks(weight, blocks.side, blocks.pad_px), values[node.input[2]]
    counts, padded, centred = (f"{node.name}.{step}" for step in ("counts", "padded", "centred"))
    nodes = [helper.make_node("Transpose", [image.name], [counts], counts, perm=[0, 3, 1, 2])]
    if blocks.side > 1:
        nodes += _space_to_depth(graph, counts, image, blocks.side)
    if blocks.pad_px:
        inside = in_blocks(shift, blocks.side, blocks.pad_px).sum(1, keepdims=True) / (INSIDE * NUM_INSIDE)
        weight = np.concatenate([weight, inside.repeat(NUM_INSIDE, 1)], 1)
        widths = store(graph, node.name + ".channels", np.array([0, 0, 0, 0, 0, NUM_INSIDE, 0, 0]))
        value = store(graph, node.name + ".inside", np.uint8(PIXEL_ZERO + INSIDE))
        nodes.append(helper.make_node("Pad", [nodes[-1].output[0], widths, value], [padded], padded))
    else:
        bias = bias + shift.sum((1, 2, 3))
    step, zero = store(graph, node.name + ".step", np.float32(1)), store(graph, node.name + ".zero", _ZERO)
    nodes.append(helper.make_node("DequantizeLinear", [nodes[-1].output[0], step, zero], [centred], centred))
    store(graph, node.input[1], weight.astype(np.float32))
    store(graph, node.input[2], bias.astype(np.float32))
    pads = [blocks.before, blocks.before, blocks.after, blocks.after]
    geometry: dict[str, Any] = {"kernel_shape": weight.shape[-2:], "strides": [blocks.stride] * 2, "pads": pads}
    nodes.append(helper.make_node("Conv", [centred, *node.input[1:]], node.output, node.name, **geometry))
    return nodes


_ZERO = np.uint8(PIXEL_ZERO)


def _space_to_depth(graph: GraphProto, planes: str, image: _Image, side: int) -> list[NodeProto]:
    """``SpaceToDepth``, which older versions of ONNX Runtime lack for bytes: columns first, then rows."""
    height, width, bands = image.height, image.width, image.bands
    steps = (
        ([-1, bands, height, width // side, side], [0, 4, 1, 2, 3]),
        ([-1, bands * side, height // side, side, width // side], [0, 3, 1, 2, 4]),
    )
    nodes, tensor = [], planes
    for number, (shape, order) in enumerate(steps):
        split, moved = f"{planes}.split{number}", f"{planes}.moved{number}"
        sizes = store(graph, split + ".shape", np.array(shape))
        nodes.append(helper.make_node("Reshape", [tensor, sizes], [split], split))
        nodes.append(helper.make_node("Transpose", [split], [moved], moved, perm=order))
        tensor = moved
    blocks = planes + ".blocks"
    sizes = store(graph, blocks + ".shape", np.array([-1, bands * side**2, height // side, width // side]))
    return [*nodes, helper.make_node("Reshape", [tensor, sizes], [blocks], blocks)]


def of_counts(weight: npt.NDArray[np.float32], bands: int) -> tuple[Weights, Weights]:
    """Weights for counts less :data:`PIXEL_ZERO` in place of normalised pixels.

    Args:
        weight: ``(O, 3, k, k)``.
        bands: Of the pixels: 3, or 1 that is used three times.

    Returns:
        ``(O, bands, k, k)``, and what every tap within the image adds besides, ``(O, 1, k, k)``.
    """
    mean, std = (np.array(each).reshape(1, 3, 1, 1) for each in (PIXEL_MEAN, PIXEL_STD))
    scaled: Weights = weight / std
    shift: Weights = (scaled * (PIXEL_ZERO - mean)).sum(1, keepdims=True)
    return (scaled.sum(1, keepdims=True) if bands == 1 else scaled), shift


def in_blocks(weight: Weights, side: int, pad_px: int) -> Weights:
    """A kernel of pixels as one of blocks of pixels.

    Args:
        weight: ``(O, C, k, k)``.
        side: Of a block, pixels; also the stride where it is above 1.
        pad_px: Padding before the first pixel.

    Returns:
        ``(O, side * side * C, m, m)``, channels in the order of ONNX's ``SpaceToDepth``.
    """
    outputs, channels, kernel, _ = weight.shape
    taps = [divmod(tap - pad_px, side) for tap in range(kernel)]  # (block, pixel within it)
    first, last = taps[0][0], taps[-1][0]
    spread = np.zeros((outputs, side, side, channels, last - first + 1, last - first + 1))
    for row, (block_row, inner_row) in enumerate(taps):
        for column, (block_column, inner_column) in enumerate(taps):
            spread[:, inner_row, inner_column, :, block_row - first, block_column - first] = weight[..., row, column]
    return spread.reshape(outputs, side * side * channels, *spread.shape[-2:])
