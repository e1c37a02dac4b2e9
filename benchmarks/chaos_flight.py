"""A camera that writes into a spool, a service that is restarted whenever it ends, and a ground that receives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from babelrs.errors import EXIT_DONE
from benchmarks.mosquitto import Mosquitto
from benchmarks.soak import look
from runtime.links.options import Broker
from runtime.links.receive import Inbox, receive

FORMATS = "jsonl,csv,coco,dota"
TOPIC = "babelrs/chaos"
_NOISE = 40
_LOOK_S = 0.5

Look = tuple[float, int, int]
"""Seconds since the start of the flight, images written and images done."""


class Camera(threading.Thread):
    """Writes an image into the spool at a steady rate: under a hidden name, then renamed.

    Args:
        spool: The folder.
        scenes: ``(H, W)`` uint16 each; every image is one of them, shifted and with noise, so that no two are alike.
        interval_s: From one image to the next.
        seed: Of shifts and noise.

    Attributes:
        lock: Whoever holds it keeps the camera from writing.
        good, bad_names: Names of what was written.
    """

    def __init__(self, spool: Path, scenes: Sequence[npt.NDArray[np.uint16]], interval_s: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.spool, self.lock, self.closing = spool, threading.Lock(), threading.Event()
        self.good: list[str] = []
        self.bad_names: list[str] = []
        self._scenes, self._interval_s, self._rng = scenes, interval_s, np.random.default_rng(seed)
        self._drawing = threading.Lock()

    def run(self) -> None:
        """Write until it is closed."""
        while not self.closing.wait(self._interval_s):
            data = self.picture()
            with self.lock:
                self._put(self._named(), data)

    def picture(self) -> bytes:
        """A new image, as PNG."""
        with self._drawing:
            scene = self._scenes[int(self._rng.integers(len(self._scenes)))]
            moved = np.roll(scene, self._rng.integers(0, scene.shape[0], 2), (0, 1)).astype(np.int32)
            moved += self._rng.integers(-_NOISE, _NOISE + 1, moved.shape, np.int32)
        return cv2.imencode(".png", np.clip(moved, 0, 65535).astype(np.uint16))[1].tobytes()

    def bad(self, kind: str, data: bytes) -> None:
        """Write something that is no image of this camera's."""
        with self.lock:
            self.bad_names.append(name := f"bad{len(self.bad_names):05d}-{kind}.png")
            self._put(name, data)

    def good_in_pieces(self, pauses_s: Sequence[float]) -> None:
        """Write a good image under its own name, piece by piece."""
        data = self.picture()
        step = -(-len(data) // (len(pauses_s) + 1))
        with self.lock, (self.spool / self._named()).open("wb", buffering=0) as file:
            file.write(data[:step])
            for number, pause in enumerate(pauses_s, start=1):
                time.sleep(pause)
                file.write(data[number * step : (number + 1) * step])

    def _named(self) -> str:
        self.good.append(name := f"frame{len(self.good):06d}.png")
        return name

    def _put(self, name: str, data: bytes) -> None:
        hidden = self.spool / f".{name}.part"
        hidden.write_bytes(data)
        hidden.rename(self.spool / name)


@dataclass(frozen=True)
class Ended:
    """How a process of the service ended.

    Attributes:
        at_s: When, seconds since the start of the flight.
        code: Its exit code; that of a signal is negative.
    """

    at_s: float
    code: int


class Service(threading.Thread):
    """Runs ``babelrs-run --resume`` again and again, as the service manager does.

    Args:
        arguments: Of ``babelrs-run``.
        logs: Folder of a file for what each process says on standard error.
        pause_s: Between an end and the next start.
        begin: Of the flight, by the monotonic clock.

    Attributes:
        ends: How each process ended.
        peak_mb: The most memory that one had resident.
    """

    def __init__(self, arguments: Sequence[str], logs: Path, pause_s: float, begin: float) -> None:
        super().__init__(daemon=True)
        self.ends: list[Ended] = []
        self.landing, self.peak_mb = threading.Event(), 0.0
        self._arguments, self._logs, self._pause_s, self._begin = arguments, logs, pause_s, begin
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start it again until the landing, and once more for as long as it does not end well."""
        command = [sys.executable, "-m", "runtime.cli", *self._arguments, "--resume"]
        while not (self.landing.is_set() and self.ends and self.ends[-1].code == EXIT_DONE):
            with (self._logs / f"{len(self.ends):05d}.txt").open("wb") as log:
                self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
                while self._process.poll() is None:
                    self._watch(self._process.pid)
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(_LOOK_S)
            self.ends.append(Ended(time.monotonic() - self._begin, self._process.returncode))
            if not self.landing.is_set():
                time.sleep(self._pause_s)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if (process := self._process) is not None and process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def process_id(self) -> int | None:
        """Of the process that runs now; ``None`` between two."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def said(self) -> str:
        """All that was said on standard error."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._logs.iterdir()))

    def _watch(self, process: int) -> None:
        with suppress(OSError, KeyError):  # it ended
            self.peak_mb = max(self.peak_mb, look(process, self._begin, 0).resident_mb)


@dataclass
class Ground:
    """Which images' messages have arrived."""

    images: set[str] = field(default_factory=set)
    landed: threading.Event = field(default_factory=threading.Event)
    _inbox: Inbox = field(default_factory=Inbox)

    def listen(self, address: Broker) -> None:
        """Receive until it landed."""
        receive(address, "ground", True, self._take, self.landed.is_set)

    def _take(self, topic: str, payload: bytes) -> None:
        record = self._inbox.take(topic, payload)
        if record is not None and "frame" in record:
            self.images.add(os.path.basename(record["source"]))


@dataclass
class Flight:
    """All that flies, and the ground.

    Attributes:
        disk: Where the output folder lies: a disk of its own.
        out: The output folder.
        bundle: What is run.
        camera, service, broker, ground: Each of them.
        begin: By the monotonic clock.
        looks: How far the run was over time.
    """

    disk: Path
    bundle: Path
    camera: Camera
    service: Service
    broker: Mosquitto
    ground: Ground
    begin: float
    looks: list[Look] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.disk / "out"

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begin

    def look(self) -> Look:
        """Keep how many images are written and done now."""
        self.looks.append((self.seconds(), len(self.camera.good), self._num_done()))
        return self.looks[-1]

    def _num_done(self) -> int:
        with suppress(OSError):
            lines = (self.out / "detections.ir.jsonl").read_bytes()
            return lines.count(b"\n")
        return self.looks[-1][2] if self.looks else 0


def arguments(folder: Path, disk: Path, bundle: Path, port: int) -> list[str]:
    """Of ``babelrs-run``, for a spool, every format and the link."""
    options = {
        "--source": f"ir=spool:{folder / 'spool'}",
        "--bundle": str(bundle),
        "--out": str(disk / "out"),
        "--format": FORMATS,
        "--mqtt": f"mqtt://127.0.0.1:{port}/{TOPIC}",
        "--health-interval": "5",
        "--threads": "1",
    }
    return [part for option in options.items() for part in option]
