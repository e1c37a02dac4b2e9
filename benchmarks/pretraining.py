"""``python -m benchmarks.pretraining``: does language pretraining help detection, and what in it?

Four arms with the same fine-tuning: no pretraining, CSIA on the last layer, CSIA with LVSA, and LVSA that weighs all
layers alike from the start (tau 0). Pretraining reads simulated scenes and the train split of the data; the eval split
is never read before the last measurement. Every part that is finished under ``work`` is taken as it is, and one that
was stopped goes on, so the command can be called again; finished arms and seeds are kept in the result file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import BabelRSError, run_command
from benchmarks.launching import command, environment, metrics
from benchmarks.pretraining_report import SCHEMA, format_table, plot, record_of, summary
from train.backbone_record import FOLDER, RECORD_FILE
from train.cli import load_config, start_logging
from train.models.backbone_export import export_backbone
from train.models.vlm_build import Vocabulary, build_vlm
from train.pretrain_config import PretrainConfig

log = logging.getLogger("benchmarks.pretraining")

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


@dataclass(frozen=True)
class Arm:
    """One arm with one seed."""

    name: str
    seed: int

    @property
    def folder(self) -> str:
        """Name of its folders."""
        return f"{self.name.replace(', ', '-').replace(' ', '')}.{self.seed}"


def prepare(config: ExperimentConfig) -> tuple[Path, Path]:
    """Scenes and instructions; the meta files of what is learnt and of what is held out."""
    scenes, seed = config.work / "scenes", "7"
    _once(
        scenes / "simulation.json", config, "train.simulate", "--out", scenes, "--train-scenes", config.scenes,
        "--eval-scenes", max(40, config.scenes // 10), "--size", config.scene_px, "--seed", seed,
    )  # fmt: skip
    for name, root, split in (("scenes", scenes, "train"), ("scenes", scenes, "eval"), ("real", config.data, "train")):
        out = config.work / f"{name}-{split}"
        _once(
            out / "meta.json", config, "train.instruct", "--data", root, "--split", split, "--out", out, "--samples",
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


def run_arm(config: ExperimentConfig, arm: Arm, learnt: Path, held_out: Path) -> dict[str, Any]:
    """Pretrain and fine-tune one arm; what came out."""
    backbone = config.work / "pretrain" / arm.folder
    if changes := ARMS[arm.name]:
        _train(
            backbone, "train.pretrain", "--config", config.pretraining, "--seed", arm.seed, "--out", backbone,
            "--data.meta", learnt, "--heldout.meta", held_out, *changes,
        )  # fmt: skip
    run = config.work / "detect" / arm.folder
    more = [part for each in config.more for part in (f"--{each.partition('=')[0]}", each.partition("=")[2])]
    _train(
        run, "train.finetune", "--config", config.detection, "--seed", arm.seed, "--out", run, "--data.root",
        config.data, "--backbone", backbone, *more,
    )  # fmt: skip
    return record_of(arm.name, arm.seed, metrics(backbone), metrics(run))


def write_untrained(config: ExperimentConfig) -> None:
    """The ViTs of arms without pretraining, as pretraining would begin with them."""
    given = ["--config", str(config.pretraining), "--data.meta", "unused"]
    model = load_config(PretrainConfig, given).model
    for arm in (Arm(name, seed) for name in config.arms for seed in config.seeds if ARMS[name] is None):
        folder = config.work / "pretrain" / arm.folder / FOLDER
        if not (folder / RECORD_FILE).exists():
            torch.manual_seed(arm.seed)
            export_backbone(build_vlm(model, _ANY_VOCABULARY), folder)


def _once(result: Path, config: ExperimentConfig, module: str, *given: object) -> None:
    if not result.exists():
        _call(config.work / "log", module, *given)


def _train(run: Path, module: str, *given: object) -> None:
    """A run to its end: as it is where it is finished, from its last checkpoint where it was stopped."""
    if (run / "final").exists():
        return
    if run.exists() and not (run / "last").exists():
        raise BabelRSError(f"{run} was stopped before its first checkpoint.", "Remove it and start again.")
    _call(run.parent / f"{run.name}.log", module, *given, *(["--resume"] if run.exists() else []))


def _call(file: Path, module: str, *given: object) -> None:
    log.info("%s %s", module, file.stem)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as output:
        done = subprocess.run(
            command([str(each) for each in given], module=module), env=environment(), stdout=output, stderr=output
        )
    if done.returncode:
        raise BabelRSError(f"{module} failed; the end of {file}:\n{file.read_text()[-2000:]}", "Mend what it says.")


def settings_hash(config: ExperimentConfig) -> str:
    """SHA-256 of everything that decides an arm's result, but for the data."""
    texts = [config.pretraining.read_text(), config.detection.read_text(), str(config.scenes), str(config.scene_px)]
    return hashlib.sha256("\n".join([*texts, *config.more]).encode()).hexdigest()


def collect(
    config: ExperimentConfig, work: Callable[[Arm], dict[str, Any]], known: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run what is not known yet, ``jobs`` at a time, and write the results whenever one more is there."""
    records = {(record["arm"], record["seed"]): record for record in known}
    wanted = [Arm(name, seed) for seed in config.seeds for name in config.arms if (name, seed) not in records]
    with ThreadPoolExecutor(config.jobs) as pool:
        for done in as_completed([pool.submit(work, arm) for arm in wanted]):
            record = done.result()
            records[record["arm"], record["seed"]] = record
            write(config, list(records.values()))
    return list(records.values())


def write(config: ExperimentConfig, records: Sequence[dict[str, Any]]) -> None:
    """Write ``OUT.json`` and ``OUT.png``."""
    ordered = sorted(records, key=lambda record: (list(ARMS).index(record["arm"]), record["seed"]))
    content = {
        "schema": SCHEMA,
        "settings": settings_hash(config),
        "scenes": config.scenes,
        "summary": summary(ordered),
        "records": ordered,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    plot(ordered, config.out.with_suffix(".png"))


def read_known(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Records of earlier calls.

    Raises:
        BabelRSError: They were made with other settings.
    """
    file = config.out.with_suffix(".json")
    if not file.exists():
        return []
    content = json.loads(file.read_text())
    if content["settings"] != settings_hash(config):
        raise BabelRSError(f"{file} holds results of other settings.", "Remove it, or give another --out.")
    return list(content["records"])


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(ExperimentConfig, arguments)
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise BabelRSError(f"arms: {', '.join(unknown)} is none of {', '.join(ARMS)}.", "See --help.")
    start_logging()
    known = read_known(config)
    learnt, held_out = prepare(config)
    write_untrained(config)
    records = collect(config, lambda arm: run_arm(config, arm, learnt, held_out), known)
    sys.stdout.write(format_table(summary(records)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
