"""Simulate labelled RGB, SAR and infrared scenes: ``python -m train.simulate --out DIR --train-scenes 100``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from babelrs.errors import BabelRSError, run_command
from babelrs.sensors import Sensor
from train.command_line import CommandParser
from train.simulation import layout
from train.simulation.georeference import require_rasterio
from train.simulation.scenes import SCHEMA, Plan, simulate

MIN_SIZE_PX, MAX_SIZE_PX = 64, 20_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog="python -m train.simulate", description=__doc__, allow_abbrev=False)
    made.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or new")
    made.add_argument("--train-scenes", type=int, default=8, help="scenes for training (default 8)")
    made.add_argument("--eval-scenes", type=int, default=2, help="scenes for evaluation (default 2)")
    made.add_argument(
        "--size",
        default="640",
        help="pixels: one number or WIDTHxHEIGHT; about 120 bytes of memory a pixel (default 640)",
    )
    made.add_argument("--sensors", default="rgb,sar,ir", help="comma-separated, of rgb, sar, ir (default all)")
    made.add_argument("--seed", type=int, default=0, help="seed of every random draw (default 0)")
    made.add_argument("--looks", type=float, default=4.0, help="looks of the SAR image, 1 or more (default 4)")
    made.add_argument("--night", action="store_true", help="all scenes by night, RGB too (default: mixed, RGB by day)")
    made.add_argument("--gsd", type=float, help="metres per pixel (default: varies, 0.30 to 0.42)")
    made.add_argument("--geotiff", action="store_true", help="also write GeoTIFFs (needs the geo extra)")
    made.add_argument("--workers", type=int, default=1, help="processes; the result is the same (default 1)")
    made.add_argument("--overwrite", action="store_true", help="replace an earlier simulation in the folder")
    return made


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels of ``640`` or ``800x600``.

    Raises:
        BabelRSError: It is no size, or not between 64 and 20,000 pixels.
    """
    pieces = text.lower().split("x")
    if len(pieces) > 2 or not all(piece.strip().isdigit() for piece in pieces):
        raise BabelRSError(f"--size {text!r} is no size.", "Write 640 or 800x600.")
    width, height = int(pieces[0]), int(pieces[-1])
    if not all(MIN_SIZE_PX <= side <= MAX_SIZE_PX for side in (width, height)):
        raise BabelRSError(f"--size {text!r} is out of range.", f"Use {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels a side.")
    return width, height


def parse_sensors(text: str) -> tuple[Sensor, ...]:
    """The sensors that a comma-separated list names, each once, in a fixed order.

    Raises:
        BabelRSError: The list is empty or names an unknown sensor.
    """
    named = {Sensor.parse(name) for name in text.split(",") if name.strip()}
    if not named:
        raise BabelRSError("--sensors names no sensor.", "Use some of: rgb, sar, ir.")
    return tuple(sensor for sensor in Sensor if sensor in named)


def make_plan(argv: list[str]) -> tuple[Plan, bool]:
    """The plan that arguments ask for, and whether an earlier simulation may be replaced.

    Raises:
        BabelRSError: An argument is wrong.
    """
    arguments = parser().parse_args(argv)
    width, height = parse_size(arguments.size)
    for name in ("train_scenes", "eval_scenes", "seed"):
        if getattr(arguments, name) < 0:
            raise BabelRSError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is negative.", "Use 0 or more.")
    if arguments.train_scenes + arguments.eval_scenes == 0:
        raise BabelRSError("No scenes are asked for.", "Set --train-scenes or --eval-scenes.")
    if not 1 <= arguments.looks <= 1000:
        raise BabelRSError(f"--looks {arguments.looks} is out of range.", "Use 1 to 1000.")
    if arguments.gsd is not None and not 0.05 <= arguments.gsd <= 100:
        raise BabelRSError(f"--gsd {arguments.gsd} is out of range.", "Use 0.05 to 100 metres.")
    if not 1 <= arguments.workers <= 256:
        raise BabelRSError(f"--workers {arguments.workers} is out of range.", "Use 1 to 256.")
    if arguments.geotiff:
        require_rasterio()
    plan = Plan(
        out=arguments.out,
        train_scenes=arguments.train_scenes,
        eval_scenes=arguments.eval_scenes,
        width_px=width,
        height_px=height,
        sensors=parse_sensors(arguments.sensors),
        seed=arguments.seed,
        looks=arguments.looks,
        night=arguments.night,
        gsd_m=arguments.gsd,
        geotiff=arguments.geotiff,
        workers=arguments.workers,
    )
    return plan, arguments.overwrite


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make sure that the folder is empty; remove an earlier simulation from it if that is allowed.

    Raises:
        BabelRSError: It is not empty and may not be cleared, or cannot be written.
    """
    try:
        if out.is_dir() and any(out.iterdir()):
            if not overwrite:
                raise BabelRSError(f"--out {out} is not empty.", "Name a new folder, or add --overwrite.")
            _clear(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BabelRSError(f"Cannot write to --out {out}: {error.strerror}.", "Name another folder.") from error


def _clear(out: Path) -> None:
    """Remove what an earlier simulation wrote, and nothing else."""
    try:
        ours = json.loads((out / "simulation.json").read_text()).get("schema") == SCHEMA
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise BabelRSError(f"--out {out} holds something other than a simulation.", "Name a new folder.")
    for name in layout.OUTPUTS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    plan, overwrite = make_plan(argv)
    prepare_folder(plan.out, overwrite)
    started, images, objects = time.perf_counter(), 0, Counter[str]()
    for record in simulate(plan):
        images += len(record.descriptions)
        for description in record.descriptions:
            objects.update({f"{description['sensor']} {name}": n for name, n in description["counts"].items()})
    seconds = time.perf_counter() - started
    found = ", ".join(f"{number} {name}" for name, number in sorted(objects.items())) or "no objects"
    scenes = plan.train_scenes + plan.eval_scenes
    sys.stdout.write(f"{scenes} scenes, {images} images in {seconds:.1f} s: {found}\n{plan.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
