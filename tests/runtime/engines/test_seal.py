"""What the engine cache loads was written into it by its owner: by its keyed digests, or it is removed unread."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError, DeviceError
from babelrs.sensors import Sensor
from runtime.engines import open_engine
from runtime.engines.cache import EngineCache, EngineRecord, record_of
from runtime.engines.seal import KEY_NAME, Seal, make_seal, open_seal
from tests.runtime.engines.fakes import FakeTensorRT
from tests.runtime.engines.test_build import build_it
from tests.runtime.engines.test_cache import KEY, PLAN
from tests.unprivileged import permissions_count

FORGED = b"another plan" * 500


@pytest.fixture
def saved(tmp_path: Path) -> tuple[EngineCache, EngineRecord]:
    cache = EngineCache(tmp_path)
    record = replace(record_of(KEY, PLAN, 1.0), passed=True, kept=True, reason="fast")
    cache.save(record, PLAN)
    return cache, record


def files(cache: EngineCache) -> dict[str, Path]:
    return {path.suffix: path for path in cache.folder.rglob(f"{KEY.sensor}.*")}


def forge(path: Path) -> None:
    """A record as anybody can write it: right in itself, for another plan beside it."""
    values = json.loads(path.read_text())
    values |= {"sha256": hashlib.sha256(FORGED).hexdigest(), "size_bytes": len(FORGED)}
    path.with_suffix(".plan").write_bytes(FORGED)
    path.write_text("{" + json.dumps(values)[1:].replace('", "', '",\n"', 1))


def drop_seal(path: Path) -> None:
    """The record as it was before records had digests."""
    values = json.loads(path.read_text())
    del values["seal"]
    path.write_text(json.dumps(values, sort_keys=True, indent=1) + "\n")


def change_a_figure(path: Path) -> None:
    path.write_text(path.read_text().replace('"passed": true', '"passed": false'))


def end_early(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [forge, drop_seal, change_a_figure, end_early, lambda path: path.write_bytes(b"")])
def test_a_record_with_a_wrong_digest_is_removed_with_its_plan_unparsed_and_said_once(
    saved: tuple[EngineCache, EngineRecord],
    damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, _ = saved
    damage(files(cache)[".json"])
    monkeypatch.setattr(EngineRecord, "from_json", lambda text: pytest.fail("parsed"))
    assert cache.records(KEY.bundle, Sensor.IR) == [] and not files(cache)
    [warned] = caplog.records
    assert "digest" in warned.getMessage() and "removed" in warned.getMessage() and len(cache.removed) == 1
    assert cache.records(KEY.bundle, Sensor.IR) == [] and len(caplog.records) == 1


def test_records_of_another_cache_are_not_genuine_here(saved: tuple[EngineCache, EngineRecord], tmp_path: Path) -> None:
    cache, record = saved
    other = EngineCache(tmp_path / "other")
    other.save(record, PLAN)
    os.replace(files(other)[".json"], files(cache)[".json"])
    assert cache.records(KEY.bundle, Sensor.IR) == [] and not files(cache)


def test_without_its_key_a_cache_holds_nothing(saved: tuple[EngineCache, EngineRecord]) -> None:
    cache, _ = saved
    (cache.folder / KEY_NAME).unlink()
    assert cache.records(KEY.bundle, Sensor.IR) == [] and not files(cache)


@pytest.mark.parametrize("check", ["load", "has_plan"])
def test_an_altered_plan_is_removed_with_its_record(saved: tuple[EngineCache, EngineRecord], check: str) -> None:
    cache, record = saved
    files(cache)[".plan"].write_bytes(b"A plan" + PLAN[6:])
    if check == "load":
        with pytest.raises(DeviceError, match="not the one that was built and checked; it was removed"):
            cache.load(record)
    else:
        assert not cache.has_plan(record)
    assert not files(cache) and len(cache.removed) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused_and_nothing_removed(
    saved: tuple[EngineCache, EngineRecord], mode: int
) -> None:
    cache, record = saved
    (cache.folder / KEY_NAME).chmod(mode)
    for use in (lambda: cache.records(KEY.bundle, Sensor.IR), lambda: cache.save(record)):
        with pytest.raises(DeviceError, match=r"others can read the key.*Remove .*seal\.key and run babelrs-build"):
            use()
    assert len(files(cache)) == 2


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_of_another_size_is_refused(saved: tuple[EngineCache, EngineRecord], content: bytes) -> None:
    cache, _ = saved
    (cache.folder / KEY_NAME).write_bytes(content)
    with pytest.raises(DeviceError, match=r"seal\.key: \d+ bytes"):
        cache.records(KEY.bundle, Sensor.IR)


def test_a_key_that_is_a_link_is_refused(saved: tuple[EngineCache, EngineRecord], tmp_path: Path) -> None:
    cache, _ = saved
    os.replace(cache.folder / KEY_NAME, tmp_path / "elsewhere")
    (cache.folder / KEY_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError):
        cache.records(KEY.bundle, Sensor.IR)


def test_the_key_is_the_user_s_own_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        seal = make_seal(tmp_path / "engines")
    finally:
        os.umask(before)
    path = tmp_path / "engines" / KEY_NAME
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() == seal.key and len(set(seal.key)) > 8
    assert [each.name for each in path.parent.iterdir()] == [KEY_NAME]
    assert make_seal(tmp_path / "engines") == open_seal(tmp_path / "engines") == seal
    assert make_seal(tmp_path / "other") != seal


def _key_of(folder: Path) -> bytes:
    return make_seal(folder).key


def test_processes_that_make_a_key_at_once_get_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_key_of, [tmp_path / "engines"] * 16))) == 1


def test_a_digest_of_one_kind_is_none_of_another() -> None:
    seal = Seal(b"k" * 32)
    sealed = seal.sealed("timing", b"content")
    assert seal.opened("timing", sealed) == b"content"
    for kind, data in (("record", sealed), ("timing", sealed[:-1]), ("timing", b""), ("timin", sealed)):
        with pytest.raises(ValueError, match="digest"):
            seal.opened(kind, data)


def test_a_record_with_its_digest_is_still_json() -> None:
    text = record_of(KEY, PLAN, 1.0).to_json()
    data = Seal(b"k" * 32).sealed_json("record", text)
    values = json.loads(data)
    assert len(values.pop("seal")) == 64 and values == json.loads(text)
    assert Seal(b"k" * 32).opened_json("record", data) == text


def test_a_forged_timing_cache_is_removed_and_not_given_to_tensorrt(
    saved: tuple[EngineCache, EngineRecord], caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = saved
    cache.save_timing(KEY, b"measured")
    assert cache.timing(KEY) == b"measured"
    cache.timing_path(KEY).write_bytes(b"x" * 32 + b"measured")
    assert cache.timing(KEY) == b"" and not cache.timing_path(KEY).exists() and "digest" in caplog.text


def test_babelrs_run_falls_back_and_says_why_and_babelrs_build_builds_again(
    trt: FakeTensorRT,
    toy_bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert build_it(toy_bundle, "--sensor", "rgb") == 0 and len(trt.builds) == 1
    [path] = (EngineCache().folder / toy_bundle.digest).glob("rgb.*.json")
    forge(path)
    caplog.clear()
    engine = open_engine(toy_bundle, Sensor.RGB)
    assert engine.name == "onnxruntime" and "was removed: its digest" in engine.reason
    assert [each.levelno for each in caplog.records].count(logging.WARNING) == 1
    assert build_it(toy_bundle, "--sensor", "rgb") == 0 and len(trt.builds) == 2
    assert open_engine(toy_bundle, Sensor.RGB).name == "tensorrt"


def test_babelrs_build_alone_finds_an_altered_plan_of_the_same_size(
    trt: FakeTensorRT,
    toy_bundle: Bundle,
) -> None:
    assert build_it(toy_bundle, "--sensor", "rgb") == 0
    [path] = (EngineCache().folder / toy_bundle.digest).glob("rgb.*.plan")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    assert build_it(toy_bundle, "--sensor", "rgb") == 0 and len(trt.builds) == 2 and path.read_bytes() == whole


def test_a_key_that_others_can_read_makes_run_fall_back_and_build_end_with_3(
    trt: FakeTensorRT,
    toy_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert build_it(toy_bundle, "--sensor", "rgb") == 0
    (EngineCache().folder / KEY_NAME).chmod(0o644)
    engine = open_engine(toy_bundle, Sensor.RGB)
    assert engine.name == "onnxruntime" and "others can read the key" in engine.reason
    with pytest.raises(DeviceError, match="others can read the key"):
        open_engine(toy_bundle, Sensor.RGB, "tensorrt")
    assert build_it(toy_bundle, "--sensor", "rgb") == 3 and "seal.key" in capsys.readouterr().err


def test_a_cache_that_may_not_be_read_or_written_is_said(saved: tuple[EngineCache, EngineRecord]) -> None:
    cache, record = saved
    (cache.folder / KEY_NAME).chmod(0)
    with permissions_count(), pytest.raises(DeviceError, match=r"seal\.key.*cannot be read"):
        open_seal(cache.folder)
    cache.folder.chmod(0o500)
    with permissions_count(), pytest.raises(BabelRSError, match=r"cannot be (written|read)"):
        cache.save(record, PLAN)
    cache.folder.chmod(0o700)
