"""Engines built on this device, as files: found again by all that they depend on, and never loaded for another key.

A plan is code that the GPU runs, so a plan is loaded only with its record beside it: the record holds the whole key and
the SHA-256 of the plan, nobody but the user may write to either, and the record carries a digest under the cache's own
key. What fails is removed, and built again by the next babelrs-build.

    engines/<bundle>/<sensor>.<key>.plan    the engine, where it was kept
    engines/<bundle>/<sensor>.<key>.json    its record: key, SHA-256, self-test, times, why it was kept or not; digest
    engines/timing.<key>.cache              what TensorRT measured while it built, behind its digest
    engines/seal.key                        the key of the digests, 32 bytes that only the user can read
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
from babelrs.plain_files import read_plain
from babelrs.sensors import Sensor
from runtime.engines.seal import make_seal, open_seal

SCHEMA = "babelrs.engine/1"
_LOGGER = logging.getLogger(__name__)
_PARTIAL = ".part-"
_MOST_RECORD_BYTES, _MOST_TIMING_BYTES, _MOST_PLAN_BYTES = 1 << 20, 1 << 30, 16 << 30
_TIMING = "babelrs.timing/1"
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

    Attributes:
        folder: The folder of engines in it.
        removed: What failed its check and was removed since this object was made, in words.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = (cache_folder() if folder is None else Path(folder)) / "engines"
        self.removed: list[str] = []

    def records(self, bundle: str, sensor: Sensor) -> list[EngineRecord]:
        """All records of a bundle's sensor whose digest is right; others are removed with their plans, with a warning.

        Raises:
            DeviceError: The cache's key cannot be read, or others can read it.
        """
        paths = sorted(self._of(bundle).glob(f"{sensor}.*.json"))
        found = []
        for path in paths:
            try:
                record = self._read(path)
            except ValueError as error:
                self._remove(path, str(error))
                continue
            except DeviceError:
                raise
            except BabelRSError as error:
                _LOGGER.warning("ignored, %s", error)
                continue
            if self._path(record.key, "json") == path:  # else it was copied or renamed
                found.append(record)
        return found

    def _read(self, path: Path) -> EngineRecord:
        """A record, parsed only once its digest is known to be right.

        Raises:
            ValueError: Its digest is missing or wrong, or it is no record.
            BabelRSError: It cannot be read now.
            DeviceError: As :meth:`records`.
        """
        seal = open_seal(self.folder)
        if seal is None:
            raise ValueError("the cache has no key that it could have been written with")
        return EngineRecord.from_json(seal.opened_json(SCHEMA, read_plain(path, _MOST_RECORD_BYTES, "a record")))

    def _remove(self, record: Path, why: str) -> None:
        """Remove a record and its plan, and say so."""
        plan = record.with_suffix(".plan")
        self.removed.append(f"{record.name} was removed: {why}")
        _LOGGER.warning("%s: ignored and removed with its engine, %s", record, why)
        for path in (plan, record):
            with suppress(OSError):  # on storage that is read-only it stays, and is ignored again
                path.unlink(missing_ok=True)

    def has_plan(self, record: EngineRecord) -> bool:
        """Whether the record's plan is there, unaltered; an altered one is removed, with a warning."""
        path = self._path(record.key, "plan")
        if not path.is_file():
            return False
        try:
            whole = path.stat().st_size == record.size_bytes and sha256_of(path) == record.sha256
        except BabelRSError:
            return False
        if not whole:
            self._remove(path.with_suffix(".json"), "the engine is not the one that was built and checked")
        return whole

    def load(self, record: EngineRecord) -> bytes:
        """The plan of a record that :meth:`records` gave.

        Raises:
            DeviceError: It is missing, others may write to it, or it is altered and was removed.
        """
        path = self._path(record.key, "plan")
        rebuild = "Run babelrs-build again."
        try:
            for each in (path, self._path(record.key, "json"), path.parent):
                _refuse_shared(each)
            plan = read_plain(path, _MOST_PLAN_BYTES, "an engine")
        except BabelRSError as error:
            raise DeviceError(error.what, error.remedy if isinstance(error, DeviceError) else rebuild) from None
        except OSError as error:
            raise DeviceError(f"{path}: the engine cannot be read ({error.strerror}).", rebuild) from None
        if not _is_genuine(record, plan):
            why = "the engine is not the one that was built and checked"
            self._remove(path.with_suffix(".json"), why)
            raise DeviceError(f"{path}: {why}; it was removed.", rebuild)
        return plan

    def save(self, record: EngineRecord, plan: bytes | None = None) -> None:
        """Write a record with its digest, after its plan where one is given; each is there whole or not at all.

        Raises:
            BabelRSError: The folder cannot be written to.
            DeviceError: The cache's key cannot be used.
        """
        if plan is not None:
            self._write(self._path(record.key, "plan"), plan)
        sealed = make_seal(self.folder).sealed_json(SCHEMA, record.to_json())
        self._write(self._path(record.key, "json"), sealed)

    def drop_plan(self, record: EngineRecord) -> None:
        """Remove a plan; its record stays, and says why."""
        self.save(replace(record, kept=False))
        self._path(record.key, "plan").unlink(missing_ok=True)

    def timing_path(self, key: EngineKey) -> Path:
        """Where the timing cache of builds like this one lies."""
        return self.folder / f"timing.{key.timing_digest}.cache"

    def timing(self, key: EngineKey) -> bytes:
        """What builds like this one measured; empty where there is nothing, or its digest is wrong: then it is removed.

        Raises:
            DeviceError: The cache's key cannot be used.
        """
        path = self.timing_path(key)
        if not path.is_file():
            return b""
        seal = open_seal(self.folder)
        try:
            if seal is None:
                raise ValueError("the cache has no key that it could have been written with")
            return seal.opened(_TIMING, read_plain(path, _MOST_TIMING_BYTES, "a timing cache"))
        except (ValueError, BabelRSError) as error:  # also where it is no plain file
            _LOGGER.warning("%s: ignored and removed, %s", path, error)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return b""

    def save_timing(self, key: EngineKey, content: bytes) -> None:
        """Write the timing cache, behind its digest.

        Raises:
            BabelRSError: The folder cannot be written to.
            DeviceError: The cache's key cannot be used.
        """
        self._write(self.timing_path(key), make_seal(self.folder).sealed(_TIMING, content))

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
    """Whether a plan is the one of its record, whose own digest was checked when it was read."""
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
