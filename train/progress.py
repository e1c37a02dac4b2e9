"""A run's course for the person who watches it: a live bar with losses and time left, or plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunProgress:
    """Shows steps, losses and rate; use as a context.

    Args:
        log: Where lines go when standard error is no terminal.
        steps: Steps of the run.
        first_step: Steps done before.
        shown: Whether this process shows anything.
    """

    def __init__(self, log: logging.Logger, steps: int, first_step: int, shown: bool) -> None:
        self.log, self.steps, self.first_step, self.shown = log, steps, first_step, shown
        self.started = time.perf_counter()
        live = shown and sys.stderr.isatty()
        self.bar = _bar() if live else None
        self.task = self.bar.add_task("", total=steps, completed=first_step) if self.bar else None

    def __enter__(self) -> RunProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def rate(self, step: int) -> float:
        """Steps per second since this process began."""
        return (step - self.first_step) / max(1e-9, time.perf_counter() - self.started)

    def advance(self, step: int) -> None:
        """``step`` steps are done."""
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=step)

    def report(self, step: int, losses: Mapping[str, float]) -> None:
        """Losses of a step by sensor."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        if self.bar and self.task is not None:
            self.bar.update(self.task, description=text)
        elif self.shown:
            self.log.info("step %d/%d  %s  %.2f steps/s", step, self.steps, text, self.rate(step))


def _bar() -> Progress:
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
