"""``python -m benchmarks.bit_flips --float32 A --int8 B``: flips of single bits in the weights, and who notices.

One at a time, in the memory that the engine computes with, each bit of each graph as likely as any other: does the CRC
of its slice differ, do detections change before the CRC finds it, and would the output check or the self-test have
noticed, by its tolerances and to the bit? Every flip is a line of ``OUT.BUNDLE.jsonl``; a run that was killed goes on
there. Writes a table, ``OUT.json`` and ``OUT.png``. Exit code 1 says that a flip was not found.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import Bundle, open_bundle, verify_files
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from babelrs.sensors import Sensor
from benchmarks.flips import Flip, Target, draw_flips
from benchmarks.pipeline_run import chosen_images, open_detector, prepared_batches
from train.cli import load_config

log = logging.getLogger("benchmarks.bit_flips")

SCHEMA = "babelrs.bit-flips/2"
NOTICED = ("crc", "output", "selftest", "exact", "changed")
_SAID_EVERY = 200

Line = dict[str, Any]


class BitFlipsConfig(BaseModel):
    """Flip bits of loaded weights, one at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    float32: Path = Field(description="float32 bundle, folder or archive")
    int8: Path | None = Field(None, description="INT8 bundle of the same model")
    data: Path | None = Field(None, description="root of a dataset whose images are compared; none: the self-tests'")
    images: int = Field(1, ge=1, description="images of the dataset a sensor")
    flips: int = Field(10_000, ge=1, description="flips in each bundle")
    inferences: int | None = Field(
        None, ge=0, description="flips that are also inferred with, the first ones; none: all"
    )
    threads: int = Field(1, ge=1, description="CPU threads of the engine")
    seed: int = Field(0, ge=0, description="decides which bits")
    out: Path = Field(Path("benchmarks/results/bit-flips"), description="results go to OUT.json and OUT.png")


def drawn(targets: Mapping[Sensor, Target], config: BitFlipsConfig) -> list[tuple[Sensor, Flip]]:
    """The flips of a bundle: over the regions of all its graphs together."""
    regions = [(sensor, place) for sensor, target in targets.items() for place in range(len(target.regions))]
    everything = [region for target in targets.values() for region in target.regions]
    flips = draw_flips(everything, config.flips, np.random.default_rng(config.seed))
    return [(regions[each.region][0], Flip(regions[each.region][1], each.byte, each.bit)) for each in flips]


def open_targets(bundle: Bundle, config: BitFlipsConfig) -> dict[Sensor, Target]:
    """Every sensor's graph, with the tiles that its detections are compared on."""
    found = {}
    for sensor in bundle.manifest.sensors:
        tiles = None
        if config.data is not None:
            detector = open_detector(bundle, sensor, config.threads, 1)
            batches = prepared_batches(detector, chosen_images(config.data, sensor, config.images))
            tiles = np.concatenate([batch for batch, _ in zip(batches, range(config.images), strict=False)])
        found[sensor] = Target(bundle, sensor, tiles, config.threads)
    return found


