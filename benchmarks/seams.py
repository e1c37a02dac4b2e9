"""``python -m benchmarks.seams``: objects on the edges of tiles, each to be reported once and whole.

First with a detector without faults, which tests the merging alone; then with the engine of a bundle on simulated
scenes, beside what the same engine does where there is no seam. Writes a table and a JSON file. Exit code 1 says that
the merging lost, repeated or cut an object that the stated limit covers.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import open_bundle
from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from babelrs.seams import merge_tiles
from babelrs.sensors import Sensor
from babelrs.tiling import plan_tiles
from benchmarks.seam_objects import MATCH_IOU, Kind, by_centre, judge, perfect, place_on_seams
from benchmarks.seam_scenes import Outcome, outcomes, simulated
from runtime.engines import open_engine
from runtime.pipeline import Detector
from train.cli import load_config

log = logging.getLogger("benchmarks.seams")

NMS_IOU = 0.3
COVERED_PX = 150
"""Every object up to this length must be right; a quarter of a tile, more than twice the least overlap."""
_SCENE_PX = 9000
_MOST_OF_A_SCENE = 12


class SeamsConfig(BaseModel):
    """Count what becomes of objects on the edges of tiles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objects: int = Field(1000, ge=1, description="objects for each overlap and kind of detector")
    overlaps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.1, 0.2, 0.3), description="shares of a tile")
    longest: tuple[int, ...] = Field((64, 150, 400), description="longest objects, pixels; one row each")
    tile: int = Field(640, ge=64, description="side of the tiles of the oracle, pixels")
    bundle: Path = Field(Path("runtime/demo"), description="bundle whose engine is tried")
    sensors: tuple[Sensor, ...] = Field(tuple(Sensor), description="of the bundle; none of them: the oracle only")
    engine_objects: int = Field(
        1000, ge=0, description="objects for each overlap with the engine, all sensors together"
    )
    threads: int = Field(2, ge=1, description="CPU threads of the engine")
    seed: int = Field(0, ge=0, description="seed of everything")
    out: Path = Field(Path("benchmarks/results/seams.json"), description="JSON file to write")


def oracle_rows(config: SeamsConfig) -> list[dict[str, Any]]:
    """One row for each length of objects, kind of oracle and overlap."""
    kinds: tuple[Kind, ...] = ("visible", "whole")
    rows = []
    for longest in config.longest:
        for overlap in config.overlaps:
            tiles = plan_tiles(_SCENE_PX, _SCENE_PX, config.tile, config.tile, overlap)
            rng = np.random.default_rng([config.seed, longest, round(1000 * overlap)])
            boxes = place_on_seams(rng, tiles, _SCENE_PX, config.objects, longest)
            for kind in kinds:
                parts = [(tile, perfect(tile, boxes, kind, rng)) for tile in tiles]
                row = {"longest_px": longest, "overlap": overlap, "boxes": kind}
                merged, centre = judge(boxes, merge_tiles(parts, NMS_IOU)), judge(boxes, by_centre(parts, NMS_IOU))
                rows.append({**row, **asdict(merged), "by_centre": asdict(centre)})
                log.info("%s", rows[-1])
    return rows


def engine_rows(config: SeamsConfig) -> list[dict[str, Any]]:
    """One row for each sensor and overlap."""
    rows = []
    bundle = open_bundle(config.bundle)
    share = config.engine_objects // max(1, len(config.sensors))
    for sensor in config.sensors:
        entry = bundle.manifest.entry(sensor)
        engine = open_engine(bundle, sensor, threads=config.threads)
        for overlap in config.overlaps:
            detector = Detector(engine, replace(entry, tile_overlap=overlap), sensor, entry.score_threshold)
            rng = np.random.default_rng([config.seed, round(1000 * overlap)])
            found: list[Outcome] = []
            for image, boxes in simulated(detector, config.seed):
                if len(found) >= share:
                    break
                most = min(_MOST_OF_A_SCENE, share - len(found))
                found += outcomes(detector, image, boxes, overlap, rng, most)
            rows.append({"sensor": sensor.value, "overlap": overlap, **summed(found)})
            log.info("%s", rows[-1])
    return rows


def summed(found: list[Outcome]) -> dict[str, Any]:
    """Counts of the objects that were reported once, and as they are without a seam."""
    return {
        "objects": len(found),
        "once": sum(one.reports == 1 for one in found),
        "matched": sum(one.reports == 1 and one.iou >= MATCH_IOU for one in found),
        "missed": sum(one.reports == 0 for one in found),
        "repeated": sum(one.reports > 1 for one in found),
        "without_seam": {
            "once": sum(one.moved_reports == 1 for one in found),
            "matched": sum(one.moved_reports == 1 and one.moved_iou >= MATCH_IOU for one in found),
        },
        "longest_px": round(max((one.longest_px for one in found), default=0.0), 1),
    }


def format_table(oracle: list[dict[str, Any]], engine: list[dict[str, Any]]) -> str:
    """Both parts, one line a row."""
    lines = ["oracle          overlap  objects  once  matched  missed  repeated   matched by centre alone"]
    for row in oracle:
        head = f"{row['boxes']:<8}{row['longest_px']:>4} px {row['overlap']:>8.0%} "
        counts = f"{row['objects']:>8}{row['once']:>6}{row['matched']:>9}{row['missed']:>8}{row['repeated']:>10}"
        lines.append(f"{head}{counts}{row['by_centre']['matched']:>12}")
    lines.append("engine          overlap  objects  once  matched  missed  repeated   matched without a seam")
    for row in engine:
        counts = f"{row['objects']:>8}{row['once']:>6}{row['matched']:>9}{row['missed']:>8}{row['repeated']:>10}"
        lines.append(f"{row['sensor']:<15} {row['overlap']:>8.0%} {counts}{row['without_seam']['matched']:>12}")
    return "\n".join(lines) + "\n"


def keeps_limit(oracle: list[dict[str, Any]]) -> bool:
    """Whether every object of up to :data:`COVERED_PX` that a perfect detector sees is reported once and whole."""
    return all(row["matched"] == row["objects"] for row in oracle if row["longest_px"] <= COVERED_PX)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(SeamsConfig, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    oracle = oracle_rows(config)
    engine = engine_rows(config) if config.engine_objects else []
    sys.stdout.write(format_table(oracle, engine))
    settings = config.model_dump(mode="json", exclude={"out"})
    record = {"schema": "babelrs.seams/1", "settings": settings, "oracle": oracle, "engine": engine}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    return EXIT_DONE if keeps_limit(oracle) else EXIT_LIMIT_MISSED


if __name__ == "__main__":
    sys.exit(run_command(main))
