"""Ctrl-C and SIGTERM: the first finishes what is under way, the second ends at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = "stopping: what is under way is finished and written; once more to end at once\n"


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second does what it did before. In the main thread only."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()
        sys.stderr.write(_SAID)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
