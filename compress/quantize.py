"""``python -m compress.quantize``: a checkpoint becomes the bundle that goes on board."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import SelfTest, open_bundle, pack_bundle, write_manifest, write_selftest
from babelrs.errors import BabelRSError, LimitMissedError, run_command
from babelrs.images import read_frame
from babelrs.manifest import Manifest, SensorEntry
from babelrs.radiometry import to_uint8
from babelrs.sensors import Sensor
from babelrs.tiling import cut_tile, plan_tiles
from compress.export import export_graph
from compress.weights import SharedWeights
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.selftest import SelfTestResult, run_selftest
from train.checkpoint import Checkpoint, load_checkpoint
from train.cli import load_config, start_logging
from train.data.soi_det import read_split
from train.models.detector import Detector, SensorDetector

log = logging.getLogger("compress.quantize")

SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE_PX = 0.05
"""How far an exported float graph's outputs may lie from PyTorch's."""


class QuantizeConfig(BaseModel):
    """Make a bundle from a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path = Field(description="folder of the checkpoint")
    out: Path = Field(Path("bundle"), description="folder of the bundle; must not exist")
    target: Literal["cpu"] = Field("cpu", description="device the bundle is for")
    precision: Literal["fp32"] = Field("fp32", description="precision of the graphs")
    name: str = Field("babelrs", min_length=1, description="name of the model in the manifest")
    selftest_root: Path | None = Field(
        None, description="SOI-Det folder whose first eval image of each sensor becomes the self-test; default: noise"
    )
    selftest_px: int = Field(320, ge=32, description="side of the part of that image that is used, pixels")
    score_threshold: float = Field(0.3, ge=0, le=1, description="least score that is reported on board")
    seed: int = Field(0, ge=0, description="seed of the self-test's noise")
    archive: bool = Field(False, description="also write the bundle as one .babelrs file beside the folder")


def selftest_pixels(config: QuantizeConfig, checkpoint: Checkpoint, sensor: Sensor) -> np.ndarray[Any, Any]:
    """The self-test's input ``(1, H, W, C)`` uint8: the middle of a real image on black, or noise."""
    height, width = checkpoint.model.input_px.of(sensor)
    if config.selftest_root is None:
        shape = (1, height, width, sensor.num_channels)
        return np.random.default_rng([config.seed, list(Sensor).index(sensor)]).integers(0, 256, shape, dtype=np.uint8)
    samples = read_split(config.selftest_root, [sensor], "eval")[sensor]
    sample = max(samples, key=lambda each: len(each.names))  # the fullest image tests most
    image = to_uint8(read_frame(sample.path), checkpoint.profiles[sensor])
    side = config.selftest_px
    top, left = max(0, (image.shape[0] - side) // 2), max(0, (image.shape[1] - side) // 2)
    part = image[top : top + side, left : left + side]
    tile = plan_tiles(part.shape[1], part.shape[0], width, height, 0.0)[0]
    return cut_tile(part, tile, width, height)[None]


def expected_outputs(detector: Detector, sensor: Sensor, pixels: np.ndarray[Any, Any]) -> SelfTest:
    """PyTorch's outputs for ``(N, H, W, C)`` uint8 pixels, as a self-test with the float tolerances."""
    model = SensorDetector(detector, sensor, detector.config.max_detections).eval()
    with torch.inference_mode():
        boxes, scores, labels = (output.numpy() for output in model(torch.from_numpy(pixels)))
    return SelfTest(pixels, boxes, scores, labels, SCORE_TOLERANCE, BOX_TOLERANCE_PX)


def write_bundle(config: QuantizeConfig, detector: Detector, checkpoint: Checkpoint, folder: Path) -> None:
    """Export every sensor's graph into ``folder``, with self-tests that each must pass under ONNX Runtime.

    Raises:
        LimitMissedError: ONNX Runtime's outputs differ from PyTorch's by more than the tolerance.
    """
    weights = SharedWeights()
    for sensor in checkpoint.classes:
        graph = export_graph(detector, sensor)
        weights.take_from(graph)
        (folder / f"model.{sensor}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    weights.write(folder)
    manifest = _manifest(config, checkpoint)
    for sensor, entry in manifest.sensors.items():
        expected = expected_outputs(detector, sensor, selftest_pixels(config, checkpoint, sensor))
        write_selftest(folder / entry.selftest, expected)
        _require(sensor, run_selftest(OnnxRuntimeEngine(folder, entry), expected))
    write_manifest(folder, manifest)


def _require(sensor: Sensor, result: SelfTestResult) -> None:
    log.info(
        "%s: ONNX Runtime against PyTorch: scores %.1e, boxes %.1e px apart",
        sensor,
        result.score_difference,
        result.box_difference_px,
    )
    if not result.passed:
        raise LimitMissedError(
            f"The exported {sensor} graph differs from PyTorch: {result}.",
            f"The limits are {SCORE_TOLERANCE} in scores and {BOX_TOLERANCE_PX} px; no bundle was written.",
        )


def _manifest(config: QuantizeConfig, checkpoint: Checkpoint) -> Manifest:
    model = checkpoint.model
    entries = {}
    for sensor, classes in checkpoint.classes.items():
        height, width = model.input_px.of(sensor)
        entries[sensor] = SensorEntry(
            classes=classes,
            profile=checkpoint.profiles[sensor],
            graph=f"model.{sensor}.onnx",
            selftest=f"selftest.{sensor}.npz",
            input_height=height,
            input_width=width,
            channels=sensor.num_channels,
            max_detections=model.max_detections,
            score_threshold=config.score_threshold,
            nms_iou=model.nms_iou,
            tile_overlap=model.tile_overlap,
            precision=config.precision,
        )
    return Manifest(
        name=config.name,
        target=config.target,
        taps=model.backbone.taps,
        strides=model.strides,
        sensors=entries,
        metrics=measured(config.checkpoint) or checkpoint.metrics,
        training=checkpoint.training,
    )


def measured(checkpoint: Path) -> dict[str, Any]:
    """What ``train.evaluate`` measured of a checkpoint, for the manifest; empty where it was not run.

    Raises:
        BabelRSError: The evaluation's file is damaged.
    """
    file = checkpoint / "evaluation.eval" / "evaluation.json"
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text())
        return {key: record[key] for key in ("split", "images", "h_map", "overall", "sensors")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BabelRSError(f"{file} is no evaluation: {error}.", "Remove it or run train.evaluate again.") from None


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(QuantizeConfig, arguments)
    start_logging()
    if config.out.exists():
        raise BabelRSError(f"{config.out} exists already.", "Remove it or name another folder with --out.")
    torch.set_num_threads(1)  # the order of sums, and so the self-test's last bits, depend on the number of threads
    detector, checkpoint = load_checkpoint(config.checkpoint)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{config.out.name}.", dir=config.out.parent))
    try:
        write_bundle(config, detector, checkpoint, aside)
        aside.chmod(0o755)
        os.rename(aside, config.out)  # no half bundle: written aside, then renamed
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    bundle = open_bundle(config.out)
    if config.archive:
        pack_bundle(bundle, config.out.with_name(config.out.name + ".babelrs"))
    log.info("bundle %s in %s", bundle.digest[:12], config.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