def flip_all(name: str, path: Path, config: BitFlipsConfig) -> list[Line]:
    """A line for every flip of a bundle, those of an earlier run included.

    Raises:
        BabelRSError: The earlier run was of another bundle or with other settings.
    """
    bundle = open_bundle(path)
    verify_files(bundle)
    data = None if config.data is None else str(config.data)
    settings = {"schema": SCHEMA, "bundle": bundle.digest, "seed": config.seed, "flips": config.flips}
    settings |= {"inferences": config.inferences, "images": config.images, "data": data}
    file = config.out.with_name(f"{config.out.name}.{name}.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = _begun(file, settings)
    targets = open_targets(bundle, config)
    most = config.flips if config.inferences is None else config.inferences
    with file.open("a") as stream:
        for number, (sensor, flip) in enumerate(drawn(targets, config)):
            if number < len(lines):
                continue
            lines.append(targets[sensor].try_flip(flip, number < most))
            stream.write(json.dumps(lines[-1]) + "\n")
            stream.flush()
            if len(lines) % _SAID_EVERY == 0:
                log.info("%s: %d of %d flips", name, len(lines), config.flips)
    return lines


def _begun(file: Path, settings: Line) -> list[Line]:
    """The lines of an earlier run; a last one that was cut off is taken away."""
    if not file.is_file():
        file.write_text(json.dumps(settings) + "\n")
        return []
    complete = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if not complete or json.loads(complete[0]) != settings:
        raise BabelRSError(f"{file} is of another bundle or with other settings.", "Remove it, or name another --out.")
    file.write_text("".join(complete))
    return [json.loads(line) for line in complete[1:]]


def counted(lines: Iterable[Line]) -> Line:
    """How many flips there were, and how many of those that were inferred with changed what or were noticed by whom."""
    every = list(lines)
    run = [line for line in every if "changed" in line]
    counts = {name: sum(line[name] for line in run) for name in NOTICED[1:]}
    silent = sum(line["changed"] and not line["output"] for line in run)
    beyond = sum(line["changed"] and not line["exact"] for line in run)
    crc = sum(line["crc"] for line in every)
    unnoticed = {"changed_unnoticed_by_output": silent, "changed_unnoticed_by_exact": beyond}
    return {"flips": len(every), "crc": crc, "inferred": len(run), **counts, **unnoticed}


def summarised(lines: list[Line]) -> Line:
    """Counts of all flips, by type and bit, by kind of bit, and by layer group."""
    keys = {
        "bit": lambda line: f"{line['dtype']} {line['bit']:02d}",
        "kind": lambda line: f"{line['dtype']} {line['kind']}",
        "group": lambda line: line["group"],
        "sensor": lambda line: line["sensor"],
    }
    found: Line = {"all": counted(lines)}
    for name, key in keys.items():
        values = sorted({key(line) for line in lines})
        found[name] = {value: counted(line for line in lines if key(line) == value) for value in values}
    return found


def format_table(bundles: Mapping[str, Line]) -> str:
    """A line for every bundle, kind of bit and layer group."""
    head = f"{'bundle':<9}{'':<20}{'flips':>7}{'CRC':>7}{'run':>7}{'changed':>9}{'output':>8}"
    lines = [f"{head}{'selftest':>10}{'exact':>8}"]
    for name, summary in bundles.items():
        rows = {"all": summary["all"], **summary["kind"], **summary["group"]}
        lines += [
            f"{name:<9}{what:<20}{row['flips']:>7}{row['crc']:>7}{row['inferred']:>7}{row['changed']:>9}"
            f"{row['output']:>8}{row['selftest']:>10}{row['exact']:>8}"
            for what, row in rows.items()
        ]
    return "\n".join(lines) + "\n"


def plot(bundles: Mapping[str, Line], path: Path) -> None:
    """The share of flips that changed detections: by bit of the weights, and by layer group."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (bits, groups) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    names = sorted({group for summary in bundles.values() for group in summary["group"]})
    for place, (name, summary) in enumerate(bundles.items()):
        dtype = {"float32": "float32", "int8": "int8"}[name]
        rows = {int(key.split()[1]): row for key, row in summary["bit"].items() if key.split()[0] == dtype}
        shares = {bit: 100 * row["changed"] / row["inferred"] for bit, row in rows.items() if row["inferred"]}
        bits.plot(list(shares), list(shares.values()), "o-", markersize=3, label=f"{name} weights")
        found = [summary["group"].get(group, {"changed": 0, "inferred": 0}) for group in names]
        heights = [100 * row["changed"] / max(row["inferred"], 1) for row in found]
        groups.bar(np.arange(len(names)) + 0.4 * place, heights, 0.4, label=name)
    bits.set(
        xlabel="bit (float32: 31 sign, 30 to 23 exponent; int8: 7 sign)", ylabel="% of flips that change detections"
    )
    groups.set_xticks(np.arange(len(names)) + 0.2 * (len(bundles) - 1), names, fontsize=8)
    groups.set(ylabel="% of flips that change detections")
    for each in (bits, groups):
        each.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(BitFlipsConfig, arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    paths = {"float32": config.float32} | ({} if config.int8 is None else {"int8": config.int8})
    bundles = {name: summarised(flip_all(name, path, config)) for name, path in paths.items()}
    record = {
        "schema": SCHEMA,
        "settings": config.model_dump(mode="json", exclude={"out", "data", "float32", "int8"}),
        "digests": {name: open_bundle(path).digest for name, path in paths.items()},
        "bundles": bundles,
    }
    config.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    plot(bundles, config.out.with_suffix(".png"))
    sys.stdout.write(format_table(bundles))
    missed = sum(summary["all"]["flips"] - summary["all"]["crc"] for summary in bundles.values())
    if missed:
        sys.stdout.write(f"limit missed: {missed} flips were not found by the CRC\n")
    return EXIT_LIMIT_MISSED if missed else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
