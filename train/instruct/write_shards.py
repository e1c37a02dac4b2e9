"""Write WebDataset shards from a meta file: ``python -m train.instruct.write_shards --meta META --out DIR``.

An epoch of the mixture is written in its random order, by ``repeat_time``. Image files go in as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from babelrs.errors import BabelRSError, run_command
from babelrs.images import ImageError, read_frame
from train.instruct.corpus import InstructSet, read_meta, warn_of_lengths
from train.instruct.faults import Fault, FaultFile, RowFault, Tally
from train.instruct.rows import JsonLines, parse_row, row_json, with_sensor
from train.instruct.sampling import Mixture
from train.instruct.shards import OWN_FIELD, ShardWriter

BROKEN_ROWS = "broken_rows.jsonl"


def write_shards(
    sets: Sequence[InstructSet],
    out: Path,
    seed: int = 0,
    shard_samples: int = 1000,
    max_broken_share: float = 0.01,
    from_rows: int = 1000,
) -> Tally:
    """Write one epoch of the sets as shards; broken rows are left out, counted, and listed in a file.

    Args:
        sets: The sets.
        out: Folder of the shards and their index.
        seed: Of choice and order.
        shard_samples: Samples of a shard at most.
        max_broken_share: Share of broken rows above which writing stops.
        from_rows: Rows that this share is taken of at least.

    Raises:
        BabelRSError: A file cannot be read or written, or too many rows are broken.
    """
    files = [JsonLines(item.annotation) for item in sets]
    sizes = [len(file) for file in files]
    warn_of_lengths(list(sets), sizes)
    mixture = Mixture(sizes, [item.count(size) for item, size in zip(sets, sizes, strict=True)], seed)
    tally = Tally()
    with ShardWriter(out, shard_samples) as writer:
        listed = FaultFile(out / BROKEN_ROWS)
        for position in range(mixture.epoch_size):
            draw = mixture.draw(position)
            item = sets[draw.dataset]
            try:
                _write_row(writer, item, files[draw.dataset][draw.row])
                tally.add(1, ())
            except RowFault as fault:
                found = [Fault(item.name, draw.row, fault.identity, fault.cause, fault.detail)]
                listed.add(found)
                tally.add(1, found)
                tally.check(max_broken_share, from_rows, str(listed.path))
    return tally


def _write_row(writer: ShardWriter, item: InstructSet, line: bytes) -> None:
    row = with_sensor(parse_row(line), item.sensor)
    images = []
    for name in row.images:
        path = item.root / name
        try:
            read_frame(path)  # refuses what the training would have to skip
            images.append((path.suffix.lower(), path.read_bytes()))
        except ImageError as error:
            raise RowFault(f"image: {error.cause}", error.what, row.id) from None
    own = {"set": item.name, "max_dynamic_patch": item.max_tiles, "data_augment": item.data_augment}
    writer.add(row_json(row, **{OWN_FIELD: own}), images)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m train.instruct.write_shards", description=__doc__)
    made.add_argument("--meta", type=Path, required=True, help="meta JSON of instruction sets")
    made.add_argument("--base", type=Path, help="folder that its relative paths start from (default: its own)")
    made.add_argument("--out", type=Path, required=True, help="folder to write")
    made.add_argument("--shard-samples", type=int, default=1000, help="samples of a shard at most (default 1000)")
    made.add_argument("--seed", type=int, default=0, help="seed of choice and order (default 0)")
    made.add_argument("--max-broken-share", type=float, default=0.01, help="share that stops it (default 0.01)")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)
    if arguments.shard_samples < 1 or arguments.seed < 0:
        raise BabelRSError("--shard-samples is below 1 or --seed below 0.", "Use 1 or more, and 0 or more.")
    sets = read_meta(arguments.meta, arguments.base)
    tally = write_shards(sets, arguments.out, arguments.seed, arguments.shard_samples, arguments.max_broken_share)
    report = {"samples": tally.rows - tally.broken, "broken": dict(tally.causes)}
    sys.stdout.write(json.dumps(report) + f"\n{arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
