"""What the person who waits sees: a table in a terminal, few lines in a log."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
from rich.console import Console

from compress.report.live import SearchTable
from tests.compress.report.builders import sample_row

LOG = logging.getLogger("compress.quantize")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
GREEN, RED = "\x1b[1;32m", "\x1b[1;31m"


def terminal(width: int = 140) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system="standard")


def shown(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def last_table(console: Console) -> list[str]:
    """The lines of the table as it stands at the end."""
    text = ESCAPES.sub("", shown(console))
    return [line.strip() for line in text[text.rindex("H-mAP may fall") :].splitlines() if line.strip()]


def test_rows_appear_as_they_are_measured() -> None:
    console = terminal()
    with SearchTable(0.5, LOG, console) as table:
        table.row(sample_row("float32"))
        first = shown(console)
        table.row(sample_row("pooled"))
    assert "float32" in first and "pooled" not in first
    rows = [line for line in last_table(console) if line.startswith(("float32", "INT8"))]
    assert [row.split()[-1] for row in rows] == ["\N{EN DASH}", "1.95"]  # float32's 30.48 less 28.52, before rounding
    assert rows[0].split()[1:5] == ["22.1", "51.3", "29.6", "30.48"]


def test_the_loss_is_green_within_the_limit_and_red_beyond() -> None:
    console = terminal()
    with SearchTable(0.5, LOG, console) as table:
        for name in ("float32", "naive", "mixed"):
            table.row(sample_row(name))
    text = shown(console)
    assert f"{RED}7.82" in text and f"{GREEN}0.32" in text


def test_a_row_measured_again_takes_its_old_place() -> None:
    console = terminal()
    with SearchTable(0.5, LOG, console) as table:
        for row in (sample_row("float32"), sample_row("mixed"), sample_row("float32", h_map=0.4)):
            table.row(row)
    rows = [line.split()[0] for line in last_table(console) if line.startswith(("float32", "INT8"))]
    assert rows == ["float32", "INT8"] and "40.00" in last_table(console)[3]


def test_the_step_is_shown_while_it_runs_and_gone_at_the_end() -> None:
    console = terminal()
    with SearchTable(0.5, LOG, console) as table:
        table.row(sample_row("float32"))
        table.step("sensitivity: blocks.3 [x], sar", 3, 24)
        table.row(sample_row("mixed"))
    text = ESCAPES.sub("", shown(console))
    assert "sensitivity: blocks.3 [x], sar" in text and "3/24" in text
    assert not any("sensitivity" in line for line in last_table(console))


@pytest.mark.parametrize(("width", "columns"), [(140, 9), (80, 6)])
def test_a_narrow_terminal_has_no_latency(width: int, columns: int) -> None:
    console = terminal(width)
    with SearchTable(0.5, LOG, console) as table:
        table.row(sample_row("mixed"))
    assert len(last_table(console)[-1].split()) == columns + 4  # "INT8 and float, mixed"
    assert all(len(line) <= width for line in last_table(console))


def test_log_lines_written_meanwhile_do_not_tear_the_table() -> None:
    console, handler = terminal(), logging.StreamHandler()
    root, before = logging.getLogger(), sys.stderr
    root.addHandler(handler)
    try:
        with SearchTable(0.5, LOG, console) as table:
            table.row(sample_row("float32"))
            assert handler.stream is not before
            LOG.warning("calibrating on 31 images")
        assert handler.stream is before and sys.stderr is before
    finally:
        root.removeHandler(handler)
    assert "calibrating on 31 images" in shown(console)


def test_the_terminal_comes_back_after_an_error() -> None:
    console = terminal()
    with pytest.raises(ZeroDivisionError), SearchTable(0.5, LOG, console) as table:
        table.row(sample_row("float32"))
        raise ZeroDivisionError
    assert shown(console).endswith("\x1b[?25h")  # the cursor is shown again


def test_without_a_terminal_there_are_lines(caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO())
    with caplog.at_level(logging.INFO, "compress.quantize"), SearchTable(0.5, LOG, console) as table:
        table.row(sample_row("float32"))
        table.row(sample_row("pooled"))
        table.row(sample_row("mixed", latency_ms=None))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and shown(console) == ""
    assert lines[0].startswith("float32: RGB mAP 22.1, SAR mAP 51.3, IR mAP 29.6, H-mAP 30.48, MB 11.05, RGB ms 61.8")
    assert lines[1].endswith("; lost 1.95, over the limit of 0.50")
    assert lines[2].endswith("MB 3.15; lost 0.32, within the limit of 0.50")


@pytest.mark.parametrize("total", [3, 39, 600])
def test_the_lines_of_a_step_do_not_grow_with_the_model(total: int, caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO())
    with caplog.at_level(logging.INFO, "compress.quantize"), SearchTable(0.5, LOG, console) as table:
        for done in range(total + 1):
            table.step(f"sensitivity: part {done}, sar", done, total)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"sensitivity: 0 of {total}" and lines[-1] == f"sensitivity: {total} of {total}"
    assert len(lines) <= 5
