"""Graphs run by ONNX Runtime for what lies inside them: any tensors, and a head's raw outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from babelrs.sensors import Sensor
from compress.output_error import Raw
from train.models.head import RawOutputs


class GraphSession:
    """A graph that also gives tensors from its inside.

    Args:
        model: The graph.
        wanted: Names of float tensors; each once.
        threads: CPU threads; 0: ONNX Runtime's choice.
    """

    def __init__(self, model: ModelProto, wanted: Sequence[str], threads: int = 0) -> None:
        import onnxruntime

        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        given = {output.name for output in whole.graph.output}
        inside = [name for name in wanted if name not in given]
        whole.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inside)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        content = whole.SerializeToString()
        self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._wanted = list(wanted)
        self.input_shape = tuple(self._session.get_inputs()[0].shape[1:])

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """The wanted tensors for pixels ``(N, H, W, C)``."""
        found = self._session.run(self._wanted, {self._session.get_inputs()[0].name: pixels})
        return dict(zip(self._wanted, found, strict=True))


def shapes_of(model: ModelProto, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of float tensors for one image, found by running the graph."""
    session = GraphSession(model, list(dict.fromkeys(names)))
    return {name: found.shape for name, found in session(np.zeros((1, *session.input_shape), np.uint8)).items()}


def raw_output_names(model: ModelProto) -> list[str]:
    """Where a graph of :class:`train.models.detector.SensorDetector` holds logits, distributions and directions.

    The class is chosen by ``ArgMax`` of the logits; the rest is gathered at the best points. Only oriented heads have
    directions.
    """
    (choice,) = [node for node in model.graph.node if node.op_type == "ArgMax"]
    gathered = [node.input[0] for node in model.graph.node if node.op_type == "GatherElements"]
    return [choice.input[0], *(name for name in gathered if name != choice.output[0])]


def raw_outputs_from(graphs: Mapping[Sensor, ModelProto], threads: int = 0) -> Raw:
    """Graphs as a model to compare; see :mod:`compress.output_error`."""
    names = {sensor: raw_output_names(graph) for sensor, graph in graphs.items()}
    sessions = {sensor: GraphSession(graph, names[sensor], threads) for sensor, graph in graphs.items()}

    def run(sensor: Sensor, pixels: Tensor) -> RawOutputs:
        found = sessions[sensor](pixels.numpy())
        logits, distributions, *directions = (torch.from_numpy(found[name]) for name in names[sensor])
        return RawOutputs(logits, distributions, directions[0] if directions else None)

    return run
