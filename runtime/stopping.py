"""Ctrl-C and SIGTERM: the first finishes what is under way, the second ends at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from babelrs.errors import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = "stopping: what is under way is finished and written; once more to end at once\n"


@dataclass
class Stop:
    """Whether a run is to end.

    Attributes:
        event: Set where it is; a run also sets it at its own end.
        asked: Whether somebody asked for it.
    """

    event: threading.Event = field(default_factory=threading.Event)
    asked: bool = False


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """What the first signal sets; the second does what it did before. In the main thread only."""
    stop = Stop()
    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}  # as nohup sets

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        stop.event.set()
        restore()
        say(_SAID, sys.stderr)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
