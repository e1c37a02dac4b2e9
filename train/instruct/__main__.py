"""Labelled images as instruction data: ``python -m train.instruct --data ROOT --out DIR``.

ROOT is in the SOI-Det layout, as released or as python -m train.simulate writes it. The result is read by
python -m train.pretrain through DIR/meta.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from babelrs.errors import collected, run_command
from babelrs.sensors import Sensor
from train.command_line import CommandParser
from train.data.soi_det import read_split
from train.instruct.concepts import CONCEPTS, read_concepts
from train.instruct.questions import TASKS
from train.instruct.write import WritePlan, write_instructions


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog="python -m train.instruct", description=__doc__, allow_abbrev=False)
    made.add_argument("--data", type=Path, required=True, help="data folder in the SOI-Det layout")
    made.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or new")
    made.add_argument("--split", choices=("train", "eval"), default="train", help="which split (default train)")
    made.add_argument("--sensors", default="rgb,sar,ir", help="comma-separated, of rgb, sar, ir (default all)")
    made.add_argument("--tasks", default=",".join(TASKS), help=f"comma-separated, of {', '.join(TASKS)} (default all)")
    made.add_argument("--samples", type=int, default=3, help="conversations of an image at most (default 3)")
    made.add_argument("--turns", type=int, default=1, help="questions of a conversation at most (default 1)")
    made.add_argument("--max-boxes", type=int, default=10, help="boxes of an answer at most (default 10)")
    made.add_argument(
        "--absent-share", type=float, default=0.2, help="how often counting asks for what is not there (default 0.2)"
    )
    made.add_argument("--max-tiles", type=int, default=6, help="max_dynamic_patch of the meta file (default 6)")
    made.add_argument("--concepts", type=Path, help="YAML of class names and concepts, over the built-in table")
    made.add_argument("--seed", type=int, default=0, help="seed of every random draw (default 0)")
    return made


def make_plan(arguments: argparse.Namespace) -> tuple[WritePlan, tuple[Sensor, ...]]:
    """What arguments ask for.

    Raises:
        BabelRSError: Some are wrong; all are listed.
    """
    tasks = tuple(dict.fromkeys(name.strip() for name in arguments.tasks.split(",") if name.strip()))
    faults = [f"--tasks: {task!r} is none of {', '.join(TASKS)}" for task in tasks if task not in TASKS]
    faults += [] if tasks else ["--tasks names no task"]
    for name, least in (("samples", 1), ("turns", 1), ("max_boxes", 1), ("max_tiles", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            faults.append(f"--{name.replace('_', '-')} {getattr(arguments, name)} is below {least}")
    if not 0 <= arguments.absent_share <= 1:
        faults.append(f"--absent-share {arguments.absent_share} is not within 0..1")
    if arguments.out.is_dir() and any(arguments.out.iterdir()):
        faults.append(f"--out {arguments.out} is not empty")
    named = {Sensor.parse(name) for name in arguments.sensors.split(",") if name.strip()}
    faults += [] if named else ["--sensors names no sensor"]
    if faults:
        raise collected("The arguments are wrong; nothing was written", faults, "See --help.")
    plan = WritePlan(
        tasks=tasks,
        samples=arguments.samples,
        turns=arguments.turns,
        max_boxes=arguments.max_boxes,
        absent_share=arguments.absent_share,
        max_tiles=arguments.max_tiles,
        seed=arguments.seed,
        concepts=read_concepts(arguments.concepts) if arguments.concepts else CONCEPTS,
    )
    return plan, tuple(sensor for sensor in Sensor if sensor in named)


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    plan, sensors = make_plan(arguments)
    samples = read_split(arguments.data, sensors, arguments.split)
    summary = write_instructions(samples, arguments.data, arguments.split, arguments.out, plan)
    sys.stdout.write(json.dumps(summary.to_dict(), indent=1) + f"\n{arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
