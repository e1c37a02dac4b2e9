"""``python -m benchmarks.soak``: does a run that goes on at full rate keep its memory, threads and descriptors?

A process of ``babelrs-run`` takes images from its standard input for as long as asked, as fast as it can: simulated
scenes, each time with other noise, so that no two are alike. Memory, threads and descriptors are read from the system
all along. Writes a table, ``OUT.json`` and ``OUT.png``. Exit code 1 says that a stated limit was missed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.scene_file import simulated_parts
from train.cli import load_config

log = logging.getLogger("benchmarks.soak")

MOST_MB_A_MINUTE = 1.0
_SCENES, _NOISE = 8, 6
_END_S = 60.0
"""How long the process may take to finish what is under way."""


class SoakConfig(BaseModel):
    """Run at full rate and watch memory, threads and descriptors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minutes: float = Field(30, gt=0, description="how long")
    warm_up_minutes: float = Field(3, ge=0, description="of these, how many do not count")
    sensor: Literal[Sensor.RGB, Sensor.IR] = Field(
        Sensor.IR, description="which of the bundle's models; SAR's decibels do not go through a pipe of images"
    )
    bundle: Path = Field(Path("runtime/demo"), description="bundle to run")
    side_px: int = Field(512, ge=64, description="columns and rows of the images")
    threads: int = Field(2, ge=1, description="CPU threads of the engine")
    formats: str = Field("jsonl,csv,coco", description="what is written")
    every_s: float = Field(2, gt=0, description="seconds between two looks")
    more: tuple[str, ...] = Field((), description="further options of babelrs-run")
    seed: int = Field(0, ge=0, description="of scenes and noise")
    out: Path = Field(Path("benchmarks/results/soak"), description="results go to OUT.json and OUT.png")


@dataclass(frozen=True)
class Look:
    """What the system said of the process at one moment.

    Attributes:
        at_s: Seconds since its start.
        resident_mb: Memory.
        threads: Threads.
        descriptors: Open files.
        images: Given to it so far.
    """

    at_s: float
    resident_mb: float
    threads: int
    descriptors: int
    images: int


class Feeder(threading.Thread):
    """Writes images to a pipe, each with other noise, until it is told to stop.

    Args:
        pipe: Closed at the end.
        scenes: ``(H, W, C)`` each, uint8 or uint16.
        seed: Of the noise.
    """

    def __init__(self, pipe: Any, scenes: Sequence[np.ndarray[Any, Any]], seed: int) -> None:
        super().__init__(daemon=True)
        self._pipe, self._scenes, self._rng = pipe, scenes, np.random.default_rng(seed)
        self.images, self.ended = 0, threading.Event()

    def run(self) -> None:
        """Give images; the pipe holds this thread back while none is taken."""
        shape, counts = self._scenes[0].shape, self._scenes[0].dtype
        noise, most = self._rng.integers(-_NOISE, _NOISE + 1, shape, np.int32), np.iinfo(counts).max
        try:
            while not self.ended.is_set():
                scene = self._scenes[self.images % len(self._scenes)].astype(np.int32)
                moved = np.roll(noise, int(self._rng.integers(noise.size)))
                self._pipe.write(netpbm(np.clip(scene + moved, 0, most).astype(counts)))
                self.images += 1
        except BrokenPipeError:
            pass  # the process ended; its exit code tells
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._pipe.close()


def netpbm(pixels: np.ndarray[Any, Any]) -> bytes:
    """A binary PGM or PPM of ``(H, W, 1 or 3)`` uint8 or uint16."""
    height, width, bands = pixels.shape
    head = b"P%d\n%d %d\n%d\n" % (6 if bands == 3 else 5, width, height, np.iinfo(pixels.dtype).max)
    return head + pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()


def look(process: int, start: float, images: int) -> Look:
    """Read what the system says of a process.

    Raises:
        OSError: It is gone.
    """
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return Look(
        time.monotonic() - start,
        int(fields["VmRSS"].split()[0]) / 1024,
        int(fields["Threads"]),
        len(os.listdir(f"/proc/{process}/fd")),
        images,
    )


