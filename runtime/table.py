"""``python -m runtime.table FILE.jsonl...``: what ``babelrs-run`` found, as a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelrs.errors import EXIT_DONE, BabelRSError, run_command

SCHEMA = "babelrs.detections/1"
HEAD = f"{'sensor':<8}{'image':<26}{'size':>11}  {'detections':<34}{'infer':>10}{'all stages':>12}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and return the exit code; ``None`` takes the process's arguments."""
    return run_command(_print_table, argv)


def _print_table(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.table", description="Show results of babelrs-run as a table."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    rows = [row for file in parser.parse_args(argv).files for row in read_rows(file)]
    sys.stdout.write("\n".join([HEAD, "-" * len(HEAD), *map(format_row, rows)]) + "\n")
    return EXIT_DONE


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file of ``babelrs-run``.

    Raises:
        BabelRSError: The file cannot be read, or a line is no such object; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BabelRSError(f"{path}: cannot be read ({error}).", "Name a file that babelrs-run wrote.") from None
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BabelRSError(f"{place}: not JSON ({error}).", "Name a file that babelrs-run wrote.") from None
    if not isinstance(row, dict) or row.get("schema") != SCHEMA:
        raise BabelRSError(f"{place}: no object of schema {SCHEMA}.", "Name a file that babelrs-run wrote.")
    return row


def format_row(row: dict[str, Any]) -> str:
    """One image's line: sensor, name, size in pixels, detections by class, engine and total time."""
    counts = Counter(detection["label"] for detection in row["detections"])
    found = ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "none"
    size = f"{row['width']}x{row['height']}"
    latency = row["latency_ms"]
    times = f"{latency['infer']:>7.1f} ms{sum(latency.values()):>9.1f} ms"
    return f"{row['sensor']:<8}{Path(row['source']).name[:25]:<26}{size:>11}  {found[:33]:<34}{times}"


if __name__ == "__main__":
    sys.exit(main())
