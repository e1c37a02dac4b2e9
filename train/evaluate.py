"""``python -m train.evaluate``: AP50, AP75 and mAP per class and sensor, overall mAP and H-mAP of a checkpoint."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from babelrs.detections import Detections
from babelrs.errors import BabelRSError, run_command
from babelrs.metrics import Evaluation, GroundTruth, evaluate
from babelrs.sensors import Sensor
from train.checkpoint import Checkpoint, load_checkpoint
from train.cli import load_config, start_logging
from train.config import DataConfig
from train.data.samples import Sample, check_classes, limited
from train.data.soi_det import Split, read_split
from train.models.detector import Detector
from train.predict import Predictor

log = logging.getLogger("train.evaluate")


class EvaluateConfig(BaseModel):
    """Measure a checkpoint on a split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path = Field(description="folder of the checkpoint")
    out: Path | None = Field(None, description="JSON file to write; default: evaluation.<split>.json in the checkpoint")
    split: Split = Field("eval", description="split to measure on")
    data: DataConfig = DataConfig()
    threads: int = Field(0, ge=0, description="CPU threads; 0: PyTorch's choice")


def ground_truth(sample: Sample, classes: Sequence[str]) -> GroundTruth:
    """A sample's objects as metrics take them."""
    labels = np.array([list(classes).index(name) for name in sample.names], np.int32)
    return GroundTruth(sample.boxes, labels, sample.ignore, tuple(classes), sample.sensor)


def detect_samples(
    detector: Detector,
    checkpoint: Checkpoint,
    samples: Mapping[Sensor, Sequence[Sample]],
    device: torch.device | None = None,
) -> tuple[dict[str, Detections], dict[str, GroundTruth]]:
    """Detections and objects of samples, by their names."""
    found: dict[str, Detections] = {}
    truth: dict[str, GroundTruth] = {}
    for sensor, group in samples.items():
        predictor = Predictor(detector, checkpoint.profiles[sensor], sensor, device=device)
        for sample in group:
            found[sample.name] = predictor.from_file(sample.path)
            truth[sample.name] = ground_truth(sample, predictor.classes)
        log.info("%s: %d images", sensor, len(group))
    return found, truth


def evaluate_samples(
    detector: Detector,
    checkpoint: Checkpoint,
    samples: Mapping[Sensor, Sequence[Sample]],
    device: torch.device | None = None,
) -> Evaluation:
    """Run the detector over samples and measure it."""
    return evaluate(*detect_samples(detector, checkpoint, samples, device))


def read_checked(
    root: Path, sensors: Sequence[Sensor], split: Split, checkpoint: Checkpoint
) -> dict[Sensor, list[Sample]]:
    """A split whose sensors and classes the checkpoint knows.

    Raises:
        BabelRSError: A sensor or a class is missing from the checkpoint, or the annotations are wrong.
    """
    for sensor in sensors:
        if sensor not in checkpoint.classes:
            served = ", ".join(known.value for known in checkpoint.classes)
            raise BabelRSError(
                f"The checkpoint does not serve {sensor}.", f"It serves {served}: set data.sensors to these."
            )
    samples = read_split(root, sensors, split)
    for sensor, group in samples.items():
        check_classes(group, checkpoint.classes[sensor], sensor)
    return samples


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(EvaluateConfig, arguments)
    start_logging()
    if config.threads:
        torch.set_num_threads(config.threads)
    detector, checkpoint = load_checkpoint(config.checkpoint)
    samples = read_checked(config.data.root, config.data.sensors, config.split, checkpoint)
    samples = limited(samples, config.data.images_per_sensor)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = evaluate_samples(detector, checkpoint, samples, device)
    out = config.out or config.checkpoint / f"evaluation.{config.split}.json"
    record = {
        "schema": "babelrs.evaluation/1",
        "split": config.split,
        "images": {sensor.value: len(group) for sensor, group in samples.items()},
        "training": checkpoint.training,
        **result.to_dict(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(result.format_table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
