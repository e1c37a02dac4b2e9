"""INT8 graphs by ONNX Runtime's own quantizer, with our ranges and weight scales that no sensor changes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto

from babelrs import __version__
from compress.compact import compact
from compress.onnx_graph import constant_values, sort_nodes
from compress.ranges import Range

FULL, REDUCED = 127, 64
"""Greatest magnitude of an INT8 weight, of 8 and of 7 bits."""
_WEAKEST = 2.0**-12
"""Channels weaker than this, against the strongest, share its scale: a bias in steps of theirs would overflow int32."""


def quantize(model: ModelProto, nodes: Collection[str], ranges: Mapping[str, Range], reduce_range: bool) -> ModelProto:
    """A graph whose ``nodes`` read and give uint8, with int8 weights.

    Args:
        model: From :func:`compress.cpu_float_graph.cpu_float_graph`, prepared by :func:`prepared`.
        nodes: Names of nodes, at least one.
        ranges: Of every tensor that they read or give as 8 bits.
        reduce_range: 7-bit weights. x86 CPUs without VNNI add pairs of products in 16 bits: with 8-bit weights these
            overflow.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    chosen = [node for node in model.graph.node if node.name in nodes]
    data = {name: tuple(np.float32(side) for side in kept) for name, kept in ranges.items()}
    options = {
        "OpTypesToExcludeOutputQuantization": ["MatMul"],
        "TensorQuantOverrides": _weight_scales(model, chosen, REDUCED if reduce_range else FULL),
        "QDQDisableWeightAdjustForInt32Bias": True,  # it would change weights with the sensor's activations
    }
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.name for node in chosen],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in chosen}),
        extra_options=options,
    )
    with _silenced():
        found = quantizer.quantize_model()
    found.producer_name, found.producer_version = "babelrs", __version__
    sort_nodes(found.graph)
    compact(found)
    onnx.checker.check_model(found)
    return found


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep back what the quantizer says of every shared bias."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def prepared(model: ModelProto) -> ModelProto:
    """The same graph with the types of its tensors, which the quantizer would else work out every time."""
    from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

    found: ModelProto = save_and_reload_model_with_shape_infer(model)
    return found


def _weight_scales(model: ModelProto, nodes: Collection[NodeProto], greatest: int) -> dict[str, list[dict[str, Any]]]:
    values, found = constant_values(model.graph), {}
    for node in nodes:
        if node.op_type in ("Conv", "MatMul"):
            axis = 0 if node.op_type == "Conv" else 1
            scales = channel_scales(values[node.input[1]], axis, greatest)
            found[node.input[1]] = [{"axis": axis, "scale": scale, "zero_point": 0} for scale in scales]
    return found


def channel_scales(weight: npt.NDArray[np.float32], axis: int, greatest: int) -> npt.NDArray[np.float32]:
    """Steps of the weights of every output channel.

    Args:
        weight: Any shape.
        axis: Of the output channels.
        greatest: Magnitude that a channel's greatest weight becomes.
    """
    magnitudes = np.abs(weight).max(tuple(dim for dim in range(weight.ndim) if dim != axis)).astype(np.float64)
    if not magnitudes.any():
        return np.ones(len(magnitudes), np.float32)
    steps: npt.NDArray[np.float32] = (np.maximum(magnitudes, _WEAKEST * magnitudes.max()) / greatest).astype(np.float32)
    return steps
