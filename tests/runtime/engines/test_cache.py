"""Engines on disk: found by their whole key, refused when altered, whole or not there at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime.engines.cache import EngineCache, EngineKey, EngineRecord, record_of

PLAN = b"a plan" * 1000
KEY = EngineKey(
    "b" * 64, "ir", "Orin, 8 multiprocessors", "8.7", "tensorrt", "10.3.0.30", "int8", ((1, 1, 1), (1, 4, 4)), ""
)
OTHER: dict[str, Any] = {
    "bundle": "c" * 64, "sensor": "sar", "gpu": "Orin, 16 multiprocessors", "compute_capability": "8.6",
    "module": "tensorrt_rtx", "version": "10.3.0.31", "precision": "fp16", "batches": ((1, 1, 1),), "plugin": "d" * 64,
}  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> tuple[EngineCache, EngineRecord]:
    cache = EngineCache(tmp_path)
    times = {1: {"median": 2.0, "p95": 2.5}, 4: {"median": 5.0, "p95": 6.0, "graph_median": 4.5}}
    record = replace(
        record_of(KEY, PLAN, 12.5), passed=True, kept=True, reason="fast", selftest={"num_missed": 0}, times_ms=times,
        graph_batches=(4,),
    )  # fmt: skip
    cache.save(record, PLAN)
    return cache, record


def plan_path(cache: EngineCache) -> Path:
    return next(cache.folder.rglob("*.plan"))


def test_what_was_saved_is_read_back(saved: tuple[EngineCache, EngineRecord]) -> None:
    cache, record = saved
    assert cache.records(KEY.bundle, Sensor.IR) == [record]
    assert cache.load(record) == PLAN and cache.has_plan(record)
    assert not cache.records(KEY.bundle, Sensor.RGB) and not cache.records("c" * 64, Sensor.IR)


@pytest.mark.parametrize("name", [field.name for field in fields(EngineKey)])
def test_every_part_of_the_key_names_another_engine(name: str) -> None:
    other = replace(KEY, **{name: OTHER[name]})
    assert other.digest != KEY.digest
    assert KEY.fits(other) == (name in ("precision", "batches"))


def test_timings_are_shared_by_builds_on_the_same_gpu_with_the_same_library_only() -> None:
    for name, value in OTHER.items():
        same = replace(KEY, **{name: value}).timing_digest == KEY.timing_digest
        assert same == (name not in ("gpu", "compute_capability", "module", "version")), name


@pytest.mark.parametrize("damage", [b"", PLAN[:-1], b"A plan" + PLAN[6:], PLAN + b"!"])
def test_an_altered_plan_is_not_loaded(saved: tuple[EngineCache, EngineRecord], damage: bytes) -> None:
    cache, record = saved
    plan_path(cache).write_bytes(damage)
    with pytest.raises(DeviceError, match="not the one that was built"):
        cache.load(record)


@pytest.mark.parametrize("which", ["plan", "record", "folder"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_may_write_to_is_not_loaded(saved: tuple[EngineCache, EngineRecord], which: str, mode: int) -> None:
    cache, record = saved
    plan = plan_path(cache)
    path = {"plan": plan, "record": plan.with_suffix(".json"), "folder": plan.parent}[which]
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(DeviceError, match="other users may write"):
        cache.load(record)


def test_files_are_the_user_s_own_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cache, record = EngineCache(tmp_path / "new"), record_of(KEY, PLAN, 1.0)
        cache.save(record, PLAN)
    finally:
        os.umask(before)
    assert cache.load(record) == PLAN


def test_a_missing_plan_is_said(saved: tuple[EngineCache, EngineRecord]) -> None:
    cache, record = saved
    plan_path(cache).unlink()
    assert not cache.has_plan(record)
    with pytest.raises(DeviceError, match="cannot be read"):
        cache.load(record)


def test_a_record_under_another_name_is_ignored(saved: tuple[EngineCache, EngineRecord]) -> None:
    cache, _ = saved
    path = plan_path(cache).with_suffix(".json")
    path.rename(path.with_name(f"sar.{KEY.digest}.json"))
    assert not cache.records(KEY.bundle, Sensor.SAR)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": "babelrs.engine/1"}', '{"schema": "babelrs.engine/2"}', "\x00"]
)
def test_a_damaged_record_is_ignored_and_said(
    saved: tuple[EngineCache, EngineRecord], content: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = saved
    plan_path(cache).with_suffix(".json").write_text(content)
    assert not cache.records(KEY.bundle, Sensor.IR) and "ignored" in caplog.text


def test_a_dropped_plan_leaves_its_record(saved: tuple[EngineCache, EngineRecord]) -> None:
    cache, record = saved
    cache.drop_plan(replace(record, reason="slower"))
    assert not cache.has_plan(record)
    [left] = cache.records(KEY.bundle, Sensor.IR)
    assert (left.kept, left.reason, left.passed) == (False, "slower", True)


_KILLED = """
import os, signal, sys
from runtime.engines import cache
from tests.runtime.engines.test_cache import KEY, PLAN
replace = os.replace
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
cache.EngineCache(sys.argv[1]).save(cache.record_of(KEY, PLAN, 1.0), PLAN)
"""


def test_a_killed_build_leaves_no_half_file_and_the_next_one_clears_up(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    cache = EngineCache(tmp_path)
    assert not cache.records(KEY.bundle, Sensor.IR)
    assert [path.name[:6] for path in cache.folder.rglob("*") if path.is_file()] == [".part-"]
    with cache.building(KEY.bundle):
        assert [path.name for path in cache.folder.rglob("*") if path.is_file()] == ["build.lock"]


def test_two_builds_of_a_bundle_do_not_meet(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    with cache.building(KEY.bundle):
        with pytest.raises(BabelRSError, match="another babelrs-build"), EngineCache(tmp_path).building(KEY.bundle):
            pass
        with cache.building("c" * 64):
            pass
    with cache.building(KEY.bundle):
        pass


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file")
    cache = EngineCache(tmp_path)
    with pytest.raises(BabelRSError, match="cannot be written to"), cache.building(KEY.bundle):
        pass
    with pytest.raises(BabelRSError, match="cannot be written to"):
        cache.save(record_of(KEY, PLAN, 1.0), PLAN)
