"""``python -m benchmarks.links``: a broker that stops for two minutes, and a link of 1 kB/s.

The demo model's detections in simulated, georeferenced scenes are written to the sink again and again, at a steady rate
that does not depend on how fast this machine detects, and go to a real Mosquitto. In one run the broker is stopped and
started again; in the others there is a thin link before it, and more is found than goes through. What arrives is held
against what was written: every message must have arrived, wait in the spool, or be counted as dropped, and of the first
priority none may be dropped. The runs go on side by side, each with a broker of its own. Writes a table, ``OUT.json``
and a plot ``OUT.png``; exit code 1 says that a promise was not kept.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import open_bundle
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from babelrs.sensors import Sensor
from benchmarks.mosquitto import Mosquitto, ThinLink
from benchmarks.pipeline_run import open_detector
from runtime.cli import DEMO_BUNDLE
from runtime.links.link import SPOOL_NAME, LinkSink, open_link_sinks
from runtime.links.options import Broker, LinkOptions
from runtime.links.receive import Inbox, receive
from runtime.links.session import STATUS_TOPIC
from runtime.links.spool import Spool
from runtime.links.value import THUMBNAIL
from runtime.pipeline import FrameResult
from runtime.rasters import open_raster
from runtime.run import run_sources
from runtime.sinks.jsonl import frame_record
from runtime.sources.clock import utc_text
from runtime.sources.files import FileSource, ImageFile
from train.cli import load_config

log = logging.getLogger("benchmarks.links")

PREFIX = "babelrs/flight"
WAL_BYTES = 2 << 20
"""Of the write-ahead log beside the spool, at most."""
FILE_SHARE = 1.5
"""The file may be larger than what is counted by this factor: pages are not always full."""
NEAR_PX = 0.07
_SETTLE_S = 3.0
RUNS = (
    ("broker stopped", False, "json"),
    ("1 kB/s, JSON", True, "json"),
    ("1 kB/s, compact", True, "compact"),
)
"""What each run is called, whether its link is thin, and the encoding."""


class LinksConfig(BaseModel):
    """Measure what arrives over a link that is lost or thin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenes: int = Field(12, ge=1, description="simulated scenes, which come again and again")
    interval_s: float = Field(0.25, gt=0, description="seconds from one image to the next")
    before_s: float = Field(20, ge=1, description="seconds before the broker is stopped")
    down_s: float = Field(120, ge=1, description="seconds without a broker")
    after_s: float = Field(40, ge=1, description="seconds after it is back")
    thin_s: float = Field(180, ge=1, description="seconds of each run over the thin link")
    thin_bytes_per_s: float = Field(1000, gt=0, description="of the thin link")
    budget: int = Field(30_000, ge=4096, description="bytes a minute over the thin link")
    thin_spool_mib: int = Field(1, ge=1, description="bound of the spool over the thin link")
    out: Path = Field(Path("benchmarks/results/links"), description="results go to OUT.json and OUT.png")


@dataclass
class Ground:
    """What arrived.

    Attributes:
        arrivals: When each message came, seconds since 1970, with it.
        statuses: Every status.
    """

    arrivals: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    inbox: Inbox = field(default_factory=Inbox)

    def take(self, topic: str, payload: bytes) -> None:
        """Take a message."""
        if topic == STATUS_TOPIC:
            self.statuses.append(json.loads(payload))
        record = self.inbox.take(topic, payload)
        if record is not None:
            self.arrivals.append((time.time(), record))


