"""Ctrl-C and a scheduler's SIGTERM end a run after the step it is in, with everything saved."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

log = logging.getLogger("train")
EXIT_INTERRUPTED = 130
"""Exit code of a run that was asked to stop, as shells give it for Ctrl-C."""


class Interruption:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handler of a signal; the second Ctrl-C stops at once."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within this context SIGINT and SIGTERM only set ``asked``."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(finished: bool, result: Path) -> int:
    """Say how a run ended; what its command returns."""
    if not finished:
        log.info("stopped and saved; add --resume to go on")
        return EXIT_INTERRUPTED
    log.info("done: %s", result)
    return 0
