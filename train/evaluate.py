"""``python -m train.evaluate``: how well a checkpoint, or what was detected on board, does on a labelled split.

Writes a folder with AP50, AP75 and mAP per class and sensor, overall mAP and H-mAP, plots, pictures of the worst
errors, and result files for other evaluators; see docs/evaluation.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from babelrs.errors import run_command
from babelrs.metrics import Evaluation, evaluate
from babelrs.radiometry import DEFAULT_PROFILES, RadiometryProfile
from babelrs.sensors import Sensor
from train.checkpoint import Checkpoint, load_checkpoint
from train.cli import load_config, start_logging
from train.config import DataConfig
from train.data.read_ahead import ahead
from train.data.samples import Sample, check_classes, limited
from train.data.soi_det import Split, read_split
from train.devices import pick_device
from train.evaluation import report
from train.evaluation.inputs import Samples, Scored, check_samples, read_detections, warn_of
from train.evaluation.inputs import ground_truth as ground_truth
from train.models.detector import Detector
from train.predict import Prediction, Predictor

log = logging.getLogger("train.evaluate")

LOG_EVERY = 1000
SHARE = 16
"""Images that one thread takes at a time."""


class EvaluateConfig(BaseModel):
    """Measure a checkpoint, or detections in files, on a split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path | None = Field(None, description="folder of the checkpoint")
    detections: Path | None = Field(
        None, description="instead of a checkpoint: JSON Lines that babelrs-run wrote, or a folder with some"
    )
    out: Path | None = Field(
        None, description="folder to write; default: evaluation.<split> in the checkpoint or beside the detections"
    )
    split: Split = Field("eval", description="split to measure on")
    data: DataConfig = DataConfig()
    threads: int = Field(0, ge=0, description="CPU threads; 0: PyTorch's choice")
    batch_size: int = Field(4, ge=1, description="tiles that go through the model at a time")
    examples: int = Field(8, ge=0, description="false alarms and misses shown per sensor; 0: none")
    plots: bool = Field(True, description="draw the plots")
    result_files: bool = Field(True, description="write DOTA Task 1 (RGB, infrared) and COCO results (SAR)")

    @model_validator(mode="after")
    def _one_source(self) -> EvaluateConfig:
        if (self.checkpoint is None) == (self.detections is None):
            raise ValueError("give either a checkpoint or detections")
        return self


def predict_samples(
    detector: Detector,
    checkpoint: Checkpoint,
    samples: Samples,
    device: torch.device | None = None,
    batch_size: int = 4,
    threads: int = 1,
) -> Scored:
    """Run the detector over samples.

    Args:
        detector: In evaluation mode.
        checkpoint: Its record.
        samples: Images by sensor.
        device: Where to run; ``None``: on the CPU.
        batch_size: Tiles at a time.
        threads: Groups of images at a time; what is found does not depend on it.

    Raises:
        BabelRSError: A sensor has no image, an image is missing or cannot be read, two images of a sensor have one
            name, or the model gives NaN.
    """
    check_samples(samples)
    scored = Scored()
    for sensor, group in samples.items():
        predictor = Predictor(detector, checkpoint.profiles[sensor], sensor, device=device, batch_size=batch_size)
        paths = [sample.path for sample in group]
        shares = [paths[start : start + SHARE] for start in range(0, len(paths), SHARE)]
        look = partial(_look, predictor)
        found = map(look, shares) if threads == 1 else ahead(look, shares, threads)
        predictions = chain.from_iterable(found)
        for number, (sample, prediction) in enumerate(zip(group, predictions, strict=True), start=1):
            scored.add(sample, prediction.detections, prediction.width, prediction.height)
            if number % LOG_EVERY == 0:
                log.info("%s: %d of %d images", sensor, number, len(group))
        log.info("%s: %d images", sensor, len(group))
    warn_of(scored, samples)
    return scored


def _look(predictor: Predictor, paths: Sequence[Path]) -> list[Prediction]:
    return list(predictor.stream(paths))


def evaluate_samples(
    detector: Detector,
    checkpoint: Checkpoint,
    samples: Mapping[Sensor, Sequence[Sample]],
    device: torch.device | None = None,
) -> Evaluation:
    """Run the detector over samples and measure it; raises as :func:`predict_samples`."""
    scored = predict_samples(detector, checkpoint, samples, device)
    return evaluate(scored.found, scored.truth)


def read_checked(
    root: Path, sensors: Sequence[Sensor], split: Split, checkpoint: Checkpoint
) -> dict[Sensor, list[Sample]]:
    """A split whose sensors and classes the checkpoint knows.

    Raises:
        BabelRSError: A sensor or a class is missing from the checkpoint, or the annotations are wrong.
    """
    checkpoint.require(sensors)
    samples = read_split(root, sensors, split)
    for sensor, group in samples.items():
        check_classes(group, checkpoint.classes[sensor], sensor)
    return samples


def score_checkpoint(config: EvaluateConfig, folder: Path) -> tuple[Scored, Samples, Checkpoint]:
    """Run the checkpoint in ``folder`` over the split, on a GPU where there is one."""
    detector, checkpoint = load_checkpoint(folder)
    samples = read_checked(config.data.root, config.data.sensors, config.split, checkpoint)
    samples = limited(samples, config.data.images_per_sensor)
    device = pick_device()
    return predict_samples(detector, checkpoint, samples, device, config.batch_size), samples, checkpoint


def score_detections(config: EvaluateConfig, path: Path) -> tuple[Scored, Samples]:
    """Match the detections in ``path`` to the split."""
    samples = limited(read_split(config.data.root, config.data.sensors, config.split), config.data.images_per_sensor)
    check_samples(samples)
    scored = read_detections(path, samples)
    warn_of(scored, samples)
    return scored, samples


def write_report(
    config: EvaluateConfig,
    scored: Scored,
    samples: Samples,
    profiles: Mapping[Sensor, RadiometryProfile],
    provenance: Mapping[str, Any],
) -> str:
    """Analyse and write everything; returns the table."""
    folder = config.out or _default_folder(config)
    evaluation, reports = report.analyse_all(scored, config.examples)
    given = {
        "split": config.split,
        "images": {sensor.value: len(group) for sensor, group in samples.items()},
        "objects_outside_their_image": scored.outside,
        **provenance,
    }
    report.write_numbers(evaluation, reports, given, folder)
    if config.result_files:
        report.write_result_files(reports, config.data.root, config.split, folder / "results")
    if config.plots:
        report.write_plots(evaluation, reports, folder)
    if config.examples:
        paths = {sample.name: sample.path for group in samples.values() for sample in group}
        report.write_examples(reports, paths, profiles, folder / "examples")
    log.info("written to %s", folder)
    return report.format_report(evaluation, reports)


def _default_folder(config: EvaluateConfig) -> Path:
    name = f"evaluation.{config.split}"
    if config.checkpoint is not None:
        return config.checkpoint / name
    assert config.detections is not None  # checked with the settings
    return (config.detections if config.detections.is_dir() else config.detections.parent) / name


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(EvaluateConfig, arguments)
    start_logging()
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.checkpoint is not None:
        scored, samples, checkpoint = score_checkpoint(config, config.checkpoint)
        table = write_report(config, scored, samples, checkpoint.profiles, {"training": checkpoint.training})
    else:
        assert config.detections is not None  # checked with the settings
        scored, samples = score_detections(config, config.detections)
        provenance = {"detections": config.detections.name, "training": {}}
        table = write_report(config, scored, samples, DEFAULT_PROFILES, provenance)
    sys.stdout.write(table + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
