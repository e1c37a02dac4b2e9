"""``python -m compress.distill``: train a student on labelled images and on what a teacher makes of them.

The teacher is any checkpoint of fine-tuning, the student any model configuration; everything else, from resuming to
several processes, is :mod:`train.finetune`'s. See docs/distillation.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from babelrs.errors import run_command
from compress.distill_config import DistillationConfig
from compress.distillation import Distillation
from compress.teacher import load_teacher
from train.activations import without_data
from train.checkpoint import read_checkpoint
from train.cli import load_config
from train.data.samples import class_list
from train.finetune import read_training, train_detector
from train.footprint import FLOAT_BYTES, forward_flops, predict, table
from train.models.detector import Detector, check_model
from train.run_plots import plot_part
from train.training_state import FREE


def draw_gaps(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    """Every sensor's gap to the teacher against steps."""
    plot_part(axis, lines, "gap")
    axis.set(ylabel="gap to the teacher", yscale="log")


def draw_weights(axis: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    """Every sensor's weight against steps."""
    plot_part(axis, lines, "gap_weight")
    axis.axhline(1, color="black", lw=0.6)
    axis.set(ylabel="weight of the gap")


def teacher_cost(config: DistillationConfig) -> str:
    """What the teacher adds to a step, as Markdown: its weights, and a forward pass of every crop."""
    record, crop = read_checkpoint(config.teacher), config.augment.crop_px
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    teacher = without_data(lambda: Detector(record.model, record.classes), mode)
    with mode:
        flops = {sensor: forward_flops(teacher, sensor, crop, crop) for sensor in config.data.sensors}
    count = sum(parameter.numel() for parameter in teacher.parameters())
    each = ", ".join(f"{sensor} {value / 1e9:.1f}" for sensor, value in flops.items())
    return (
        f"The teacher adds {count / 1e6:.3f} million parameters ({FLOAT_BYTES * count / 2**20:.1f} MiB, without "
        f"gradients or moments) to every process, and a forward pass of every {crop} px crop (GFLOP: {each}). The "
        "tables above are the student's; the projections of its taps are not in them.\n"
    )


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(DistillationConfig, arguments)
    check_model(config.model)
    if config.dry_run:
        sys.stdout.write(f"{table(predict(config))}\n{teacher_cost(config)}")
        return 0
    samples, evaluation = read_training(config)
    teacher = load_teacher(config.teacher, {sensor: class_list(group) for sensor, group in samples.items()})
    return train_detector(
        config,
        samples,
        evaluation,
        lambda device: Distillation(config, teacher, device),
        FREE | {"teacher"},
        (draw_gaps, draw_weights),
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
