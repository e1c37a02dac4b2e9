"""``python -m benchmarks.distillation``: is a student better for its teacher?

The same student with the same seeds, images and steps, with and without a teacher. Every run that is finished under
``work`` is taken as it is, and one that was stopped goes on, so the command can be called again; finished arms and
seeds are kept in the result file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import sha256_of
from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.experiment import Arm, Results, options, settings_hash, to_the_end, with_end
from benchmarks.launching import metrics
from benchmarks.seeds import ACCURACIES, Record, accuracies, curve_of, draw_curves, draw_ends, format_table, summary
from train.checkpoint import WEIGHTS_FILE, Checkpoint, read_checkpoint
from train.cli import load_config, start_logging

SCHEMA = "babelrs.distillation-experiment/1"
ALONE, TAUGHT = "alone", "taught"
ARMS = (ALONE, TAUGHT)


class ExperimentConfig(BaseModel):
    """Train a student with every seed, alone and with a teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder in the SOI-Det layout")
    teacher: Path = Field(description="folder of the teacher's checkpoint")
    work: Path = Field(Path("runs/distillation"), description="folder for the runs")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of the trainings")
    jobs: int = Field(2, ge=1, description="runs at a time, each on one thread")
    settings: Path = Field(
        Path(__file__).parent / "experiments" / "distillation.yaml", description="settings of both arms' training"
    )
    more: tuple[str, ...] = Field((), description="options for both arms beside the settings, as name=value")
    distill: tuple[str, ...] = Field((), description="options for compress.distill only, as name=value")
    out: Path = Field(Path("benchmarks/results/distillation"), description="results go to OUT.json and OUT.png")


def run_arm(config: ExperimentConfig, arm: Arm) -> Record:
    """Train the student of one arm; what came out."""
    run = config.work / arm.folder
    given = (
        "--config", config.settings, "--seed", arm.seed, "--out", run, "--data.root", config.data,
        *options(config.more),
    )  # fmt: skip
    if arm.name == ALONE:
        to_the_end(run, "train.finetune", *given)
    else:
        to_the_end(run, "compress.distill", *given, "--teacher", config.teacher, *options(config.distill))
    return record_of(arm, with_end(run, config.data, metrics(run)), read_checkpoint(run / "final"))


def record_of(arm: Arm, lines: Sequence[Mapping[str, Any]], student: Checkpoint) -> Record:
    """What one arm and seed gave.

    Args:
        arm: Whose.
        lines: Of the run's ``metrics.jsonl``.
        student: What its last checkpoint says.

    Raises:
        BabelRSError: The run measured nothing.
    """
    images = student.training["images"]
    per_step = sum(student.training["settings"]["batch"][sensor] for sensor in images)
    curve = curve_of(lines, f"{arm.name}, seed {arm.seed}")
    last = next(line for line in reversed(lines) if "gradient_norm" in line)
    return {
        "arm": arm.name,
        "seed": arm.seed,
        "curve": [{**point, "epochs": point["step"] * per_step / sum(images.values())} for point in curve],
        "steps_per_s": last["steps_per_s"],
        "at_the_end": {sensor: last[sensor] for sensor in images},
    }


def draw(records: Sequence[Record], path: Path, teacher_h_map: float | None) -> None:
    """H-mAP against epochs and at the end, both arms; the teacher's as a line, where it was measured.

    Args:
        records: Of both arms.
        path: Of the picture.
        teacher_h_map: Between 0 and 1.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    draw_curves(axes[0], records, "epochs")
    axes[0].set_xlabel("epochs")
    draw_ends(axes[1], records)
    for axis in axes:
        if teacher_h_map is not None:
            axis.axhline(100 * teacher_h_map, color="black", lw=0.8, ls="--", label="teacher")
            axis.set_ylim(0, max(axis.get_ylim()[1], 105 * teacher_h_map))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def results_of(config: ExperimentConfig) -> Results:
    """Where results are kept; everything that decides them but the data makes their settings.

    Raises:
        BabelRSError: The teacher or the settings cannot be read.
    """
    teacher, sha256 = read_checkpoint(config.teacher), sha256_of(config.teacher / WEIGHTS_FILE)
    try:
        texts = [config.settings.read_text(), sha256, *config.more, "distill", *config.distill]
    except OSError as error:
        raise BabelRSError(f"Cannot read the settings {config.settings}: {error}.", "Give a YAML file.") from None
    h_map = teacher.metrics.get("h_map")
    beside = {"teacher": {"sha256": sha256, "h_map": h_map, "training": teacher.training}}
    return Results(
        config.out, SCHEMA, settings_hash(*texts), ARMS, lambda records: summary(records, accuracies),
        lambda records, path: draw(records, path, h_map), beside,
    )  # fmt: skip


def verdict(found: Mapping[str, Any]) -> str:
    """What the seeds say of H-mAP and of the weakest sensor, in words."""
    arms = found["arms"]
    if set(arms) != set(ARMS):
        return ""
    gain = 100 * (arms[TAUGHT]["h_map"]["mean"] - arms[ALONE]["h_map"]["mean"])
    apart = [each for each in found["separated"] if each["measure"] == "h_map"]
    word = f"the seeds separate them: {apart[0]['higher']} is above" if apart else "the seeds do not separate them"
    weakest = min((s.value for s in Sensor), key=lambda name: arms[ALONE][f"{name} map"]["mean"])
    change = 100 * (arms[TAUGHT][f"{weakest} map"]["mean"] - arms[ALONE][f"{weakest} map"]["mean"])
    return f"H-mAP with a teacher: {gain:+.2f} points, {word}. Weakest sensor ({weakest}) mAP: {change:+.2f} points.\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(ExperimentConfig, arguments)
    start_logging()
    results = results_of(config)
    wanted = [Arm(name, seed) for seed in config.seeds for name in ARMS]
    records = results.collect(wanted, lambda arm: run_arm(config, arm), config.jobs)
    found = summary(records, accuracies)
    sys.stdout.write(format_table(found, ACCURACIES) + verdict(found))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
