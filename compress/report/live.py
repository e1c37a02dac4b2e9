"""The search for the person who watches it: a live table of what was measured, or plain lines in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from types import TracebackType

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from babelrs.sensors import Sensor
from compress.report.cells import MISSING, REFERENCE, ROW_LABELS, Column, accuracy_columns, cost_columns
from compress.report.record import Row

_QUARTERS = 4
"""A log gets at most so many lines of one step, and its beginning."""

_ROOM_FOR_LATENCY = 110
"""Letters in a line."""


class SearchTable:
    """Shows every row as it is measured and the step that runs; use as a context.

    Log lines that other code writes meanwhile appear above the table.

    Args:
        max_hmap_drop: The loss of H-mAP that is allowed, points.
        log: Where lines go when standard error is no terminal.
        console: Where the table goes; ``None``: standard error.
    """

    def __init__(self, max_hmap_drop: float, log: logging.Logger, console: Console | None = None) -> None:
        self._limit, self._log = max_hmap_drop, log
        self._rows: list[Row] = []
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._progress.add_task("", total=None, visible=False)
        self._console = console or Console(stderr=True)
        self._live = Live(self, console=self._console, refresh_per_second=4) if self._console.is_terminal else None
        self._said = ("", -1)
        self._redirected: list[tuple[logging.StreamHandler, object]] = []

    def __enter__(self) -> SearchTable:
        if self._live:
            before = sys.stderr
            self._live.start()
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                    self._redirected.append((handler, before))
                    handler.setStream(sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.update(self._task, visible=False)
        if self._live:
            self._live.stop()
            for handler, stream in self._redirected:
                handler.setStream(stream)
            self._redirected.clear()

    def __rich__(self) -> Group:
        return Group(*([self.table()] if self._rows else []), self._progress)

    def row(self, row: Row) -> None:
        """A row was measured; it takes the place of an earlier one of its name."""
        names = [one.name for one in self._rows]
        if row.name in names:
            self._rows[names.index(row.name)] = row
        else:
            self._rows.append(row)
        if self._live:
            self._live.refresh()
        else:
            self._log.info("%s", self._line(row))

    def step(self, text: str, done: int, total: int) -> None:
        """What runs now, and how far it is; the part of ``text`` before a colon names the step.

        Args:
            text: Such as ``sensitivity: blocks.3, sar``.
            done: Of ``total``, finished.
            total: 1 or more.
        """
        self._progress.update(self._task, description=text, completed=done, total=total, visible=True)
        name, quarter = text.partition(":")[0], _QUARTERS * done // max(total, 1)
        if not self._live and (name, quarter) != self._said:  # lines do not grow in number with the model's parts
            self._log.info("%s: %d of %d", name, done, total)
        self._said = (name, quarter)

    def table(self) -> Table:
        """The rows so far, with the loss of H-mAP in the colour of its verdict; latency where there is room."""
        columns = _columns(self._rows)
        if self._console.width < _ROOM_FOR_LATENCY:
            columns = [column for column in columns if not column.path.startswith("latency")]
        table = Table("row", title=f"H-mAP may fall by {self._limit:.2f} points", title_justify="left", box=SIMPLE)
        for column in columns:
            table.add_column(column.label, justify="right")
        table.add_column("lost", justify="right")
        for row in self._rows:
            table.add_row(ROW_LABELS[row.name], *(column.text(row) for column in columns), self._loss(row))
        return table

    def _drop(self, row: Row) -> float | None:
        reference = next((one.h_map for one in self._rows if one.name == REFERENCE), None)
        if row.name == REFERENCE or reference is None or row.h_map is None:
            return None
        return 100 * (reference - row.h_map)

    def _loss(self, row: Row) -> Text:
        drop = self._drop(row)
        if drop is None:
            return Text(MISSING)
        return Text(f"{drop:.2f}", style="bold green" if drop <= self._limit else "bold red")

    def _line(self, row: Row) -> str:
        numbers = ", ".join(f"{column.label} {column.text(row)}" for column in _columns([row]))
        line = f"{ROW_LABELS[row.name]}: {numbers}"
        drop = self._drop(row)
        if drop is None:
            return line
        return f"{line}; lost {drop:.2f}, {'within' if drop <= self._limit else 'over'} the limit of {self._limit:.2f}"


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Each sensor's mAP, H-mAP and what the rows cost."""
    sensors = [sensor for sensor in Sensor if any(sensor in row.sensors for row in rows)]
    shown = {f"sensors/{sensor.value}/ap" for sensor in sensors} | {"h_map"}
    return [column for column in accuracy_columns(sensors) if column.path in shown] + cost_columns(rows, sensors)
