"""``python -m train.finetune``: train one backbone and a head per sensor together.

Several processes or machines: ``accelerate launch -m train.finetune ...``; the settings' batch is the whole batch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from train.cli import load_config, start_logging
from train.config import FinetuneConfig
from train.data.samples import Sample, check_classes, check_objects, class_list, limited
from train.data.soi_det import read_split
from train.devices import warn_of_slow_precision
from train.footprint import predict, table
from train.interruption import exit_code
from train.models.detector import check_model
from train.objective import DetectionObjective, Objective
from train.parallel import make_accelerator, start_trackers
from train.processes import rank
from train.run_folder import FINAL, RunFolder
from train.run_plots import Panel, plot_run, read_metrics
from train.trainer import Trainer
from train.training_state import FREE

log = logging.getLogger("train.finetune")


def read_training(config: FinetuneConfig) -> tuple[dict[Sensor, list[Sample]], dict[Sensor, list[Sample]]]:
    """Training samples, and those to measure on while training (none where ``watch.evaluate_every`` is 0).

    Raises:
        BabelRSError: The annotations are wrong, or a sensor has no object to learn.
    """
    data = config.data
    samples = limited(read_split(data.root, data.sensors, "train"), data.images_per_sensor)
    check_objects(samples)
    if not config.watch.evaluate_every:
        return samples, {}
    evaluation = limited(read_split(data.root, data.sensors, "eval"), data.images_per_sensor)
    for sensor, group in evaluation.items():
        check_classes(group, class_list(samples[sensor]), sensor)
    return samples, evaluation


def train_detector(
    config: FinetuneConfig,
    samples: dict[Sensor, list[Sample]],
    evaluation: Mapping[Sensor, list[Sample]],
    make_objective: Callable[[torch.device], Objective],
    free: Collection[str] = FREE,
    panels: Sequence[Panel] = (),
) -> int:
    """One run from its beginning, or from where it was stopped, to its end; what its command returns.

    Args:
        config: All settings.
        samples: To learn from, by sensor.
        evaluation: To measure on while training.
        make_objective: What is minimised, on a device.
        free: Settings that a resumed run may change.
        panels: More to draw of the run's course.

    Raises:
        BabelRSError: As :meth:`train.trainer.Trainer.run`, or the run's folder cannot be used.
    """
    accelerator = make_accelerator(config.deterministic, config.watch.trackers, config.out)
    start_logging(logging.INFO if rank() == 0 else logging.WARNING)
    if not config.resume and rank() == 0:
        RunFolder(config.out).check_free()
    trainer = Trainer(config, samples, accelerator, evaluation, make_objective(accelerator.device))
    RunFolder(config.out).begin(config.model_dump(mode="json"), config.resume, free, accelerator.device)
    start_trackers(accelerator, config.watch.trackers, config.out)
    warn_of_slow_precision(config.precision, accelerator.device)
    finished = trainer.run()
    accelerator.end_training()
    if rank() == 0:
        plot_run(read_metrics(trainer.folder.metrics), config.out / "course.png", panels)
    return exit_code(finished, config.out / FINAL)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(FinetuneConfig, arguments)
    check_model(config.model)
    if config.dry_run:
        sys.stdout.write(table(predict(config)))
        return 0
    samples, evaluation = read_training(config)
    return train_detector(config, samples, evaluation, lambda device: DetectionObjective(config, device))


if __name__ == "__main__":
    sys.exit(run_command(main))
