"""The fault matrix of an engine in flight: each fault has a defined outcome, and no bad output gets through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.bundle import Bundle, read_selftest
from babelrs.errors import EXIT_DEVICE, BabelRSError, DeviceError
from runtime.engines import Outputs
from runtime.integrity.guarded import GuardedEngine
from runtime.selftest import run_selftest
from tests.runtime.integrity.broken_engines import SENSOR, Bench, Broken, Change, at, constant, failing, not_finite


def frame(number: int) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((1, 64, 96, 1), np.uint8)
    pixels[0, 8 + number % 40, 12 + number % 60] = 200
    return pixels


def assert_sound(guarded: GuardedEngine, bench: Bench, number: int) -> None:
    for got, wanted in zip(guarded.infer(frame(number)), bench.sound().infer(frame(number)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_sound_engine_passes_through_and_is_never_opened_again(toy_bundle: Bundle) -> None:
    bench = Bench(toy_bundle, [])
    guarded = bench.guarded()
    for number in range(30):
        bench.clock.now = float(number)
        assert_sound(guarded, bench, number)
    assert (bench.num_opened, guarded.counters.faults, guarded.counters.mismatches) == (1, 0, 0)
    assert guarded.counters.passes >= 2 and guarded.watched_bytes > 0


@pytest.mark.parametrize("change", [not_finite, failing], ids=["not finite", "raises"])
@pytest.mark.parametrize("number", [0, 3])
def test_a_fault_at_frame_n_is_mended_by_opening_the_engine_again(
    toy_bundle: Bundle, change: Change, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(toy_bundle, [])
    bench.opened = [Broken(bench.sound(), at(number, change))]
    guarded = bench.guarded()
    for place in range(number + 3):
        assert_sound(guarded, bench, place)
    assert (guarded.counters.faults, guarded.counters.reloads, bench.num_opened) == (1, 1, 2)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1, "said once"


@pytest.mark.parametrize("change", [not_finite, failing], ids=["not finite", "raises"])
def test_a_fault_that_comes_again_ends_the_run_as_the_devices(toy_bundle: Bundle, change: Change) -> None:
    bench = Bench(toy_bundle, [])
    bench.opened = [Broken(bench.sound(), at(0, change)), Broken(bench.sound(), at(0, change))]
    with pytest.raises(DeviceError, match="again after the engine was opened anew") as raised:
        bench.guarded().infer(frame(0))
    assert raised.value.exit_code == EXIT_DEVICE


def test_an_engine_that_misses_its_selftest_when_opened_again_ends_the_run(toy_bundle: Bundle) -> None:
    bench = Bench(toy_bundle, [])
    bench.opened = [Broken(bench.sound(), at(0, not_finite)), Broken(bench.sound(), constant)]
    with pytest.raises(DeviceError, match="of the engine that was opened again, the self-test missed"):
        bench.guarded().infer(frame(0))


def test_constant_outputs_are_found_after_a_few_frames_and_mended(toy_bundle: Bundle) -> None:
    bench = Bench(toy_bundle, [])
    bench.opened = [Broken(bench.sound(), at(2, constant))]
    guarded = bench.guarded()
    for number in range(5):
        guarded.infer(frame(number))
    assert (guarded.counters.faults, guarded.counters.reloads) == (1, 1)
    assert_sound(guarded, bench, 5)


def test_constant_outputs_of_a_scene_that_is_so_open_no_engine_again(toy_bundle: Bundle) -> None:
    bench = Bench(toy_bundle, [])
    bench.opened = [Broken(bench.sound(), lambda run, outputs: constant(run, outputs) if run in range(3) else outputs)]
    guarded = bench.guarded()
    for number in range(3):
        guarded.infer(frame(number))
    assert (guarded.counters.selftests, guarded.counters.faults, bench.num_opened) == (2, 0, 1)


def test_a_flipped_bit_is_found_within_an_interval_and_gone_after(
    toy_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(toy_bundle, [])
    engine = bench.sound()
    bench.opened = [engine]
    guarded = bench.guarded()
    region = next(each for each in engine.weights if each.dtype == "float32")
    region.content[-1] ^= 0x40
    bench.clock.now = 10.0
    assert_sound(guarded, bench, 0)
    assert (guarded.counters.mismatches, guarded.counters.reloads) == (1, 1)
    assert f"{region.name!r} changed" in caplog.text


def test_files_that_are_bad_at_reload_end_the_run_as_the_devices(toy_bundle: Bundle) -> None:
    bench = Bench(toy_bundle, [], bad_files=BabelRSError("weights.bin: altered.", "Fetch the bundle again."))
    engine = bench.sound()
    bench.opened = [engine]
    guarded = bench.guarded()
    engine.weights[0].content[0] ^= 1
    bench.clock.now = 10.0
    with pytest.raises(DeviceError, match=r"changed within.*altered") as raised:
        guarded.infer(frame(0))
    assert raised.value.exit_code == EXIT_DEVICE and guarded.counters.reloads == 0


@pytest.mark.parametrize(("check_interval_s", "selftest_s"), [(0.0, 30.0), (10.0, 600.0)])
def test_the_selftest_runs_again_at_its_interval_and_mends_what_no_other_check_sees(
    toy_bundle: Bundle, check_interval_s: float, selftest_s: float
) -> None:
    """Sooner where no CRC watches the weights."""
    bench = Bench(toy_bundle, [], check_interval_s)
    sound = bench.sound()
    bench.opened = [Broken(sound, at(0, lambda run, outputs: (outputs[0] + np.float32(3), *outputs[1:])))]
    bench.opened[0].weights = sound.weights  # type: ignore[attr-defined]
    guarded = bench.guarded()
    bench.clock.now = selftest_s - 1
    guarded.infer(frame(0))
    assert guarded.counters.selftests == 1 and bool(guarded.watched_bytes) == bool(check_interval_s)
    bench.clock.now = selftest_s
    assert_sound(guarded, bench, 1)
    assert (guarded.counters.faults, guarded.counters.reloads) == (1, 1)


def test_negative_sides_miss_the_selftest_and_end_in_no_traceback(toy_bundle: Bundle) -> None:
    def negative(run: int, outputs: Outputs) -> Outputs:
        return outputs[0] * np.array([1, 1, -1, 1, 1], np.float32), outputs[1], outputs[2]

    selftest = read_selftest(toy_bundle, SENSOR)
    result = run_selftest(Broken(Bench(toy_bundle, []).sound(), negative), selftest)
    assert not result.passed and result.num_missed == result.num_expected


def test_without_an_interval_no_weights_are_watched(toy_bundle: Bundle) -> None:
    assert Bench(toy_bundle, [], check_interval_s=0.0).guarded().watched_bytes == 0
