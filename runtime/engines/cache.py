"""Engines built on this device, as files: found again by all that they depend on, and never loaded for another key.

A plan is code that the GPU runs, so a plan is loaded only with its record beside it: the record holds the whole key and
the SHA-256 of the plan, and nobody but the user may write to either.

    engines/<bundle>/<sensor>.<key>.plan    the engine, where it was kept
    engines/<bundle>/<sensor>.<key>.json    its record: key, SHA-256, self-test, times, why it was kept or not
    engines/timing.<key>.cache              what TensorRT measured while it built
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from babelrs.bundle import cache_folder, sha256_of
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor

SCHEMA = "babelrs.engine/1"
_LOGGER = logging.getLogger(__name__)
_PARTIAL = ".part-"
Batches = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on; where anything differs, it is another engine.

    Attributes:
        bundle: The bundle's digest.
        sensor: Whose graph.
        gpu: Name and number of multiprocessors of the GPU it was built and checked on.
        compute_capability: For example ``8.7``.
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: The module's full version.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batches: Least, best and most tiles of every optimization profile.
        plugin: SHA-256 of the plugin library in it; empty without.
    """

    bundle: str
    sensor: str
    gpu: str
    compute_capability: str
    module: str
    version: str
    precision: str
    batches: Batches
    plugin: str

    @property
    def digest(self) -> str:
        """Names the files."""
        return _digest(vars(self))

    @property
    def most(self) -> int:
        """The largest batch."""
        return max(most for _, _, most in self.batches)

    def fits(self, other: EngineKey) -> bool:
        """Whether both are for the same use: all but precision and batches agree."""
        return replace(self, precision=other.precision, batches=other.batches) == other

    @property
    def timing_digest(self) -> str:
        """Names the timing cache: builds share it that run on the same GPU with the same library."""
        return _digest({name: getattr(self, name) for name in ("gpu", "compute_capability", "module", "version")})


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine.

    Attributes:
        key: What it was built for.
        sha256: Of the plan.
        size_bytes: Of the plan.
        build_s: How long it took to build.
        passed: It passed the bundle's self-test on this device.
        kept: It is the one to load; its plan is there.
        reason: Why it was kept or not.
        selftest: The self-test's figures; empty where it was not run.
        times_ms: Figures by batch size: ``median``, ``p95`` and, of the replayed CUDA graph, ``graph_median``.
        graph_batches: Batch sizes for which the CUDA graph is the faster way.
    """

    key: EngineKey
    sha256: str
    size_bytes: int
    build_s: float
    passed: bool = False
    kept: bool = False
    reason: str = ""
    selftest: Mapping[str, Any] = field(default_factory=dict)
    times_ms: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    graph_batches: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON."""
        values = {**vars(self), "schema": SCHEMA, "key": vars(self.key)}
        return json.dumps(values, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Parse a record.

        Raises:
            ValueError: It is none.
        """
        try:
            values = json.loads(text)
            if values.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            key = values.pop("key")
            batches = tuple((int(least), int(best), int(most)) for least, best, most in key.pop("batches"))
            times = {int(batch): dict(found) for batch, found in values.pop("times_ms").items()}
            graphs = tuple(map(int, values.pop("graph_batches")))
            return cls(EngineKey(batches=batches, **key), times_ms=times, graph_batches=graphs, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record ({error})") from None


class EngineCache:
    """The folder of engines.

    Args:
        folder: The cache folder; ``None``: ``$BABELRS_CACHE``, else ``babelrs`` in the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = (cache_folder() if folder is None else Path(folder)) / "engines"

    def records(self, bundle: str, sensor: Sensor) -> list[EngineRecord]:
        """All records of a bundle's sensor, readable ones only."""
        found = []
        for path in sorted(self._of(bundle).glob(f"{sensor}.*.json")):
            try:
                record = EngineRecord.from_json(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                _LOGGER.warning("%s: ignored, %s", path, error)
                continue
            if self._path(record.key, "json") == path:  # else it was copied or renamed
                found.append(record)
        return found

    def has_plan(self, record: EngineRecord) -> bool:
        """Whether the record's plan is there, whole."""
        path = self._path(record.key, "plan")
        return path.is_file() and path.stat().st_size == record.size_bytes

    def load(self, record: EngineRecord) -> bytes:
        """The plan of a record.

        Raises:
            DeviceError: It is missing, altered, or others may write to it.
        """
        path = self._path(record.key, "plan")
        rebuild = "Run babelrs-build again."
        try:
            for each in (path, self._path(record.key, "json"), path.parent):
                _refuse_shared(each)
            plan = path.read_bytes()
        except OSError as error:
            raise DeviceError(f"{path}: the engine cannot be read ({error.strerror}).", rebuild) from None
        if not _is_genuine(record, plan):
            raise DeviceError(f"{path}: the engine is not the one that was built and checked.", rebuild)
        return plan

    def save(self, record: EngineRecord, plan: bytes | None = None) -> None:
        """Write a record, after its plan where one is given; each is there whole or not at all.

        Raises:
            BabelRSError: The folder cannot be written to.
        """
        if plan is not None:
            self._write(self._path(record.key, "plan"), plan)
        self._write(self._path(record.key, "json"), record.to_json().encode("utf-8"))

    def drop_plan(self, record: EngineRecord) -> None:
        """Remove a plan; its record stays, and says why."""
        self.save(replace(record, kept=False))
        self._path(record.key, "plan").unlink(missing_ok=True)

    def timing_path(self, key: EngineKey) -> Path:
        """Where the timing cache of builds like this one lies."""
        return self.folder / f"timing.{key.timing_digest}.cache"

    def save_timing(self, key: EngineKey, content: bytes) -> None:
        """Write the timing cache.

        Raises:
            BabelRSError: The folder cannot be written to.
        """
        self._write(self.timing_path(key), content)

    @contextmanager
    def building(self, bundle: str) -> Iterator[None]:
        """Hold the folder for one build, and clear what a killed one left.

        Raises:
            BabelRSError: Another build holds it, or it cannot be written to.
        """
        folder = self._of(bundle)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            stream = (folder / "build.lock").open("w")
        except OSError as error:
            raise _unwritable(folder, error) from None
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BabelRSError(f"{folder}: another babelrs-build is at work there.", "Wait for it.") from None
            for left in [*folder.glob(f"{_PARTIAL}*"), *self.folder.glob(f"{_PARTIAL}*")]:
                left.unlink(missing_ok=True)
            yield

    def _of(self, bundle: str) -> Path:
        return self.folder / bundle

    def _path(self, key: EngineKey, suffix: str) -> Path:
        return self._of(key.bundle) / f"{key.sensor}.{key.digest}.{suffix}"

    def _write(self, path: Path, content: bytes) -> None:
        partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with partial.open("wb") as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise _unwritable(path.parent, error) from None


def record_of(key: EngineKey, plan: bytes, build_s: float, reason: str = "") -> EngineRecord:
    """The record of a plan that was just built and not run yet."""
    return EngineRecord(key, hashlib.sha256(plan).hexdigest(), len(plan), build_s, reason=reason)


def plugin_digest(library: Path | None) -> str:
    """How a plugin library stands in a key."""
    return "" if library is None else sha256_of(library)


def _is_genuine(record: EngineRecord, plan: bytes) -> bool:
    """Whether a plan is the one of its record. A keyed authentication of the record belongs here, and nowhere else."""
    return len(plan) == record.size_bytes and hashlib.sha256(plan).hexdigest() == record.sha256


def _refuse_shared(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"{path}: other users may write to it, and an engine is code."
        raise DeviceError(what, f"Run chmod -R go-w {path.parent}, then babelrs-build again.")


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def _unwritable(folder: Path, error: OSError) -> BabelRSError:
    return BabelRSError(f"{folder}: cannot be written to ({error.strerror}).", "Set BABELRS_CACHE or give --cache.")
