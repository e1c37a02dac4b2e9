"""``python -m benchmarks.baseline export|evaluate|curve``: a YOLO-OBB detector on our data, measured as ours are.

``export`` writes the three sensors' images as one data set in the YOLO-OBB layout; ``evaluate`` measures a YOLO-OBB
ONNX graph on the annotated images; ``curve`` does so for the checkpoints of one training. The training itself is done
by hand in an environment of its own: see docs/experiments/baseline.md.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from babelrs.detections import Detections
from babelrs.errors import BabelRSError, run_command
from babelrs.metrics import Evaluation, GroundTruth, evaluate
from babelrs.sensors import Sensor
from benchmarks.latency import median_ms
from benchmarks.yolo_obb import (
    FOLDERS,
    Candidates,
    decode,
    joint_classes,
    letterbox,
    read_image,
    sensor_classes,
    write_description,
    write_split,
)
from train.cli import load_config, start_logging
from train.data.samples import Sample, check_classes
from train.data.soi_det import Split, read_split
from train.evaluate import ground_truth

log = logging.getLogger("benchmarks.baseline")


class ExportConfig(BaseModel):
    """Write the train and eval images of all sensors as one data set in the YOLO-OBB layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder in the SOI-Det layout")
    out: Path = Field(description="folder to write; must not hold a data set yet")


class MeasureConfig(BaseModel):
    """How a YOLO-OBB graph is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder in the SOI-Det layout")
    split: Split = Field("eval", description="split to measure on")
    size: int = Field(512, ge=32, description="side of the graph's square input, pixels")
    score_floor: float = Field(0.001, ge=0, lt=1, description="detections below this score are left out")
    nms_iou: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.7, 0.5, 0.3), min_length=1, description="rotated IoU of suppression; the first is the one reported"
    )
    max_detections: int = Field(300, ge=1, description="detections of an image at most")
    threads: int = Field(2, ge=1, description="CPU threads of the engine")
    runs: int = Field(50, ge=1, description="runs that the latency is the median of")


class EvaluateConfig(MeasureConfig):
    """Measure a YOLO-OBB graph on labelled images."""

    onnx: Path = Field(description="ONNX export of a YOLO-OBB model trained on what export wrote")
    out: Path = Field(description="JSON file to write")


class CurveConfig(MeasureConfig):
    """Measure the checkpoints of one training; the number that ends a file's name is its count of epochs."""

    onnx_dir: Path = Field(description="folder of ONNX exports, such as epochs-005.onnx")
    out: Path = Field(Path("benchmarks/results/baseline-yolo11n-obb.json"), description="JSON file to write")


