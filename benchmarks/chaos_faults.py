"""What goes wrong in :mod:`benchmarks.chaos`: a table of faults, each of which happens, lasts, and is put right."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos_flight import Flight
from benchmarks.crash_runs import resize

AMPLE_BYTES = 1 << 30
"""Of the output's disk, while it is not full."""
_HUGE_PX = 60_000


@dataclass(frozen=True)
class Fault:
    """One that happened.

    Attributes:
        name: Its kind.
        begin_s: When it began, seconds since the start of the flight.
        end_s: When it was put right.
    """

    name: str
    begin_s: float
    end_s: float


def happen(name: str, flight: Flight, rng: random.Random) -> Fault:
    """Let a fault happen, wait as long as it lasts, and put it right."""
    begin = flight.seconds()
    FAULTS[name](flight, rng)
    return Fault(name, begin, flight.seconds())


def _kill(flight: Flight, _rng: random.Random) -> None:
    flight.service.send(signal.SIGKILL)


def _restart(flight: Flight, _rng: random.Random) -> None:
    flight.service.send(signal.SIGTERM)


def _freeze(flight: Flight, rng: random.Random) -> None:
    flight.service.send(signal.SIGSTOP)
    time.sleep(rng.uniform(1, 6))
    flight.service.send(signal.SIGCONT)


def _full_disk(flight: Flight, rng: random.Random) -> None:
    resize(flight.disk, shutil.disk_usage(flight.disk).used + rng.randrange(1 << 14))
    time.sleep(rng.uniform(3, 10))
    resize(flight.disk, AMPLE_BYTES)


def _broker_gone(flight: Flight, rng: random.Random) -> None:
    flight.broker.stop()
    time.sleep(rng.uniform(3, 15))
    flight.broker.start()


def _altered_bundle(flight: Flight, rng: random.Random) -> None:
    """Whoever starts meanwhile must refuse it."""
    graph = flight.bundle / "model.ir.onnx"
    sound = graph.read_bytes()
    place = rng.randrange(len(sound))
    graph.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << rng.randrange(8)]) + sound[place + 1 :])
    flight.service.send(signal.SIGKILL)
    time.sleep(rng.uniform(3, 8))
    graph.write_bytes(sound)


def _spool_gone(flight: Flight, rng: random.Random) -> None:
    away = flight.camera.spool.with_name("away")
    with flight.camera.lock:  # the camera, too, has nowhere to write
        flight.camera.spool.rename(away)
        time.sleep(rng.uniform(1, 5))
        away.rename(flight.camera.spool)


def _no_memory(flight: Flight, rng: random.Random) -> None:
    """The process may take next to no more than it has."""
    process = flight.service.process_id()
    if process is None:
        return
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + rng.randrange(1 << 20)
        resource.prlimit(process, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        time.sleep(rng.uniform(2, 6))
        resource.prlimit(process, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ProcessLookupError, FileNotFoundError):
        pass  # it ended of it


def _empty(flight: Flight, _rng: random.Random) -> None:
    flight.camera.bad("empty", b"")


def _garbage(flight: Flight, rng: random.Random) -> None:
    flight.camera.bad("garbage", rng.randbytes(rng.randrange(1, 1 << 16)))


def _cut(flight: Flight, rng: random.Random) -> None:
    whole = flight.camera.picture()
    flight.camera.bad("cut", whole[: rng.randrange(8, len(whole) * 9 // 10)])


def _another_type(flight: Flight, _rng: random.Random) -> None:
    flight.camera.bad("text", b"%PDF-1.7\n" + bytes(4096))


def _huge_claim(flight: Flight, _rng: random.Random) -> None:
    """A few bytes of PNG that claim gigabytes."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", _HUGE_PX, _HUGE_PX, 16, 0, 0, 0, 0)
    flight.camera.bad("huge", b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(64))


def _in_pieces(flight: Flight, rng: random.Random) -> None:
    """A good image by a writer that stops in the middle, sometimes for so long that it looks whole."""
    flight.camera.good_in_pieces([rng.uniform(0.05, 1.5) for _ in range(3)])


FAULTS: dict[str, Callable[[Flight, random.Random], None]] = {
    "kill -9": _kill,
    "restart": _restart,
    "frozen process": _freeze,
    "full disk": _full_disk,
    "no memory": _no_memory,
    "broker gone": _broker_gone,
    "altered bundle": _altered_bundle,
    "spool gone": _spool_gone,
    "empty file": _empty,
    "garbage": _garbage,
    "cut image": _cut,
    "another type": _another_type,
    "huge claim": _huge_claim,
    "image in pieces": _in_pieces,
}
"""What may happen, by name; each is as likely as any other."""
