"""``python -m benchmarks.live``: an RTSP server is killed and started again while frames are taken from it.

Writes a table, ``OUT.json`` and a plot ``OUT.png``. The server draws the time into its pictures, so latency is from the
making of a picture to the hand of who takes it: encoding, the network stack, decoding and waiting in the mailbox. Who
takes frames does nothing but look at the time and sleep as long as a detector of the stated speed would work.

Frames are received in both ways there are: ``rtsp://`` through libav, whose H.264 parser holds each frame back until
the next begins, and ``gst:rtspsrc``. It needs an RTSP server (see :mod:`benchmarks.rtsp_child`). Exit code 1 says that
a stated limit was missed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from babelrs.sensors import Sensor
from benchmarks.rtsp_child import RtspServer, free_port, require_rtsp_server
from benchmarks.stamps import read, unpack
from runtime.sources import Capture
from runtime.sources.opening import Opening, open_source
from runtime.sources.supervised import SupervisedSource
from train.cli import load_config

log = logging.getLogger("benchmarks.live")

MOST_FRAMES_LATE = 2.0
WAITING_FRAMES = 1.0  # what a frame may wait in the mailbox where frames are taken more slowly than they come
MOST_GROWTH_MB = 4.0
_SETTLE_S = 0.5  # of a segment: the connection has just been made
_SAMPLE_S = 0.25


RECEIVERS = {
    "libav": "{url}",
    "gstreamer": "gst:rtspsrc location={url} latency=0 protocols=tcp ! rtph264depay ! h264parse ! openh264dec",
}


class LiveConfig(BaseModel):
    """Measure reconnecting, latency and memory of a live source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    consumers_ms: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (20, 100), description="time who takes frames needs for one, milliseconds; a run for each"
    )
    receivers: tuple[Literal["libav", "gstreamer"], ...] = Field(("libav", "gstreamer"), description="what receives")
    kills: int = Field(3, ge=1, description="times the server is killed in a run")
    up_s: float = Field(8, ge=2, description="seconds with frames before each kill, and after the last")
    down_s: float = Field(2, ge=0, description="seconds without a server")
    side_px: int = Field(640, ge=64, multiple_of=8, description="columns and rows of the pictures")
    fps: int = Field(25, ge=1, le=60, description="frames a second")
    out: Path = Field(Path("benchmarks/results/live"), description="results go to OUT.json and OUT.png")


@dataclass(frozen=True)
class Sample:
    """One frame that was taken.

    Attributes:
        taken_s: When, seconds since the run began.
        late_ms: Milliseconds since the picture was made.
        dropped: Frames dropped so far.
    """

    taken_s: float
    late_ms: float
    dropped: int