class YoloGraph:
    """A YOLO-OBB graph in ONNX Runtime on the CPU.

    Args:
        path: The ONNX file; its metadata ``names`` maps indices to ``sensor:class``.
        size: Side of its input, pixels.
        threads: Threads within an operator.

    Raises:
        BabelRSError: The file is no such graph.
    """

    def __init__(self, path: Path, size: int, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception types have no public base class
            raise BabelRSError(f"{path}: no usable ONNX graph ({error}).", "Export the checkpoint again.") from None
        self.classes = _class_names(path, session.get_modelmeta().custom_metadata_map)
        given = session.get_inputs()[0]
        if given.type != "tensor(float)" or list(given.shape[1:]) != [3, size, size]:
            what = f"{path}: takes {given.type} {given.shape}, where float32 (1, 3, {size}, {size}) belongs."
            raise BabelRSError(what, "Give the side it was exported with as --size.")
        self.size, self._session, self._input = size, session, given.name

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The raw output ``(1, 4 + C + 1, N)`` for ``(1, 3, size, size)`` in ``[0, 1]``."""
        output: npt.NDArray[np.float32] = self._session.run(None, {self._input: pixels})[0]
        return output

    def candidates(self, sample: Sample, score_floor: float) -> Candidates:
        """What the graph says of a sample's image, of the classes of its sensor."""
        pixels, placed = letterbox(read_image(sample), self.size)
        return decode(self.run(pixels), self.classes, sample.sensor, placed, score_floor)


def _class_names(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The class names of the graph's metadata, in the order of their indices."""
    try:
        names = dict(ast.literal_eval(metadata["names"]))
        ordered = tuple(str(names[index]) for index in range(len(names)))
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        what = f"{path}: the metadata has no usable class names ({type(error).__name__}: {error})."
        raise BabelRSError(what, "Export it with the training tool, which writes names into the metadata.") from None
    wrong = [name for name in ordered if name.partition(":")[0] not in [sensor.value for sensor in Sensor]]
    if wrong:
        what = f"{path}: class {wrong[0]!r} names no sensor."
        raise BabelRSError(what, "Train on what `python -m benchmarks.baseline export` wrote.")
    return ordered


def export(config: ExportConfig) -> dict[Split, int]:
    """Write the data set; returns the objects written by split.

    Raises:
        BabelRSError: The annotations are wrong, have eval classes that training lacks, or ``out`` is taken.
    """
    if (config.out / "images").exists():
        raise BabelRSError(f"{config.out} holds a data set already.", "Give another folder or remove it.")
    splits: dict[Split, dict[Sensor, list[Sample]]] = {
        "train": read_split(config.data, list(Sensor), "train"),
        "eval": read_split(config.data, list(Sensor), "eval"),
    }
    classes = joint_classes(splits["train"])
    for sensor, group in splits["eval"].items():
        check_classes(group, sensor_classes(classes, sensor)[1], sensor)
    written = {name: write_split(splits[name], classes, config.out, FOLDERS[name]) for name in splits}
    write_description(classes, config.out)
    for name, samples in splits.items():
        objects = sum(len(sample.names) for group in samples.values() for sample in group)
        log.info("%s: %d of %d objects have their centre in the image and were written", name, written[name], objects)
    return written


def measure(
    graph: YoloGraph, samples: Mapping[Sensor, Sequence[Sample]], config: MeasureConfig
) -> dict[float, Evaluation]:
    """Accuracy of a graph, for every overlap of suppression asked for.

    Raises:
        BabelRSError: The graph lacks a class of the annotations, or an image cannot be read.
    """
    found: dict[str, Candidates] = {}
    truth: dict[str, GroundTruth] = {}
    for sensor, group in samples.items():
        names = sensor_classes(graph.classes, sensor)[1]
        check_classes(list(group), names, sensor)
        for sample in group:
            found[sample.name] = graph.candidates(sample, config.score_floor)
            truth[sample.name] = ground_truth(sample, names)
        log.info("%s: %d images", sensor, len(group))
    return {nms_iou: evaluate(_suppressed(found, config, nms_iou), truth) for nms_iou in config.nms_iou}


def _suppressed(found: Mapping[str, Candidates], config: MeasureConfig, nms_iou: float) -> dict[str, Detections]:
    return {
        name: candidates.detections(config.score_floor, nms_iou, config.max_detections)
        for name, candidates in found.items()
    }


def describe(by_overlap: Mapping[float, Evaluation], latency_ms: float) -> dict[str, Any]:
    """The measurements of a graph as plain values for JSON; the first overlap's in full."""
    reported = next(iter(by_overlap.values()))
    brief = {f"{nms_iou:g}": _brief(evaluation) for nms_iou, evaluation in by_overlap.items()}
    return {"latency_ms": round(latency_ms, 2), "by_nms_iou": brief, **reported.to_dict()}


def _brief(evaluation: Evaluation) -> dict[str, Any]:
    per_sensor = {sensor.value: precision.to_dict() for sensor, precision in evaluation.sensors.items()}
    return {"h_map": evaluation.to_dict()["h_map"], "sensors": per_sensor}


def _settings(config: MeasureConfig, samples: Mapping[Sensor, Sequence[Sample]]) -> dict[str, Any]:
    """What the measurements were made with."""
    return {
        "data": config.data.name,
        "split": config.split,
        "images": {sensor.value: len(group) for sensor, group in samples.items()},
        "input_px": config.size,
        "score_floor": config.score_floor,
        "nms_iou": config.nms_iou[0],
        "max_detections": config.max_detections,
        "latency": {"engine": "onnxruntime", "threads": config.threads, "batch": 1, "runs": config.runs},
    }


def _write(record: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def epochs_of(path: Path) -> int:
    """The count of epochs that ends a file's name.

    Raises:
        BabelRSError: The name ends in no number.
    """
    number = re.search(r"(\d+)$", path.stem)
    if number is None:
        raise BabelRSError(f"{path.name} ends in no number of epochs.", "Name the exports like epochs-005.onnx.")
    return int(number.group(1))


def run_export(arguments: list[str]) -> int:
    """``export``."""
    export(load_config(ExportConfig, arguments))
    return 0


def run_evaluate(arguments: list[str]) -> int:
    """``evaluate``."""
    config = load_config(EvaluateConfig, arguments)
    graph = YoloGraph(config.onnx, config.size, config.threads)
    samples = read_split(config.data, list(Sensor), config.split)
    by_overlap = measure(graph, samples, config)
    measured = describe(by_overlap, median_ms(config.onnx, config.threads, config.runs))
    record = {"schema": "babelrs.baseline/1", "graph": config.onnx.name, "settings": _settings(config, samples)}
    _write({**record, **measured}, config.out)
    sys.stdout.write(by_overlap[config.nms_iou[0]].format_table() + f"\n{measured['latency_ms']:.1f} ms an image\n")
    return 0


def run_curve(arguments: list[str]) -> int:
    """``curve``."""
    config = load_config(CurveConfig, arguments)
    paths = sorted(config.onnx_dir.glob("*.onnx"), key=epochs_of)
    if not paths:
        raise BabelRSError(f"{config.onnx_dir} holds no ONNX files.", "Export the checkpoints there first.")
    samples = read_split(config.data, list(Sensor), config.split)
    points = []
    for path in paths:
        graph = YoloGraph(path, config.size, config.threads)
        measured = describe(measure(graph, samples, config), median_ms(path, config.threads, config.runs))
        points.append({"epochs": epochs_of(path), **measured})
        sys.stdout.write(f"{epochs_of(path):>5} epochs: H-mAP {100 * measured['h_map']:.2f} %\n")
    record = {"schema": "babelrs.baseline-curve/1", "settings": _settings(config, samples), "curve": points}
    _write(record, config.out)
    return 0


def main(arguments: list[str]) -> int:
    """Entry point; the first argument is the command, ``COMMAND --help`` shows its settings."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "export": run_export,
        "evaluate": run_evaluate,
        "curve": run_curve,
    }
    if not arguments or arguments[0] not in commands:
        given = repr(arguments[0]) if arguments else "none"
        raise BabelRSError(f"The command is {given}.", f"Use one of: {', '.join(commands)}; each takes --help.")
    start_logging()
    return commands[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(run_command(main))
