"""``python -m train.align``: how near the sensors lie to each other, before and after alignment through language.

Measures what BabelRS (arXiv 2603.01758) argues: that the same concept's features draw together across sensors, and that
the sensors' detection gradients on the shared backbone turn from opposing to agreeing. See docs/alignment.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import torch

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from train.alignment.config import AlignConfig
from train.alignment.features import LabelledImages, label_images, object_features
from train.alignment.gradients import check_trainable, gradient_cosines
from train.alignment.measures import measure_pairs
from train.alignment.plots import plot_alignment
from train.alignment.report import PLOT, Result, format_table, write_numbers
from train.alignment.resampling import changes
from train.alignment.sources import Subject, at_random, open_checkpoint
from train.cli import load_config, start_logging
from train.data.samples import Sample, check_objects, class_list, limited
from train.data.soi_det import read_split
from train.devices import pick_device
from train.instruct.concepts import CONCEPTS, read_concepts

log = logging.getLogger("train.align")

TrainingSamples = dict[Sensor, list[Sample]]


def read_images(config: AlignConfig) -> dict[Sensor, LabelledImages]:
    """The objects that are looked at, by sensor.

    Raises:
        BabelRSError: The annotations or the table of concepts are wrong, or a sensor has no object.
    """
    table = CONCEPTS if config.concepts is None else read_concepts(config.concepts)
    samples = limited(read_split(config.data, config.sensors, config.split), config.images_per_sensor)
    return label_images(samples, table, config.min_objects)


def read_training(config: AlignConfig) -> TrainingSamples:
    """The images of whose batches gradients are taken; none where there are no batches.

    Raises:
        BabelRSError: The annotations are wrong, or a sensor has no object.
    """
    if not config.batches:
        return {}
    samples = limited(read_split(config.data, config.sensors, "train"), config.images_per_sensor)
    check_objects(samples)
    return samples


def open_both(config: AlignConfig, training: TrainingSamples) -> dict[str, Subject]:
    """What is compared, ``before`` and ``after``.

    Raises:
        BabelRSError: A checkpoint cannot be read or does not fit.
    """
    classes = {sensor: class_list(group) for sensor, group in training.items()}
    after = open_checkpoint(config.checkpoint, config, classes)
    if config.before is None:
        before = at_random(after, config.seed, classes)
    else:
        before = open_checkpoint(config.before, config, classes)
    if training:
        for subject in (before, after):
            check_trainable(subject, training, config)
    return {"before": before, "after": after}


def measure(
    subject: Subject,
    images: Mapping[Sensor, LabelledImages],
    training: TrainingSamples,
    config: AlignConfig,
    device: torch.device,
) -> Result:
    """Features first, then gradients, for which new heads may be trained.

    Raises:
        BabelRSError: An image cannot be read, or a number is not finite.
    """
    objects = object_features(subject, images, device, config.batch_size)
    gradients = gradient_cosines(subject, training, config, device) if training else None
    subject.detector.to("cpu")
    return Result(subject.provenance, objects, measure_pairs(objects), gradients)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(AlignConfig, arguments)
    start_logging()
    if config.threads:
        torch.set_num_threads(config.threads)
    images, training = read_images(config), read_training(config)
    subjects = open_both(config, training)
    device = pick_device()
    results = {}
    for name, subject in subjects.items():
        log.info("%s: %s", name, subject.provenance["kind"])
        results[name] = measure(subject, images, training, config, device)
    folder = config.out or config.checkpoint / f"alignment.{config.split}"
    change = changes(results["before"].objects, results["after"].objects, config.resamples, config.seed)
    write_numbers(results, change, images, config, folder)
    plot_alignment(results, folder / PLOT)
    log.info("written to %s", folder)
    sys.stdout.write(format_table(results, change, images) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
