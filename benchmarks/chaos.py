"""``python -m benchmarks.chaos``: an hour of faults drawn at random, and what is left of every image.

A camera writes simulated infrared images into a spool at a steady rate. ``babelrs-run --resume`` takes them, is started
again whenever it ends, and sends what it finds to a real Mosquitto. Meanwhile faults are drawn from
:data:`benchmarks.chaos_faults.FAULTS`: kills, full disks, memory that is refused, broken files, a bundle that is
altered, a broker that is gone. At the end all is put right and the rest is done. Every good image must then be in every
output once, with what an undisturbed run finds in it, no bad one may be, each must have been named on standard error,
every message must have arrived, and nothing may have ended with a traceback or an unknown exit code. Writes a table,
``OUT.json`` and ``OUT.png``; exit code 1 says that a promise was not kept. The output folder is a disk in memory of its
own, so it runs as root.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.chaos_faults import AMPLE_BYTES, FAULTS, Fault, happen
from benchmarks.chaos_flight import FORMATS, TOPIC, Camera, Flight, Ground, Service, arguments
from benchmarks.chaos_outputs import images_with_detections, judged
from benchmarks.chaos_report import missed_promises, plot, recovery_s, table
from benchmarks.crash_runs import small_disk
from benchmarks.mosquitto import Mosquitto
from benchmarks.scene_file import simulated_parts
from runtime.cli import DEMO_BUNDLE
from runtime.links.options import Broker
from train.cli import load_config

log = logging.getLogger("benchmarks.chaos")

_TRACEBACK = "Traceback (most recent call last)"
_SCENES, _LOOK_S, _LANDING_S, _SETTLE_S = 6, 1.0, 300.0, 12.0


class ChaosConfig(BaseModel):
    """Let faults happen to a run that is restarted, and look what is left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minutes: float = Field(60, gt=0, description="how long faults happen")
    every_s: float = Field(12, gt=0, description="mean seconds from the end of a fault to the next")
    images_per_s: float = Field(1.5, gt=0, description="that the camera writes")
    side_px: int = Field(256, ge=64, description="columns and rows of an image")
    pause_s: float = Field(2, ge=0, description="from an end of the run to its next start")
    faults: tuple[str, ...] = Field(tuple(FAULTS), min_length=1, description="kinds that may happen")
    seed: int = Field(0, ge=0, description="of images and faults")
    out: Path = Field(Path("benchmarks/results/chaos"), description="results go to OUT.json and OUT.png")

    @field_validator("faults")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(names) - FAULTS.keys():
            raise ValueError(f"no such faults: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
        return names


@contextmanager
def taken_off(config: ChaosConfig, folder: Path) -> Iterator[Flight]:
    """A flight that has begun; all of it is over at the end."""
    for name in ("spool", "logs", "broker"):
        (folder / name).mkdir()
    shutil.copytree(DEMO_BUNDLE, folder / "bundle")
    scenes = [part[0] for part in simulated_parts(_SCENES, config.seed, Sensor.IR, config.side_px)]
    camera, ground = Camera(folder / "spool", scenes, 1 / config.images_per_s, config.seed), Ground()
    broker, begin = Mosquitto(folder / "broker", persistent=True), time.monotonic()
    with small_disk(folder / "disk", AMPLE_BYTES):
        broker.start()
        listener = threading.Thread(target=ground.listen, args=(Broker("127.0.0.1", broker.port, TOPIC),), daemon=True)
        listener.start()
        given = arguments(folder, folder / "disk", folder / "bundle", broker.port)
        service = Service(given, folder / "logs", config.pause_s, begin)
        for one in (service, camera):
            one.start()
        try:
            yield Flight(folder / "disk", folder / "bundle", camera, service, broker, ground, begin)
        finally:
            camera.closing.set()
            service.landing.set()
            service.send(signal.SIGKILL if sys.exc_info()[0] else signal.SIGTERM)
            ground.landed.set()
            broker.stop()


def disturb(flight: Flight, config: ChaosConfig) -> list[Fault]:
    """Let faults happen for as long as asked, each kind once before one comes again."""
    rng, happened, left = random.Random(config.seed), list[Fault](), list[str]()
    while flight.seconds() < 60 * config.minutes:
        time.sleep(rng.expovariate(1 / config.every_s))
        left = left or rng.sample(config.faults, len(config.faults))
        happened.append(one := happen(left.pop(), flight, rng))
        log.info("%.0f s: %s, for %.1f s", one.begin_s, one.name, one.end_s - one.begin_s)
    return happened


def land(flight: Flight) -> None:
    """Wait until all that the camera wrote is done, and stop in order.

    Raises:
        BabelRSError: The service does not end.
    """
    flight.camera.closing.set()
    flight.camera.join()
    deadline = time.monotonic() + _LANDING_S
    while time.monotonic() < deadline and flight.looks[-1][2] < len(flight.camera.good):
        time.sleep(_LOOK_S)
    time.sleep(_SETTLE_S)  # an empty file is whole after ten seconds
    flight.service.landing.set()
    flight.service.send(signal.SIGTERM)
    flight.service.join(_LANDING_S)
    if flight.service.is_alive():
        raise BabelRSError("The run does not end.", "Look what it waits for.")
    time.sleep(1)  # what the broker has yet to deliver


def undisturbed(flight: Flight, folder: Path) -> Path:
    """The output of a run over the good images that nobody disturbs.

    Raises:
        BabelRSError: It fails.
    """
    images, out = folder / "good", folder / "whole"
    images.mkdir()
    for name in flight.camera.good:
        os.link(flight.camera.spool / name, images / name)
    command = [sys.executable, "-m", "runtime.cli", f"--source=ir={images}", "--bundle", str(flight.bundle)]
    command += ["--out", str(out), "--format", FORMATS, "--threads", "1", "--quiet"]
    if subprocess.run(command, check=False).returncode:
        raise BabelRSError("The undisturbed run failed.", "See the message above.")
    return out


def flown(config: ChaosConfig, folder: Path) -> dict[str, Any]:
    """Fly, land, and hold what is left against an undisturbed run: the record."""
    with taken_off(config, folder) as flight:
        watching = threading.Thread(target=_watch, args=(flight,), daemon=True)
        watching.start()
        happened = disturb(flight, config)
        land(flight)
        said = flight.service.said()
        whole = undisturbed(flight, folder)
        outputs = judged(whole, flight.out)
        unheard = set(images_with_detections(whole)) - flight.ground.images
    recovered = recovery_s(flight.looks, happened)
    return {
        "images": len(flight.camera.good),
        "bad_files": len(flight.camera.bad_names),
        "bad_files_unsaid": sum(name not in said for name in flight.camera.bad_names),
        "outputs": {name: asdict(found) for name, found in outputs.items()},
        "images_whose_messages_are_lost": len(unheard),
        "tracebacks": said.count(_TRACEBACK),
        "first_traceback": _TRACEBACK + said.split(_TRACEBACK)[1][:2000] if _TRACEBACK in said else "",
        "starts": len(flight.service.ends),
        "exit_codes": dict(Counter(str(end.code) for end in flight.service.ends)),
        "last_exit_code": flight.service.ends[-1].code,
        "peak_mb": round(flight.service.peak_mb, 1),
        "faults": {
            name: {"times": len(times), "recovery_s_p50": statistics.median(times), "recovery_s_max": max(times)}
            for name, times in sorted(recovered.items())
        },
        "happened": [asdict(fault) for fault in happened],
        "looks": flight.looks[::5],
    }


def _watch(flight: Flight) -> None:
    while flight.service.is_alive():
        flight.look()
        time.sleep(_LOOK_S)


def main(given: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(ChaosConfig, given)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("runtime").setLevel(logging.ERROR)  # the ground repeats every status
    with tempfile.TemporaryDirectory() as folder:
        record = flown(config, Path(folder))
    missed = missed_promises(record)
    settings = config.model_dump(mode="json", exclude={"out"})
    whole = {"schema": "babelrs.chaos/1", "settings": settings, "missed_promises": missed, **record}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    plot(record, config.out.with_suffix(".png"))
    sys.stdout.write(table(record) + "".join(f"promise not kept: {what}\n" for what in missed))
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