@dataclass
class Flight:
    """Writes results to a sink, and looks at the spool meanwhile.

    Attributes:
        folder: Where the spool lies.
        results: What is written, again and again.
        interval_s: From one to the next.
        sink: Takes them.
        written: Those that were written.
        sizes: Bytes of the spool's files over time, seconds since the start.
        write_s: How long each took to be written.
    """

    folder: Path
    results: list[FrameResult]
    interval_s: float
    sink: LinkSink
    begin: float = field(default_factory=time.time)
    written: list[FrameResult] = field(default_factory=list)
    sizes: list[tuple[float, int]] = field(default_factory=list)
    write_s: list[float] = field(default_factory=list)

    def fly(self, seconds: float) -> None:
        """Write for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number = len(self.written)
            again = self.results[number % len(self.results)]
            self.written.append(replace(again, frame=number, time=utc_text(time.time())))
            start = time.perf_counter()
            self.sink.write(self.written[-1])
            self.write_s.append(time.perf_counter() - start)
            spool = [self.folder / f"{SPOOL_NAME}{suffix}" for suffix in ("", "-wal")]
            self.sizes.append((time.time() - self.begin, sum(one.stat().st_size for one in spool if one.is_file())))
            time.sleep(self.interval_s)


class Collector:
    """A sink that keeps what was found."""

    def __init__(self) -> None:
        self.results: list[FrameResult] = []

    def write(self, result: FrameResult) -> None:
        """Keep it."""
        self.results.append(result)

    def close(self) -> None:
        """Nothing is left to do."""


def detected(scenes: list[Path]) -> list[FrameResult]:
    """What the demo model finds in infrared scenes."""
    detector = open_detector(open_bundle(DEMO_BUNDLE), Sensor.IR, 1, 1)
    collector = Collector()
    source = FileSource("scenes", Sensor.IR, [ImageFile(scene, scene.stem) for scene in scenes], open_raster)
    run_sources([source], {Sensor.IR: detector}, {Sensor.IR: [collector]})
    return collector.results


def simulated(folder: Path, count: int) -> list[Path]:
    """Georeferenced infrared scenes."""
    command = [sys.executable, "-m", "train.simulate", "--out", str(folder), "--train-scenes", str(count)]
    command += ["--eval-scenes", "1", "--size", "640", "--sensors", "ir", "--seed", "5", "--geotiff"]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(folder.glob("geotiff/ir/train/*.tif"))


def fly(config: LinksConfig, results: list[FrameResult], name: str, is_thin: bool, encoding: str) -> dict[str, Any]:
    """One run: over a thin link, or with a broker that is stopped."""
    ground, landed, outage = Ground(), threading.Event(), [0.0, 0.0]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        broker = Mosquitto(folder, persistent=True)
        broker.start()
        address = Broker("127.0.0.1", broker.port, PREFIX)
        listener = threading.Thread(
            target=receive, args=(address, "ground", True, ground.take, landed.is_set), daemon=True
        )
        listener.start()
        link = ThinLink(broker.port, config.thin_bytes_per_s if is_thin else 1e8)
        budget, spool_mib = (config.budget, config.thin_spool_mib) if is_thin else (0, 64)
        options = LinkOptions(replace(address, port=link.port), budget, spool_mib, encoding, True, linger_s=15)
        offset = time.time() - time.monotonic()
        sink = open_link_sinks(folder, {Sensor.IR}, options)[Sensor.IR]
        flight = Flight(folder, results, config.interval_s, sink)
        if is_thin:
            flight.fly(config.thin_s)
        else:
            flight.fly(config.before_s)
            broker.stop()
            link.cut()
            outage[0] = time.time() - flight.begin
            flight.fly(config.down_s)
            broker.start()
            outage[1] = time.time() - flight.begin
            flight.fly(config.after_s)
        sink.close()
        time.sleep(_SETTLE_S)
        landed.set()
        listener.join()
        link.close()
        broker.stop()
        spool = Spool(folder / SPOOL_NAME, 1 << 40)
        waiting = dict(spool.waiting())
        spool.close()
    up = [(at + offset - flight.begin, count) for at, count in link.up]
    result = judged(ground, sink.status(), [frame_record(one) for one in flight.written], waiting)
    result |= {"name": name, "outage_s": [] if is_thin else outage, "begin": flight.begin}
    result |= {"most_bytes_in_a_minute": most_in_a_minute(up), "budget": budget}
    result |= {"write_ms": _percentiles([1e3 * seconds for seconds in flight.write_s])}
    result |= {"spool_file_bytes": max(size for _, size in flight.sizes), "sizes": flight.sizes, "up": up}
    result |= {"arrived": [(at - flight.begin, *_worth(record)) for at, record in ground.arrivals]}
    log.info("%s: %s", name, result["by_priority"])
    return result


def judged(
    ground: Ground, last: dict[str, Any], lines: list[dict[str, Any]], waiting: dict[int, int]
) -> dict[str, Any]:
    """Holds what arrived against what was written and what the link says at its end."""
    found, arrived = _centres(lines), _centres([record for _, record in ground.arrivals if "frame" in record])
    received = Counter(_worth(record)[0] for _, record in ground.arrivals)
    delays: dict[int, list[float]] = {}
    for at, record in ground.arrivals:
        if "time" in record:
            delays.setdefault(record["priority"], []).append(at - datetime.fromisoformat(record["time"]).timestamp())
    by_priority = {
        str(priority): {
            "received": received[priority],
            "dropped": last["dropped"].get(str(priority), 0),
            "waiting": waiting.get(priority, 0),
            "latency_s": _percentiles(delays.get(priority, [])),
        }
        for priority in range(THUMBNAIL + 1)
    }
    return {
        "images": len(lines),
        "messages": last["messages"],
        "detections_found": sum(map(len, found.values())),
        "detections_arrived": sum(_num_near(centres, arrived.get(number, [])) for number, centres in found.items()),
        "doubles": ground.inbox.num_doubles,
        "unreadable": ground.inbox.num_bad,
        "by_priority": by_priority,
        "last_status": {**last, "acknowledged_but_not_received": _missing(last["sent"], received)},
    }


def _centres(records: list[dict[str, Any]]) -> dict[int, list[list[float]]]:
    centres: dict[int, list[list[float]]] = {}
    for record in records:
        centres.setdefault(record["frame"], []).extend(hit["obb"][:2] for hit in record["detections"])
    return centres


def _num_near(found: list[list[float]], arrived: list[list[float]]) -> int:
    """How many of the centres have one within the steps of the compact encoding."""
    if not (found and arrived):
        return 0
    ways = np.abs(np.array(found)[:, None] - np.array(arrived)[None]).max(axis=2)  # (N, M)
    return int((ways.min(axis=1) < NEAR_PX).sum())


def _missing(sent: dict[str, int], received: Counter[int]) -> int:
    return sum(max(0, count - received[int(priority)]) for priority, count in sent.items())


def _worth(record: dict[str, Any]) -> tuple[int, float]:
    """Priority of a message, and when it was made, seconds since 1970 (0 for a thumbnail)."""
    made = datetime.fromisoformat(record["time"]).timestamp() if "time" in record else 0.0
    return int(record.get("priority", THUMBNAIL)), made


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{part}": round(float(np.percentile(values, part)), 2) for part in (50, 95, 100)}


def most_in_a_minute(up: list[tuple[float, int]]) -> int:
    """The most bytes that passed in any minute."""
    at, counts = np.array([one for one, _ in up]), np.array([count for _, count in up])
    total = np.concatenate([[0], np.cumsum(counts)])
    return int(max(total[place + 1] - total[np.searchsorted(at, at[place] - 60)] for place in range(len(at))))


def missed_promises(config: LinksConfig, runs: list[dict[str, Any]]) -> list[str]:
    """What the link promises and these runs do not show, in words."""
    missed = []
    for run in runs:
        name, first = run["name"], run["by_priority"]["0"]
        everything = run["detections_arrived"] == run["detections_found"]
        told = {int(priority): count for priority, count in run["last_status"]["sent"].items()}
        kept = sum(row["waiting"] + row["dropped"] for row in run["by_priority"].values())
        if sum(told.values()) + kept != run["messages"]:
            sent = sum(told.values())
            missed.append(f"{name}: {run['messages']} messages were made, {sent} sent, {kept} kept or dropped")
        if first["dropped"]:
            missed.append(f"{name}: {first['dropped']} messages of the first priority were dropped")
        if run["last_status"]["acknowledged_but_not_received"] or run["unreadable"]:
            missed.append(f"{name}: messages that were acknowledged did not arrive")
        if not run["budget"] and not everything:
            missed.append(f"{name}: {run['detections_found'] - run['detections_arrived']} detections are lost")
        if run["budget"] and run["most_bytes_in_a_minute"] > run["budget"]:
            missed.append(f"{name}: {run['most_bytes_in_a_minute']} bytes in a minute")
        bound = FILE_SHARE * (config.thin_spool_mib << 20) + WAL_BYTES
        if run["budget"] and run["spool_file_bytes"] > bound:
            missed.append(f"{name}: the spool's files took {run['spool_file_bytes']} bytes")
    return missed


def table(runs: list[dict[str, Any]]) -> str:
    """A line for each priority of each run."""
    lines = [
        f"{'run':<14} {'priority':>8} {'received':>8} {'waiting':>8} {'dropped':>8}   seconds to arrive: p50, p95, max"
    ]
    for run in runs:
        for priority, row in run["by_priority"].items():
            late = ", ".join(f"{value:.1f}" for value in row["latency_s"].values())
            kind = "pictures" if int(priority) == THUMBNAIL else priority
            counts = f"{row['received']:>8} {row['waiting']:>8} {row['dropped']:>8}"
            lines.append(f"{run['name']:<14} {kind:>8} {counts}   {late}")
        arrived = f"{run['detections_arrived']} of {run['detections_found']} detections arrived"
        most = f"{run['most_bytes_in_a_minute']} bytes in the fullest minute (budget {run['budget'] or 'none'})"
        lines.append(f"{run['name']:<14} {arrived}, {run['doubles']} doubles; {most}")
        lines.append(f"{'':<14} spool files at most {run['spool_file_bytes'] / 2**20:.2f} MiB")
    return "\n".join(lines) + "\n"


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """For each run when messages arrived and how late, the bytes of each minute, and the size of the spool."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(3, len(runs), figsize=(5 * len(runs), 8), squeeze=False, layout="constrained")
    colours = ("tab:red", "tab:orange", "tab:green", "tab:blue")
    for column, run in enumerate(runs):
        late, minute, size = grid[:, column]
        for priority in reversed(range(THUMBNAIL)):
            made = [(at, at + run["begin"] - when) for at, own, when in run["arrived"] if own == priority and when]
            if made:
                late.plot(*zip(*made, strict=True), ".", color=colours[priority], markersize=3, label=f"{priority}")
        late.set(title=run["name"], ylabel="seconds from sink to ground", yscale="symlog")
        late.set_ylim(0, None)
        late.legend(title="priority", fontsize=7)
        at, counts = np.array([one for one, _ in run["up"]]), np.array([count for _, count in run["up"]])
        total = np.concatenate([[0], np.cumsum(counts)])
        minute.plot(at, [(total[i + 1] - total[np.searchsorted(at, at[i] - 60)]) / 1e3 for i in range(len(at))])
        minute.set(ylabel="kB sent in the minute before", ylim=(0, None))
        if run["budget"]:
            minute.axhline(run["budget"] / 1e3, color="tab:red", linewidth=0.8)
            minute.set_ylim(0, 1.1 * run["budget"] / 1e3)
        size.plot([one for one, _ in run["sizes"]], [count / 2**20 for _, count in run["sizes"]])
        size.set(ylabel="spool and its log, MiB", xlabel="seconds", ylim=(0, None))
        for axes in grid[:, column]:
            axes.sharex(late)
            if run["outage_s"]:
                axes.axvspan(*run["outage_s"], color="0.85")
    figure.suptitle("Gray: no broker. Red line: the budget")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    config = load_config(LinksConfig, arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = detected(simulated(Path(folder) / "scenes", config.scenes))
    with ThreadPoolExecutor() as pool:
        under_way = [pool.submit(fly, config, results, *run) for run in RUNS]
        runs = [one.result() for one in under_way]
    missed = missed_promises(config, runs)
    drawn_only = ("sizes", "up", "arrived", "begin")
    result = {
        "schema": "babelrs.links/1",
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"paho-mqtt": version("paho-mqtt")},
        "settings": config.model_dump(mode="json"),
        "runs": [{key: value for key, value in run.items() if key not in drawn_only} for run in runs],
        "missed_promises": missed,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    plot(runs, config.out.with_suffix(".png"))
    sys.stdout.write(table(runs))
    sys.stdout.write("".join(f"missed: {promise}\n" for promise in missed))
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
