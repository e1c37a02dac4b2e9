"""``python -m benchmarks.crashes``: is every image exactly once in every output, whatever ended the runs before?

Simulated images of all sensors, one of them as a video, go through the demo bundle into every format. Runs are killed
at random moments, run out of disk at random sizes, and lose what was not synced; each is resumed until it is done and
compared with a run that nobody disturbed. Writes a table and a JSON file.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import BabelRSError, LimitMissedError, run_command
from babelrs.images import read_frame
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor
from benchmarks.crash_outputs import compared
from benchmarks.crash_runs import Command, images_done, resize, small_disk
from benchmarks.power_loss import lose_power
from runtime.recorder import NAME
from train.cli import load_config
from train.simulate import main as simulate

FORMATS = "jsonl,geojson,dota,coco,csv"
FAULTS = ("lost", "repeated", "altered")
EXIT_FULL = 2


class CrashesConfig(BaseModel):
    """Disturb runs and compare what they leave."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kills: int = Field(50, ge=0, description="SIGKILLs at random moments")
    full_disks: int = Field(10, ge=0, description="disks of random sizes that are too small")
    power_losses: int = Field(10, ge=0, description="kills after which what was not synced is taken away")
    scenes: int = Field(12, ge=2, description="scenes, each seen by all sensors")
    size_px: int = Field(192, ge=64, description="side of the images, pixels")
    seed: int = Field(0, ge=0, description="seed of the images and of all that is random")
    out: Path = Field(Path("benchmarks/results/crashes.json"), description="JSON file to write")


class Trials:
    """Runs of the same images, each compared with the one that nobody disturbed.

    Args:
        folder: Where all is written.
        config: The settings.
    """

    def __init__(self, folder: Path, config: CrashesConfig) -> None:
        self._folder, self._config = folder, config
        self._arguments = _inputs(folder / "images", config)
        self.rng, self.differences = random.Random(config.seed), Counter[str]()
        self.num_compared = 0
        begin = time.monotonic()
        self._whole = Command(self._arguments, folder / "whole")
        self._whole.complete()
        self.seconds = time.monotonic() - begin
        self.num_images = images_done(self._whole.out)
        self.num_bytes = sum(path.stat().st_size for path in self._whole.out.rglob("*"))

    def command(self) -> Command:
        """A run into an empty folder."""
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        return Command(self._arguments, out)

    def compare(self, command: Command) -> None:
        """Count how the outputs differ."""
        self.num_compared += 1
        for name, found in compared(self._whole.out, command.out).items():
            self.differences.update({fault: getattr(found, fault) for fault in FAULTS})
            if found.is_reordered or any(getattr(found, fault) for fault in FAULTS):
                sys.stdout.write(f"{name}: {found}\n")
                sys.stdout.flush()  # the whole takes long: nobody should have to wait for its end to see this
            self.differences["reordered"] += found.is_reordered

    def moment(self) -> tuple[float, bool]:
        """When to kill, in seconds, and whether they count from the first image: a third die while they start."""
        if self.rng.random() < 1 / 3:
            return self.rng.uniform(0.0, 0.5 * self.seconds), False
        return self.rng.uniform(0.0, 0.25 * self.seconds), True


def kills(trials: Trials, count: int) -> list[dict[str, Any]]:
    """Runs that are killed again and again until they are done; what each kill met."""
    met: list[dict[str, Any]] = []
    while len(met) < count:
        command = trials.command()
        while len(met) < count and command.kill_after(*(moment := trials.moment())):
            met.append({**_said(moment), "images_done": images_done(command.out)})
        command.complete()
        trials.compare(command)
    return met


def full_disks(trials: Trials, count: int) -> list[dict[str, Any]]:
    """Runs that have too little space, and get some more again and again until they are done."""
    met = []
    for _ in range(count):
        command = trials.command()
        size = round(trials.rng.uniform(0.05, 0.9) * trials.num_bytes)
        sizes = [size]
        with small_disk(command.out, size):
            while (code := command.finish()[0]) == EXIT_FULL:
                size += round(trials.rng.uniform(0.3, 1.0) * trials.num_bytes)
                resize(command.out, size)
                sizes.append(size)
            if code:
                raise BabelRSError(f"A full disk ended a run with {code}.", f"It should be {EXIT_FULL}.")
            trials.compare(command)
        met.append({"bytes": sizes})
    return met


def power_losses(trials: Trials, count: int) -> list[dict[str, Any]]:
    """Runs that are killed and lose what was not synced."""
    met: list[dict[str, Any]] = []
    while len(met) < count:
        command = trials.command()
        while len(met) < count and command.kill_after(*(moment := trials.moment())):
            if (command.out / NAME).exists():
                recorded, synced = lose_power(command.out, trials.rng)
                met.append({**_said(moment), "images_done": recorded, "images_synced": synced})
        command.complete()
        trials.compare(command)
    return met


def _said(moment: tuple[float, bool]) -> dict[str, Any]:
    return {"after_s": round(moment[0], 3), "from": "first image" if moment[1] else "start"}


def _inputs(folder: Path, config: CrashesConfig) -> tuple[str, ...]:
    """Arguments of a run over simulated images: RGB and SAR as GeoTIFFs, infrared as a video."""
    given = ["--out", str(folder), "--train-scenes", "0", "--eval-scenes", str(config.scenes), "--geotiff"]
    if simulate([*given, "--size", str(config.size_px), "--seed", str(config.seed)]):
        raise BabelRSError("No images could be simulated.", "Mend what it says.")
    images = folder / "geotiff"
    _write_video(folder / "clip.mkv", sorted((images / "ir").rglob("*.tif")))
    sources = [f"--source=rgb={images / 'rgb'}", f"--source=sar={images / 'sar'}", f"--source=ir={folder / 'clip.mkv'}"]
    return *sources, "--format", FORMATS, "--save-images", "--save-video", "--threads", "1", "--quiet"


def _write_video(path: Path, images: list[Path]) -> None:
    """A lossless video of gray pictures, ten a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        for number, image in enumerate(images):
            picture = to_uint8(read_frame(image), DEFAULT_PROFILES[Sensor.IR])[:, :, 0]
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *picture.shape, "gray"
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main(given: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(CrashesConfig, given)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), config)
        record: dict[str, Any] = {
            "schema": "babelrs.crashes/1",
            "seed": config.seed,
            "images": trials.num_images,
            "formats": [*FORMATS.split(","), "images", "video"],
            "undisturbed_s": round(trials.seconds, 2),
            "undisturbed_bytes": trials.num_bytes,
            "kills": kills(trials, config.kills),
            "full_disks": full_disks(trials, config.full_disks),
            "power_losses": power_losses(trials, config.power_losses),
            "runs_compared": trials.num_compared,
            "differences": {name: trials.differences[name] for name in (*FAULTS, "reordered")},
        }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    for name in ("kills", "full_disks", "power_losses"):
        sys.stdout.write(f"{name.replace('_', ' '):<14}{len(record[name])}\n")
    counted = ", ".join(f"{count} {name}" for name, count in record["differences"].items())
    sys.stdout.write(f"{trials.num_images} images in {trials.num_compared} runs: {counted}\n")
    if any(record["differences"].values()):
        raise LimitMissedError("An image is not exactly once in an output.")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
