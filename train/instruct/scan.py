"""A look at every row before training: what is broken without opening an image, and which image files are missing."""

from __future__ import annotations

from collections.abc import Sequence

from babelrs.errors import collected
from train.instruct.corpus import InstructSet
from train.instruct.faults import Fault, RowFault, Tally
from train.instruct.rows import JsonLines, parse_row


def scan(sets: Sequence[InstructSet]) -> tuple[Tally, list[Fault]]:
    """Parse all rows and look for their image files, about ten thousand rows a second from a local disk.

    Raises:
        BabelRSError: A file of rows cannot be read.
    """
    tally, faults = Tally(), list[Fault]()
    for item in sets:
        lines = JsonLines(item.annotation)
        for number in range(len(lines)):
            found = _row_faults(item, number, lines[number])
            tally.add(1, found[:1])
            faults += found
    return tally, faults


def _row_faults(item: InstructSet, number: int, line: bytes) -> list[Fault]:
    try:
        row = parse_row(line)
    except RowFault as fault:
        return [Fault(item.name, number, fault.identity, fault.cause, fault.detail)]
    paths = [item.root / name for name in row.images]
    return [Fault(item.name, number, row.id, "image: missing", str(path)) for path in paths if not path.is_file()]


def refuse_broken(sets: Sequence[InstructSet], max_share: float = 0.01, from_rows: int = 1) -> Tally:
    """Scan, and stop before training where more than a share of the rows is broken.

    Args:
        sets: The instruction sets.
        max_share: Largest share of broken rows.
        from_rows: The share is taken of at least so many rows, as while training.

    Raises:
        BabelRSError: More are; every missing file and broken row is listed, up to fifty of them.
    """
    tally, faults = scan(sets)
    if tally.broken > max_share * max(tally.rows, from_rows):
        lines = [f"{fault.dataset}, row {fault.row}: {fault.cause}: {fault.detail}" for fault in faults]
        what = f"{tally.broken} of {tally.rows} rows are broken, more than the share of {max_share:g} that may be"
        raise collected(what, lines, "Mend the data, or raise max_broken_share.")
    return tally
