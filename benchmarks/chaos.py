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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from babelrs.errors import EXIT_DEVICE, EXIT_DONE, EXIT_LIMIT_MISSED, EXIT_USER_INPUT, BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.chaos_faults import AMPLE_BYTES, FAULTS, Fault, happen
from benchmarks.chaos_flight import FORMATS, TOPIC, Camera, Flight, Ground, Service, arguments
from benchmarks.chaos_outputs import images_with_detections, judged
from benchmarks.crash_runs import small_disk
from benchmarks.mosquitto import Mosquitto
from benchmarks.scene_file import simulated_parts
from runtime.cli import DEMO_BUNDLE
from runtime.links.options import Broker
from train.cli import load_config

log = logging.getLogger("benchmarks.chaos")

_C_LIBRARY = 127
KNOWN_CODES = {EXIT_DONE, EXIT_USER_INPUT, EXIT_DEVICE, -signal.SIGKILL, -signal.SIGABRT, _C_LIBRARY}
"""How a process may end: stopped; something is wrong around it; the device failed; killed; ended by the C or C++
library, which had no memory for itself, where nobody can catch it."""
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


def recovery_s(flight: Flight, happened: Sequence[Fault]) -> dict[str, list[float]]:
    """Seconds from the end of each fault until all was done that the camera had written by then, by kind."""
    found: dict[str, list[float]] = {}
    for fault in happened:
        written = next((count for at, count, _ in flight.looks if at >= fault.end_s), len(flight.camera.good))
        done_at = next((at for at, _, done in flight.looks if at >= fault.end_s and done >= written), None)
        found.setdefault(fault.name, []).append(
            flight.looks[-1][0] - fault.end_s if done_at is None else done_at - fault.end_s
        )
    return found


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
    recovered = recovery_s(flight, happened)
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


def missed_promises(record: dict[str, Any]) -> list[str]:
    """What is promised and this flight does not show, in words."""
    missed = [
        f"{name}: {count} images {fault}"
        for name, found in record["outputs"].items()
        for fault, count in found.items()
        if count
    ]
    counts = {
        "bad files were never named": record["bad_files_unsaid"],
        "images' messages did not arrive": record["images_whose_messages_are_lost"],
        "tracebacks": record["tracebacks"],
    }
    missed += [f"{count} {what}" for what, count in counts.items() if count]
    unknown = {code for code in record["exit_codes"] if int(code) not in KNOWN_CODES}
    missed += [f"exit code {code}, {record['exit_codes'][code]} times" for code in sorted(unknown)]
    if record["last_exit_code"] != EXIT_DONE:
        missed.append(f"the last end was {record['last_exit_code']}")
    return missed


def table(record: dict[str, Any]) -> str:
    """A line for each kind of fault, and what came of it all."""
    lines = [f"{'fault':<18}{'times':>6}{'until all was done, s: median':>31}{'longest':>9}"]
    lines += [
        f"{name:<18}{row['times']:>6}{row['recovery_s_p50']:>31.1f}{row['recovery_s_max']:>9.1f}"
        for name, row in record["faults"].items()
    ]
    ends = ", ".join(f"{count} with {code}" for code, count in sorted(record["exit_codes"].items()))
    lines.append(f"{record['images']} images, {record['bad_files']} bad files, ends: {ends}; {record['peak_mb']} MB")
    return "\n".join(lines) + "\n"


def plot(record: dict[str, Any], path: Path) -> None:
    """Images that wait over time, with a mark for every fault."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    minutes = [at / 60 for at, _, _ in record["looks"]]
    axes.plot(minutes, [written - done for _, written, done in record["looks"]], color="#333333", linewidth=0.8)
    names = sorted({fault["name"] for fault in record["happened"]})
    most = max(1, *(written - done for _, written, done in record["looks"]))
    for place, name in enumerate(names):
        at = [fault["begin_s"] / 60 for fault in record["happened"] if fault["name"] == name]
        height = -most * (0.06 + 0.045 * place)
        axes.plot(at, [height] * len(at), "|", markersize=5, color=f"C{place % 10}")
        axes.text(minutes[-1] * 1.01, height, name, fontsize=7, va="center", color=f"C{place % 10}")
    axes.set_xlim(-0.01 * minutes[-1], 1.13 * minutes[-1])
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= most])
    axes.set_xlabel("minutes")
    axes.set_ylabel("images written and not done")
    axes.set_ylim(bottom=-most * (0.1 + 0.045 * len(names)))
    axes.set_title(f"{record['images']} images, {len(record['happened'])} faults, {record['starts']} starts")
    figure.savefig(path, dpi=130)
    plt.close(figure)


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
