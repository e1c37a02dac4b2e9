"""``python -m benchmarks.pretraining``: does language pretraining help detection, and what in it?

Four arms with the same fine-tuning: no pretraining, CSIA on the last layer, CSIA with LVSA, and LVSA that weighs all
layers alike from the start (tau 0). Pretraining reads simulated scenes and the train split of the data; the eval split
is never read before the last measurement. Every part that is finished under ``work`` is taken as it is, and one that
was stopped goes on, so the command can be called again; finished arms and seeds are kept in the result file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import BabelRSError, run_command
from benchmarks.experiment import Arm, Results, once, options, settings_hash, to_the_end, with_end
from benchmarks.launching import metrics
from benchmarks.pretraining_report import MEASURES, SCHEMA, measures, plot, record_of
from benchmarks.seeds import Record, format_table, summary
from train.backbone_record import FOLDER, RECORD_FILE
from train.cli import load_config, start_logging
from train.models.backbone_export import export_backbone
from train.models.vlm_build import Vocabulary, build_vlm
from train.pretrain_config import PretrainConfig

ARMS: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "last": ("--model.merge", "last"),
    "lvsa": ("--model.merge", "lvsa"),
    "lvsa, tau 0": ("--model.merge", "lvsa", "--model.tau", "0"),
}
"""What each arm changes in the settings of pretraining; ``None`` is the same ViT with its first, random weights."""
_EXPERIMENTS = Path(__file__).parent / "experiments"
_ANY_VOCABULARY = Vocabulary(512, 3, 1, 0)
"""Of a language model that is thrown away."""


class ExperimentConfig(BaseModel):
    """Pretrain and fine-tune every arm with every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="folder in the SOI-Det layout")
    work: Path = Field(Path("runs/pretraining"), description="folder for scenes, instructions and runs")
    arms: tuple[str, ...] = Field(tuple(ARMS), min_length=1, description=f"of: {', '.join(ARMS)}")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of both trainings")
    jobs: int = Field(2, ge=1, description="runs at a time, each on one thread")
    scenes: int = Field(400, ge=1, description="simulated scenes to learn from, each seen by all sensors")
    scene_px: int = Field(256, ge=64, description="side of a scene, pixels")
    pretraining: Path = Field(_EXPERIMENTS / "pretraining.yaml", description="settings of train.pretrain")
    detection: Path = Field(_EXPERIMENTS / "detection.yaml", description="settings of train.finetune")
    more: tuple[str, ...] = Field((), description="options for train.finetune beside its settings, as name=value")
    out: Path = Field(Path("benchmarks/results/pretraining"), description="results go to OUT.json and OUT.png")


def prepare(config: ExperimentConfig) -> tuple[Path, Path]:
    """Scenes and instructions; the meta files of what is learnt and of what is held out."""
    scenes, logs, seed = config.work / "scenes", config.work / "log", "7"
    once(
        scenes / "simulation.json", logs, "train.simulate", "--out", scenes, "--train-scenes", config.scenes,
        "--eval-scenes", max(40, config.scenes // 10), "--size", config.scene_px, "--seed", seed,
    )  # fmt: skip
    for name, root, split in (("scenes", scenes, "train"), ("scenes", scenes, "eval"), ("real", config.data, "train")):
        out = config.work / f"{name}-{split}"
        once(
            out / "meta.json", logs, "train.instruct", "--data", root, "--split", split, "--out", out, "--samples",
            4, "--max-tiles", 1, "--seed", seed,
        )  # fmt: skip
    learnt = config.work / "learnt.json"
    sets = {}
    for name in ("scenes", "real"):
        folder = config.work / f"{name}-train"
        for key, values in json.loads((folder / "meta.json").read_text()).items():
            sets[f"{name}_{key}"] = {**values, "annotation": str((folder / values["annotation"]).resolve())}
    learnt.write_text(json.dumps(sets, indent=1))
    return learnt, config.work / "scenes-eval" / "meta.json"


def run_arm(config: ExperimentConfig, arm: Arm, learnt: Path, held_out: Path) -> Record:
    """Pretrain and fine-tune one arm; what came out."""
    backbone = config.work / "pretrain" / arm.folder
    if changes := ARMS[arm.name]:
        to_the_end(
            backbone, "train.pretrain", "--config", config.pretraining, "--seed", arm.seed, "--out", backbone,
            "--data.meta", learnt, "--heldout.meta", held_out, *changes,
        )  # fmt: skip
    run = config.work / "detect" / arm.folder
    to_the_end(
        run, "train.finetune", "--config", config.detection, "--seed", arm.seed, "--out", run, "--data.root",
        config.data, "--backbone", backbone, *options(config.more),
    )  # fmt: skip
    return record_of(arm.name, arm.seed, metrics(backbone), with_end(run, config.data, metrics(run)))


def write_untrained(config: ExperimentConfig) -> None:
    """The ViTs of arms without pretraining, as pretraining would begin with them."""
    given = ["--config", str(config.pretraining), "--data.meta", "unused"]
    model = load_config(PretrainConfig, given).model
    for arm in (Arm(name, seed) for name in config.arms for seed in config.seeds if ARMS[name] is None):
        folder = config.work / "pretrain" / arm.folder / FOLDER
        if not (folder / RECORD_FILE).exists():
            torch.manual_seed(arm.seed)
            export_backbone(build_vlm(model, _ANY_VOCABULARY), folder)


def results_of(config: ExperimentConfig) -> Results:
    """Where results are kept; everything that decides them but the data makes their settings."""
    texts = [config.pretraining.read_text(), config.detection.read_text(), str(config.scenes), str(config.scene_px)]
    hashed = settings_hash(*texts, *config.more)
    return Results(
        config.out, SCHEMA, hashed, list(ARMS), lambda records: summary(records, measures), plot,
        {"scenes": config.scenes},
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(ExperimentConfig, arguments)
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise BabelRSError(f"arms: {', '.join(unknown)} is none of {', '.join(ARMS)}.", "See --help.")
    start_logging()
    results = results_of(config)
    results.known()  # of other settings: said before anything is run
    learnt, held_out = prepare(config)
    write_untrained(config)
    wanted = [Arm(name, seed) for seed in config.seeds for name in config.arms]
    records = results.collect(wanted, lambda arm: run_arm(config, arm, learnt, held_out), config.jobs)
    sys.stdout.write(format_table(summary(records, measures), MEASURES))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
