"""``python -m benchmarks.defences --data DATA``: what the checks in flight cost, in throughput and in the start.

Images of every sensor from files to JSON Lines through the runtime's threads, with the engine as ``babelrs-run`` opens
it and with the plain one, in turns, each first as often as the other. With ``--beside journal`` the run with checks is
the command's default for files; with ``--beside everything`` it also reports its health, serves metrics and sends what
it finds to a Mosquitto on this machine. Beside the wall-clock time stands the process's own. Writes a table and
``OUT``. Exit code 1 says that the stated limit was missed. Run it on an idle machine.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import Bundle, open_bundle
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from babelrs.sensors import Sensor
from benchmarks.attended_run import attended_s
from benchmarks.mosquitto import Mosquitto
from benchmarks.pipeline_run import chosen_images, pipeline_s
from runtime.engines import Engine, open_engine
from runtime.integrity.opening import open_guarded
from runtime.pipeline import Detector
from runtime.sources.files import ImageFile
from train.cli import load_config

log = logging.getLogger("benchmarks.defences")

MOST_COST = 0.03
"""Share of the throughput that the checks may take."""

Opening = Callable[[Bundle, Sensor], Engine]


class DefencesConfig(BaseModel):
    """Measure a run with and without its checks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(description="root of the dataset")
    bundle: Path = Field(Path("runtime/demo"), description="bundle to run")
    images: int = Field(30, ge=1, description="images a sensor")
    rounds: int = Field(7, ge=1, description="rounds through all images")
    threads: int = Field(2, ge=1, description="CPU threads of the engine")
    batch: int = Field(4, ge=1, description="tiles a run of the engine")
    check_interval_s: float | None = Field(
        None, ge=0, description="seconds of a CRC pass over the weights; none: the command's default"
    )
    beside: Literal["nothing", "journal", "everything"] = Field(
        "nothing", description="beside the checks: a journal, or also health reports, metrics and an MQTT link"
    )
    out: Path = Field(Path("benchmarks/results/defences.json"), description="JSON file to write")


def openings(threads: int, check_interval_s: float | None = None) -> dict[str, Opening]:
    """The two ways to open an engine: as the command does, by default or with an interval, and without any check."""
    return {
        "on": lambda bundle, sensor: open_guarded(bundle, sensor, "onnxruntime", threads, check_interval_s),
        "off": lambda bundle, sensor: open_engine(bundle, sensor, "onnxruntime", threads),
    }


def compared(
    config: DefencesConfig, bundle: Bundle, sensor: Sensor, images: list[ImageFile], broker_port: int | None
) -> dict[str, Any]:
    """Seconds of a run by wall clock and process, and of opening an engine, with the checks and without.

    Args:
        config: The settings.
        bundle: With the model.
        sensor: Whose.
        images: Of the sensor.
        broker_port: Of the broker, where everything is on.
    """
    entry, runs, opened_s = bundle.manifest.entry(sensor), {}, {}
    for name, opening in openings(config.threads, config.check_interval_s).items():
        opening(bundle, sensor)  # the files come into the system's cache
        begin = time.perf_counter()
        engine = opening(bundle, sensor)
        opened_s[name] = time.perf_counter() - begin
        detector = Detector(engine, entry, sensor, entry.score_threshold, config.batch)
        runs[name] = partial(pipeline_s, detector, images)
        if name == "on" and config.beside != "nothing":
            runs[name] = partial(attended_s, detector, images, broker_port)
        runs[name]()  # warm up
    wall: dict[str, list[float]] = {name: [] for name in runs}
    process: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(config.rounds):
        for name in sorted(runs, reverse=bool(number % 2)):
            begin = time.process_time()
            seconds, _ = runs[name]()
            process[name].append(time.process_time() - begin)
            wall[name].append(seconds)
        log.info("%s, round %d: on %.2f s, off %.2f s", sensor, number, wall["on"][-1], wall["off"][-1])
    return {"images": len(images), "opened_s": opened_s, "wall": costs(wall), "process": costs(process)}


@contextmanager
def _broker() -> Iterator[int]:
    """The port of a Mosquitto that runs while inside."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder))
        broker.start()
        try:
            yield broker.port
        finally:
            broker.stop()


def costs(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, least values, and the share of the time that the checks take by each."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    least = {name: min(values) for name, values in seconds.items()}
    return {
        "rounds_s": seconds,
        "median_s": medians,
        "least_s": least,
        "cost": 1 - medians["off"] / medians["on"],
        "least_cost": 1 - least["off"] / least["on"],
    }


def format_table(rows: dict[str, Any]) -> str:
    """A line a sensor: seconds on and off, and the cost in percent by medians and least values."""
    lines = [f"{'':<6}{'on s':>8}{'off s':>8}{'cost %':>8}{'least %':>9}{'process %':>11}{'open s':>8}{'plain s':>9}"]
    lines += [
        f"{name:<6}{row['wall']['median_s']['on']:>8.2f}{row['wall']['median_s']['off']:>8.2f}"
        f"{100 * row['wall']['cost']:>8.2f}{100 * row['wall']['least_cost']:>9.2f}{100 * row['process']['cost']:>11.2f}"
        f"{row['opened_s']['on']:>8.2f}{row['opened_s']['off']:>9.2f}"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(DefencesConfig, arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    bundle = open_bundle(config.bundle)
    with ExitStack() as stack:
        broker_port = stack.enter_context(_broker()) if config.beside == "everything" else None
        rows = {
            sensor.value: compared(
                config, bundle, sensor, chosen_images(config.data, sensor, config.images), broker_port
            )
            for sensor in bundle.manifest.sensors
        }
    on, off = (sum(row["wall"]["median_s"][name] for row in rows.values()) for name in ("on", "off"))
    settings = config.model_dump(mode="json", exclude={"out", "data", "bundle"})
    record = {"schema": "babelrs.defences/1", "settings": settings, "cost": 1 - off / on, "sensors": rows}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.write(format_table(rows))
    if 1 - off / on > MOST_COST:
        sys.stdout.write(f"limit missed: the checks take {1 - off / on:.1%} of the throughput; {MOST_COST:.0%}\n")
        return EXIT_LIMIT_MISSED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
