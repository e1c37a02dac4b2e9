"""Frames that a program pipes in come in order and without loss."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from babelrs.sensors import Sensor
from runtime.sources.standard_input import PipedSource
from tests.runtime.sources.builders import faults, usable

READER = """
import sys, threading, time
from babelrs.errors import run_command
from babelrs.sensors import Sensor
from runtime.sources import Capture
from runtime.sources.naming import Names
from runtime.sources.opening import Opening, open_source

def main(arguments):
    for item in open_source("-", Sensor.IR, Opening()).captures(threading.Event()):
        if isinstance(item, Capture):
            print(item.sequence, item.name, int(item.raster.read(0, 0, 1, 1).pixels[0, 0]))
        else:
            print(item.sequence, item.error)
        time.sleep(float(arguments[0]))
    return 0

sys.exit(run_command(main))
"""


def pgm(value: int, side: int = 4) -> bytes:
    return b"P5 %d %d 65535\n" % (side, side) + np.full((side, side), value, ">u2").tobytes()


def reader(repository: Path, **streams: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", READER, "0.02"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(repository)},
        **streams,
    )


def test_a_slow_reader_loses_nothing(repository: Path) -> None:
    process = reader(repository, stdin=subprocess.PIPE)
    frames = [pgm(number, 200) for number in range(30)]  # 80 kB each: more than a pipe holds
    out, err = process.communicate(b"".join(frames[:10]) + b"noise" + b"".join(frames[10:]), timeout=60)
    lines = out.decode().splitlines()
    assert err == b"" and process.returncode == 0
    good = [line.split() for line in lines if "standard input" not in line]
    assert [int(value) for _, _, value in good] == list(range(30))
    assert [int(sequence) for sequence, _, _ in good] == [*range(10), *range(11, 31)]
    assert good[0][1] == "stdin_000000" and lines[10].startswith("10 ") and "frame 10" in lines[10]


def test_a_terminal_and_a_closed_input_are_refused(repository: Path) -> None:
    master, slave = pty.openpty()
    process = reader(repository, stdin=slave)
    _, err = process.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    assert process.returncode == 2 and b"a terminal" in err and b"Traceback" not in err
    process = reader(repository, preexec_fn=lambda: os.close(0))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and b"closed" in err and b"Traceback" not in err


def test_stopping_ends_it_while_nothing_comes() -> None:
    reading, writing = os.pipe()
    stop, items = threading.Event(), []
    os.write(writing, pgm(7) + b"P5 9")
    source = PipedSource("-", Sensor.IR, "x_", reading)
    for item in source.captures(stop):
        items.append(item)
        threading.Timer(0.05, stop.set).start()
    assert [item.name for item in usable(items)] == ["x_000000"] and faults(items) == []
    os.close(reading)
    os.close(writing)