class Recorder:
    """Takes frames as fast as it is told, and looks at memory meanwhile."""

    def __init__(self, source: SupervisedSource, side_px: int, work_s: float) -> None:
        self.source = source
        self.begin = time.monotonic()
        self.samples: list[Sample] = []
        self.memory: list[tuple[float, float]] = []
        self._side_px, self._work_s = side_px, work_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=target) for target in (self._take, self._watch)]
        for thread in self._threads:
            thread.start()

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.begin

    def wait_for_frame(self, after_s: float, limit_s: float = 60.0) -> float:
        """When the first frame after ``after_s`` was taken, seconds since the run began."""
        while self.now_s < after_s + limit_s:
            if self.samples and self.samples[-1].taken_s > after_s:
                return next(sample.taken_s for sample in self.samples if sample.taken_s > after_s)
            time.sleep(0.005)
        raise RuntimeError(f"no frame for {limit_s} s: {self.source.health}")

    def finish(self) -> None:
        """End both threads and close the source."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.source.close()

    def _take(self) -> None:
        for item in self.source.captures(self._stop):
            taken = time.monotonic()
            if not isinstance(item, Capture):
                continue
            pixels = item.raster.read(0, 0, self._side_px, self._side_px).pixels
            gray = pixels[..., 0] if pixels.ndim == 3 else pixels
            made = unpack(read(gray, self._side_px))[1] / 1e6
            self.samples.append(Sample(taken - self.begin, 1e3 * (taken - made), self.source.dropped))
            time.sleep(self._work_s)

    def _watch(self) -> None:
        page_mb = os.sysconf("SC_PAGE_SIZE") / 2**20
        while not self._stop.wait(_SAMPLE_S):
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory.append((self.now_s, resident * page_mb))


def run(config: LiveConfig, receiver: str, consumer_ms: float) -> dict[str, Any]:
    """One run with all its kills: segments with frames, and memory."""
    port = free_port()
    server = RtspServer(port, config.side_px, config.fps)
    source = open_source(RECEIVERS[receiver].format(url=server.url), Sensor.IR, Opening())
    assert isinstance(source, SupervisedSource)
    recorder = Recorder(source, config.side_px, consumer_ms / 1e3)
    segments: list[dict[str, Any]] = []
    try:
        listening_s = 0.0
        for number in range(config.kills + 1):
            first_s = recorder.wait_for_frame(listening_s)
            time.sleep(config.up_s)
            segments.append(_segment(recorder, config, listening_s, first_s))
            log.info("%s, consumer of %g ms, segment %d: %s", receiver, consumer_ms, number, segments[-1])
            if number < config.kills:
                server.kill()
                time.sleep(config.down_s)
                server = RtspServer(port, config.side_px, config.fps)
                listening_s = recorder.now_s
    finally:
        recorder.finish()
        server.kill()
    return {
        "receiver": receiver,
        "consumer_ms": consumer_ms,
        "most_frames_late": MOST_FRAMES_LATE + WAITING_FRAMES * (consumer_ms > 1e3 / config.fps),
        "segments": segments,
        "received": source.health.received,
        "taken": len(recorder.samples),
        "dropped": source.dropped,
        "memory_growth_mb": _growth_mb(recorder.memory, segments),
        "samples": [asdict(sample) for sample in recorder.samples],
        "memory_mb": recorder.memory,
    }


def _segment(recorder: Recorder, config: LiveConfig, listening_s: float, first_s: float) -> dict[str, Any]:
    """What happened since the server listens (again)."""
    samples = [sample for sample in recorder.samples if sample.taken_s >= first_s]
    late = np.array([sample.late_ms for sample in samples]) * config.fps / 1e3
    p50, p95, p99 = (float(value) for value in np.percentile(late, (50, 95, 99)))
    return {
        "listening_s": listening_s,
        "first_frame_s": first_s,
        "reconnect_s": first_s - listening_s,
        "end_s": recorder.now_s,
        "frames": len(samples),
        "dropped": samples[-1].dropped - samples[0].dropped,
        "late_frames": {"first": float(late[0]), "p50": p50, "p95": p95, "p99": p99, "max": float(late.max())},
    }


def _growth_mb(memory: list[tuple[float, float]], segments: list[dict[str, Any]]) -> float:
    """Median memory of the last segment less that of the first, its beginning left out: libraries load there."""
    ends = segments[0], segments[-1]
    medians = [
        np.median([mb for at, mb in memory if part["first_frame_s"] + 2 * _SETTLE_S < at <= part["end_s"]])
        for part in ends
    ]
    return float(medians[1] - medians[0])


def missed_limits(runs: list[dict[str, Any]]) -> list[str]:
    """What the project promises of live sources and these measurements do not show, in words."""
    missed = []
    for entry in runs:
        place, most = f"{entry['receiver']}, consumer of {entry['consumer_ms']:g} ms", entry["most_frames_late"]
        for number, segment in enumerate(entry["segments"]):
            late = segment["late_frames"]["p99"]
            if late >= most:
                missed.append(f"{place}, segment {number}: p99 is {late:.2f} frames late, not under {most:g}")
        if entry["memory_growth_mb"] > MOST_GROWTH_MB:
            missed.append(f"{place}: memory grew by {entry['memory_growth_mb']:.1f} MB")
    return missed


def table(runs: list[dict[str, Any]]) -> str:
    """A line for each time the server was there; how late frames are, in frames."""
    late = ("first", "p50", "p95", "p99", "max")
    columns = " ".join(f"{name:>6}" for name in late)
    lines = [f"{'receiver':<10} {'consumer':>8} {'reconnect s':>11} {'frames':>6} {'dropped':>7}   late: {columns}"]
    for entry in runs:
        head = f"{entry['receiver']:<10} {entry['consumer_ms']:>5g} ms"
        for segment in entry["segments"]:
            columns = " ".join(f"{segment['late_frames'][name]:>6.2f}" for name in late)
            counts = f"{segment['reconnect_s']:>11.2f} {segment['frames']:>6} {segment['dropped']:>7}"
            lines.append(f"{head} {counts}         {columns}")
        lines.append(f"{head} memory grew by {entry['memory_growth_mb']:.1f} MB")
    return "\n".join(lines) + "\n"


def plot(config: LiveConfig, runs: list[dict[str, Any]], path: Path) -> None:
    """Latency, dropped frames and memory over time, a column for each consumer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        3, len(runs), figsize=(4.5 * len(runs), 7), sharex=True, squeeze=False, layout="constrained"
    )
    for column, entry in enumerate(runs):
        late, dropped, memory = grid[:, column]
        taken = [sample["taken_s"] for sample in entry["samples"]]
        late.plot(taken, [sample["late_ms"] * config.fps / 1e3 for sample in entry["samples"]], ".", markersize=2)
        late.axhline(entry["most_frames_late"], color="tab:red", linewidth=0.8)
        dropped.plot(taken, [sample["dropped"] for sample in entry["samples"]])
        memory.plot(*zip(*entry["memory_mb"], strict=True))
        late.set(title=f"{entry['receiver']}, {entry['consumer_ms']:g} ms a frame", ylim=(0, None))
        memory.set(xlabel="seconds", ylim=(0, None))
        for axes in grid[:, column]:
            for before, after in zip(entry["segments"], entry["segments"][1:], strict=False):
                axes.axvspan(before["end_s"], after["listening_s"], color="0.85")
    for axes, label in zip(grid[:, 0], ("latency, frames", "dropped frames", "resident memory, MB"), strict=True):
        axes.set_ylabel(label)
    figure.suptitle(f"{config.side_px} px at {config.fps} frames a second over RTSP; gray: no server")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_config(LiveConfig, arguments)
    require_rtsp_server()
    runs = [run(config, receiver, pause_ms) for receiver in config.receivers for pause_ms in config.consumers_ms]
    missed = missed_limits(runs)
    result = {
        "schema": "babelrs.live/1",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("av", "numpy")}},
        "settings": config.model_dump(mode="json"),
        "runs": [{key: value for key, value in entry.items() if key not in ("samples", "memory_mb")} for entry in runs],
        "missed_limits": missed,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    plot(config, runs, config.out.with_suffix(".png"))
    sys.stdout.write(table(runs))
    sys.stdout.write("".join(f"missed: {limit}\n" for limit in missed))
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
