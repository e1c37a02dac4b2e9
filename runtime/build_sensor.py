"""Builds, tries and keeps the engines of one sensor."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from babelrs.bundle import Bundle, read_selftest
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime.engines.builder import BuildJob, build_plan
from runtime.engines.cache import Batches, EngineCache, EngineKey, EngineRecord, plugin_digest, record_of
from runtime.engines.candidates import Candidate, candidates, graph_path, weight_bytes
from runtime.engines.choice import key_of, open_plan
from runtime.engines.cuda import Cuda
from runtime.engines.tensorrt_api import TensorRT
from runtime.engines.trial import image_ms, try_engine
from runtime.memory import available_bytes, plan_memory

_LOGGER = logging.getLogger(__name__)
UNCHECKED = "built without a GPU: neither run nor checked"


@dataclass(frozen=True)
class Place:
    """Where engines are built.

    Attributes:
        api: TensorRT.
        cuda: The GPU; None to build without.
        capabilities: Compute capabilities to build for where there is none.
        plugin: The plugin library, loaded; None without.
    """

    api: TensorRT
    cuda: Cuda | None
    capabilities: tuple[str, ...] = ()
    plugin: Path | None = None

    def key(self, bundle: Bundle, sensor: Sensor) -> EngineKey:
        """The key of an engine built here, without precision and batches."""
        if self.cuda is not None:
            return key_of(bundle, sensor, self.api, self.cuda.gpu, self.plugin)
        return EngineKey(
            bundle.digest, sensor.value, "none", "+".join(self.capabilities), self.api.name, self.api.version, "", (),
            plugin_digest(self.plugin),
        )  # fmt: skip

    def free_bytes(self) -> int:
        """Memory that a build may take: the lesser of the CPU's and the GPU's, which on a Jetson are one."""
        free = available_bytes()
        if self.cuda is None or self.cuda.gpu.integrated:
            return free
        with self.cuda.current():
            return min(free, self.cuda.free_bytes())


@dataclass(frozen=True)
class Wish:
    """What to build.

    Attributes:
        precisions: Only these; empty: all that the bundle gives.
        batch: The most tiles in one run.
        workspace_bytes: Workspace of a layer; None: by what memory is free.
    """

    precisions: tuple[str, ...] = ()
    batch: int = 4
    workspace_bytes: int | None = None

    @property
    def batches(self) -> Batches:
        """A profile for single tiles, which live sources bring, and one for full batches, which scenes do."""
        return ((1, 1, 1),) if self.batch == 1 else ((1, 1, 1), (1, self.batch, self.batch))


def build_sensor(bundle: Bundle, sensor: Sensor, place: Place, wish: Wish, cache: EngineCache) -> list[EngineRecord]:
    """Build what is not there yet, and keep the fastest engine that passes the self-test.

    Returns:
        A record for every precision; with a GPU, one of them is kept unless none passed.

    Raises:
        BabelRSError: The bundle gives none of the wanted precisions, or its graph cannot be read.
        DeviceError: Memory is short, or no precision could be built; the others' records are saved.
    """
    offered = candidates(bundle, sensor, place.plugin is not None)
    wanted = [each for each in offered if not wish.precisions or each.precision in wish.precisions]
    if not wanted:
        what = f"The bundle gives {sensor} in {', '.join(each.precision for each in offered)} only."
        raise BabelRSError(what, "Give --precision one of them, or make the bundle again with compress.quantize.")
    key = replace(place.key(bundle, sensor), batches=wish.batches)
    known = {each.key.precision: each for each in cache.records(bundle.digest, sensor) if each.key.fits(key)
             and each.key.batches == key.batches}  # fmt: skip
    usable = _usable(known, [each.precision for each in wanted], cache)
    records, faults = [], []
    for candidate in wanted:
        if candidate.precision in usable:
            _LOGGER.info("%s %s: there already", sensor, candidate.precision)
            records.append(usable[candidate.precision])
            continue
        try:
            made = replace(key, precision=candidate.precision)
            records.append(_build_one(bundle, sensor, place, wish, cache, candidate, made))
        except DeviceError as error:
            _LOGGER.warning("%s %s: %s", sensor, candidate.precision, error)
            faults.append(error)
    if not records:
        raise faults[0]
    return records if place.cuda is None else _keep_fastest(records, cache, bundle, sensor)


def _usable(known: Mapping[str, EngineRecord], wanted: Sequence[str], cache: EngineCache) -> dict[str, EngineRecord]:
    """Records that need no new build: their plan is there, or it lost to one that is there and wanted as well."""
    whole = {name: each for name, each in known.items() if name in wanted and cache.has_plan(each)}
    if any(each.kept for each in whole.values()):
        return {name: each for name, each in known.items() if name in wanted and (name in whole or each.selftest)}
    return whole


def _build_one(
    bundle: Bundle,
    sensor: Sensor,
    place: Place,
    wish: Wish,
    cache: EngineCache,
    candidate: Candidate,
    key: EngineKey,
) -> EngineRecord:
    memory = plan_memory(place.free_bytes(), weight_bytes(bundle, sensor), wish.workspace_bytes)
    _LOGGER.info(
        "%s %s: building with %d MiB of workspace; %d MiB are free, %d needed", sensor, candidate.precision,
        memory.workspace_bytes >> 20, memory.free_bytes >> 20, memory.needed_bytes >> 20,
    )  # fmt: skip
    job = BuildJob(
        candidate.model(), graph_path(bundle, sensor), bundle.manifest.entry(sensor), key.batches,
        memory.workspace_bytes, cache.timing(key), place.capabilities,
    )  # fmt: skip
    started = time.perf_counter()
    plan, measured = build_plan(place.api, job)
    record = record_of(key, plan, time.perf_counter() - started, UNCHECKED)
    if measured:
        cache.save_timing(key, measured)
    if place.cuda is None:
        cache.save(record, plan)
        return record
    engine = open_plan(place.api, place.cuda, bundle, sensor, plan, candidate.precision)
    try:
        trial = try_engine(engine, read_selftest(bundle, sensor), sorted({1, wish.batch}))
    finally:
        engine.close()
    record = trial.added_to(replace(record, reason="on trial"))
    cache.save(record, plan)
    return record


def _keep_fastest(
    records: Sequence[EngineRecord], cache: EngineCache, bundle: Bundle, sensor: Sensor
) -> list[EngineRecord]:
    """Mark the fastest that passed as the one to load; all other plans for the same use go."""
    best = min((each for each in records if each.passed), key=image_ms, default=None)
    found = []
    for each in records:
        if not each.passed:
            reason = "missed its self-test"
        elif each is best:
            reason = f"the fastest that passed its self-test: {image_ms(each):.3g} ms an image"
        else:
            reason = f"slower: {image_ms(each):.3g} ms an image"
        found.append(replace(each, kept=each is best, reason=reason))
        if each is best:
            cache.save(found[-1])
    for each in [*found, *_others(found, cache, bundle, sensor)]:
        if not each.kept:
            cache.drop_plan(each)
    return found


def _others(records: Sequence[EngineRecord], cache: EngineCache, bundle: Bundle, sensor: Sensor) -> list[EngineRecord]:
    """Engines for the same use that were built with other wishes."""
    keys = {each.key for each in records}
    others = [each for each in cache.records(bundle.digest, sensor) if each.key.fits(records[0].key)]
    return [replace(each, kept=False, reason="replaced by a later build") for each in others if each.key not in keys]
