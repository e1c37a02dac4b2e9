"""Readings of a made ``/sys``: what is there is read in its unit, what is missing or nonsense is left out."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.health.device import DeviceState, Zone, read_device, read_text
from runtime.health.sampler import Sampler
from tests.runtime.health.device_tree import ORIN, write_tree

PATIENT_S = 30.0


def test_an_orins_temperatures_clocks_power_and_throttling_are_read_in_their_units(tmp_path: Path) -> None:
    state = read_device(write_tree(tmp_path))
    assert state.zones == (
        Zone("cpu-thermal", 48.25),
        Zone("gpu-thermal", 45.843),
        Zone("tj-thermal", 48.312, passive_c=97.0, critical_c=104.5),
    )
    assert state.clocks_mhz == {"cpu0": 729.6, "cpu4": 1984.0, "gpu": 306.0}
    assert state.clock_limits_mhz == {"cpu0": 1984.0, "cpu4": 1984.0, "gpu": 918.0}
    assert state.power_w == pytest.approx(
        {"VDD_GPU_SOC": 2.41536, "VDD_CPU_CV": 1.20768, "VIN_SYS_5V0": 5.016, "ina238-1": 12.345678}
    )
    assert state.throttled == ("cpufreq-cpu0 2", "cpu0 clock capped")  # the fan is no throttling
    assert state.throttle_events == {"oc1": 0, "oc3": 7}
    assert (state.memory_available_bytes, state.memory_total_bytes) == (5002240 * 1024, 7802816 * 1024)


def test_a_machine_that_says_nothing_has_no_readings(tmp_path: Path) -> None:
    assert read_device(tmp_path) == DeviceState()
    assert read_device(tmp_path / "missing") == DeviceState()


def test_zones_of_one_type_have_names_of_their_own(tmp_path: Path) -> None:
    files = {f"sys/class/thermal/thermal_zone{n}/{name}": text for n in (0, 1, 10) for name, text in (
        ("type", "acpitz"), ("temp", str(1000 * n + 30_000)))}  # fmt: skip
    state = read_device(write_tree(tmp_path, files))
    assert [(zone.name, zone.celsius) for zone in state.zones] == [("acpitz", 30), ("acpitz-1", 31), ("acpitz-10", 40)]


@pytest.mark.parametrize("name", sorted(ORIN))
def test_every_file_may_be_missing_or_unreadable(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path)
    whole = read_device(tmp_path)
    (tmp_path / name).unlink()
    missing = read_device(tmp_path)
    (tmp_path / name).mkdir()
    assert read_device(tmp_path) == missing
    rails = 3 if name.endswith("hwmon2/name") else 1  # those of the chip that does not say what it is
    assert len(missing.zones) >= len(whole.zones) - 1 and len(missing.power_w) >= len(whole.power_w) - rails


@pytest.fixture(scope="module")
def orin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("orin"))


@settings(max_examples=60)
@given(
    contents=st.dictionaries(
        st.sampled_from(sorted(ORIN)),
        st.one_of(st.binary(max_size=60), st.integers(-(10**20), 10**20).map(lambda n: str(n).encode())),
    )
)
def test_no_content_of_any_file_is_an_error_or_gives_a_number_that_is_none(
    orin: Path, contents: dict[str, bytes]
) -> None:
    def read(path: Path) -> str | None:
        name = str(path.relative_to(orin))
        if name in contents:
            return contents[name].decode("ascii", "replace").strip("\0\n ")
        return read_text(path)

    state = read_device(orin, read)
    numbers = [zone.celsius for zone in state.zones] + [*state.power_w.values(), *state.clocks_mhz.values()]
    assert all(math.isfinite(number) for number in numbers)
    assert all(-60 <= zone.celsius <= 200 for zone in state.zones)


def latest_where(sampler: Sampler, is_wanted: object) -> DeviceState:
    end = time.monotonic() + PATIENT_S
    while time.monotonic() < end:
        state = sampler.latest()
        if state is not None and callable(is_wanted) and is_wanted(state):
            return state
        time.sleep(0.01)
    raise AssertionError("no such readings came")


def test_a_file_that_hangs_is_left_out_with_one_line_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = write_tree(tmp_path) / "sys/class/thermal/thermal_zone1/temp"
    stuck.unlink()
    os.mkfifo(stuck)  # opening it waits for a writer, forever
    sampler = Sampler(tmp_path, interval_s=0.05, patience_s=0.3)
    state = latest_where(sampler, lambda state: True)
    assert [zone.name for zone in state.zones] == ["cpu-thermal", "tj-thermal"] and "VDD_GPU_SOC" in state.power_w
    assert sampler.hung == {stuck}
    for _ in range(10):
        sampler.latest()
        time.sleep(0.02)
    assert [record.message for record in caplog.records] == [f"{stuck}: does not answer; going on without it"]
    with stuck.open("w") as writer:  # the sensor comes back
        writer.write("45000\n")
    end = time.monotonic() + PATIENT_S
    while sampler.hung and time.monotonic() < end:
        time.sleep(0.01)
    assert not sampler.hung


def test_asking_for_readings_never_waits_for_a_file(tmp_path: Path) -> None:
    let_go, asked = threading.Event(), threading.Event()

    def read(path: Path) -> str | None:
        asked.set()
        let_go.wait(PATIENT_S)
        return None

    sampler = Sampler(write_tree(tmp_path), read=read)
    assert sampler.latest() is None and asked.wait(PATIENT_S)
    assert sampler.latest() is None and not let_go.is_set()
    let_go.set()


def test_old_readings_are_none(tmp_path: Path) -> None:
    seconds, let_go = [0.0], threading.Event()
    let_go.set()

    def read(path: Path) -> str | None:
        let_go.wait(PATIENT_S)
        return read_text(path)

    sampler = Sampler(write_tree(tmp_path), interval_s=5, patience_s=1e6, read=read, clock=lambda: seconds[0])
    latest_where(sampler, lambda state: state.zones)
    let_go.clear()
    seconds[0] = 59.0
    assert sampler.latest() is not None
    seconds[0] = 61.0
    assert sampler.latest() is None
    let_go.set()


def test_a_thread_that_the_system_refuses_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without memory for its stack, a thread does not start."""
    seconds, start = [0.0], threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if seconds[0] < 5:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sampler = Sampler(write_tree(tmp_path), interval_s=5, clock=lambda: seconds[0])
    assert sampler.latest() is None and "can't start new thread" in caplog.text
    seconds[0] = 6.0
    latest_where(sampler, lambda state: True)