def soak(config: SoakConfig) -> list[Look]:
    """Run, look, stop in order.

    Raises:
        BabelRSError: The process failed or left something undone.
    """
    parts = simulated_parts(_SCENES, config.seed, config.sensor, config.side_px)
    scenes = [np.moveaxis(part, 0, 2) for part in parts]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "runtime.cli", "-", "--sensor", config.sensor.value, "--bundle", str(config.bundle),
            "--out", folder, "--format", config.formats, "--threads", str(config.threads), *config.more,
        ]  # fmt: skip
        start = time.monotonic()
        with (Path(folder) / "log").open("w+") as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
            feeder = Feeder(process.stdin, scenes, config.seed)
            feeder.start()
            looks = _watch(config, process, feeder, start)
            feeder.ended.set()
            code = process.wait(_END_S)
            output.seek(0)
            said = output.read()
        written = sum(1 for _ in (Path(folder) / f"detections.{config.sensor}.jsonl").open())
    if code or written != feeder.images or "Traceback" in said:
        what = f"{written} of {feeder.images} images have a result, exit code {code}: {said[-2000:]}"
        raise BabelRSError(what, "See the messages above.")
    return looks


def _watch(config: SoakConfig, process: subprocess.Popen[bytes], feeder: Feeder, start: float) -> list[Look]:
    looks: list[Look] = []
    while time.monotonic() - start < 60 * config.minutes and process.poll() is None:
        time.sleep(config.every_s)
        looks.append(look(process.pid, start, feeder.images))
        log.info("%s", looks[-1])
    return looks


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """The median slope over all pairs (Theil and Sen), a minute: a few strays change nothing."""
    at, found = np.asarray(times_s) / 60, np.asarray(values)
    first, second = np.triu_indices(len(at), 1)
    return float(np.median((found[second] - found[first]) / (at[second] - at[first])))


def judged(looks: Sequence[Look], warm_up_s: float) -> dict[str, Any]:
    """Slope of memory, and growth of threads and descriptors, after the warm-up.

    Raises:
        BabelRSError: There are too few looks.
    """
    counted = [each for each in looks if each.at_s >= warm_up_s]
    if len(counted) < 10:
        raise BabelRSError(f"Only {len(counted)} looks after the warm-up.", "Give more --minutes.")
    third = len(counted) // 3
    growth = {
        name: max(getattr(each, name) for each in counted[-third:])
        - max(getattr(each, name) for each in counted[:third])
        for name in ("threads", "descriptors")
    }
    span = counted[-1].at_s - counted[0].at_s
    return {
        "mb_a_minute": slope([each.at_s for each in counted], [each.resident_mb for each in counted]),
        "peak_mb": max(each.resident_mb for each in looks),
        "growth": growth,
        "images": looks[-1].images,
        "images_a_second": (counted[-1].images - counted[0].images) / span,
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Which stated limits were missed, in words."""
    faults = [f"{name} grew by {more}" for name, more in found["growth"].items() if more > 0]
    if found["mb_a_minute"] >= MOST_MB_A_MINUTE:
        faults.append(f"memory grows by {found['mb_a_minute']:.2f} MB a minute; {MOST_MB_A_MINUTE}")
    return faults


def plot(looks: Sequence[Look], warm_up_s: float, path: Path) -> None:
    """Memory, and threads and descriptors, against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (memory, counts) = plt.subplots(2, 1, figsize=(8, 4.6), layout="constrained", sharex=True)
    minutes = [each.at_s / 60 for each in looks]
    memory.plot(minutes, [each.resident_mb for each in looks], color="tab:purple", lw=1)
    memory.set(ylabel="resident MB", ylim=(0, None))
    counts.plot(minutes, [each.threads for each in looks], color="tab:green", lw=1, label="threads")
    counts.plot(minutes, [each.descriptors for each in looks], color="tab:brown", lw=1, label="descriptors")
    counts.set(xlabel="minutes", ylabel="count", ylim=(0, None))
    counts.legend(frameon=False)
    for axis in (memory, counts):
        axis.axvspan(0, warm_up_s / 60, color="0.92")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(SoakConfig, arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    looks = soak(config)
    found = judged(looks, 60 * config.warm_up_minutes)
    faults = missed(found)
    sys.stdout.write(f"{json.dumps(found)}\n" + "".join(f"limit missed: {fault}\n" for fault in faults))
    settings = config.model_dump(mode="json", exclude={"out", "bundle"})
    thinned = [asdict(each) for each in looks[:: max(1, len(looks) // 300)]]
    record = {
        "schema": "babelrs.soak/1", "settings": settings, **found, "missed_limits": faults, "looks": thinned
    }  # fmt: skip
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    plot(looks, 60 * config.warm_up_minutes, config.out.with_suffix(".png"))
    return EXIT_LIMIT_MISSED if faults else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
