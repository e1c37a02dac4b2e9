"""Make a data set: every scene from its own seed, rendered and written, on one or more processes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from babelrs.sensors import Sensor
from train.simulation import layout
from train.simulation.annotate import annotate
from train.simulation.build import build_world, draw_setting
from train.simulation.describe import describe
from train.simulation.georeference import write_geotiff
from train.simulation.infrared import render_infrared
from train.simulation.rgb import render_rgb
from train.simulation.sar import render_sar
from train.simulation.world import View, World

SCHEMA = "babelrs.simulation/1"
_STREAM = {Sensor.RGB: 1, Sensor.SAR: 2, Sensor.IR: 3}


@dataclass(frozen=True)
class Plan:
    """What to simulate.

    Attributes:
        out: Output folder.
        train_scenes, eval_scenes: Scenes per split.
        width_px, height_px: Image size.
        sensors: Sensors to render.
        seed: Seed of everything.
        looks: Looks of the radar image.
        night: Whether all passes are at night.
        gsd_m: Metres per pixel; ``None`` varies it.
        geotiff: Whether GeoTIFFs are written too.
        workers: Processes; the result does not depend on it.
    """

    out: Path
    train_scenes: int
    eval_scenes: int
    width_px: int = 640
    height_px: int = 640
    sensors: tuple[Sensor, ...] = (Sensor.RGB, Sensor.SAR, Sensor.IR)
    seed: int = 0
    looks: float = 4.0
    night: bool = False
    gsd_m: float | None = None
    geotiff: bool = False
    workers: int = 1


@dataclass(frozen=True)
class SceneRecord:
    """What a written scene adds to the files of the whole set."""

    split: str
    descriptions: tuple[dict[str, Any], ...]
    coco: tuple[tuple[str, list[list[Any]]], ...]


def generator(seed: int, split: str, scene: int, stream: int) -> np.random.Generator:
    """The random stream of one scene and purpose (0 the world, 1 RGB, 2 SAR, 3 infrared)."""
    return np.random.default_rng([seed, layout.SPLITS.index(split), scene, stream])


def make_world(plan: Plan, split: str, scene: int) -> World:
    """The world of one scene."""
    rng = generator(plan.seed, split, scene, 0)
    return build_world(rng, draw_setting(rng, (plan.height_px, plan.width_px), plan.gsd_m, plan.night))


def render(plan: Plan, world: World, sensor: Sensor, rng: np.random.Generator) -> View:
    """A sensor's view of a world."""
    if sensor is Sensor.RGB:
        return render_rgb(rng, world)
    return render_sar(rng, world, plan.looks) if sensor is Sensor.SAR else render_infrared(rng, world)


def write_one(job: tuple[Plan, str, int]) -> SceneRecord:
    """Make, render and write one scene."""
    plan, split, scene = job
    cv2.setNumThreads(1)
    world, stem = make_world(plan, split, scene), f"sim_{split}_{scene:06d}"
    descriptions, coco = [], []
    for sensor in plan.sensors:
        view = render(plan, world, sensor, generator(plan.seed, split, scene, _STREAM[sensor]))
        found = annotate(world, view, sensor)
        rows = layout.write_scene(plan.out, sensor, split, stem, view, found)
        path = layout.image_path(sensor, split, stem)
        if sensor is Sensor.SAR:
            coco.append((path.name, rows))
        if plan.geotiff:
            target = plan.out / "geotiff" / sensor.value / split / f"{stem}.tif"
            write_geotiff(target, view.pixels, world.setting.gsd_m, scene)
        head = {"image": path.as_posix(), "sensor": sensor.value, "split": split, "scene_index": scene}
        descriptions.append({**head, **describe(world.setting, found, sensor)})
    return SceneRecord(split, tuple(descriptions), tuple(coco))


def simulate(plan: Plan) -> Iterator[SceneRecord]:
    """Write the whole data set, yielding each scene's record in order as it is done; all files are there at the end."""
    layout.make_folders(plan.out, plan.sensors)
    _write_record(plan)
    counts = zip(layout.SPLITS, (plan.train_scenes, plan.eval_scenes), strict=True)
    jobs = [(plan, split, scene) for split, count in counts for scene in range(count)]
    records = []
    for record in _mapped(jobs, plan.workers):
        records.append(record)
        yield record
    _write_indices(plan, records)


def _mapped(jobs: Sequence[tuple[Plan, str, int]], workers: int) -> Iterator[SceneRecord]:
    """Records in job order."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(write_one, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        yield from pool.imap(write_one, jobs, chunksize=1)


def _write_indices(plan: Plan, records: Sequence[SceneRecord]) -> None:
    """The files about all scenes: COCO annotations and descriptions."""
    if Sensor.SAR in plan.sensors:
        for split in layout.SPLITS:
            images = [image for record in records if record.split == split for image in record.coco]
            layout.write_coco(plan.out, split, (plan.height_px, plan.width_px), images)
    lines = [json.dumps(entry) + "\n" for record in records for entry in record.descriptions]
    (plan.out / "descriptions.jsonl").write_text("".join(lines))


def _write_record(plan: Plan) -> None:
    """How the set was made: written first, so that a run that broke off can be recognised and replaced."""
    arguments = asdict(replace(plan, out=Path(".")))
    del arguments["out"], arguments["workers"]
    arguments["sensors"] = [sensor.value for sensor in plan.sensors]
    document = {"schema": SCHEMA, "arguments": arguments}
    (plan.out / "simulation.json").write_text(json.dumps(document, indent=2) + "\n")
