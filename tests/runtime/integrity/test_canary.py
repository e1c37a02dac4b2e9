"""The self-test in flight finds what its tolerances let pass, and holds an engine to nothing but its own rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from babelrs.bundle import Bundle, open_bundle, read_selftest
from babelrs.sensors import Sensor
from runtime.cli import DEMO_BUNDLE
from runtime.engines import Outputs
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.integrity.canary import DIFFERS, OPENING_RUNS, Canary
from runtime.integrity.guarded import UNWATCHED_INTERVAL_S
from runtime.selftest import run_selftest
from tests.runtime.integrity.broken_engines import SENSOR, Bench, Broken, at
from tests.runtime.toy_bundle import BOX, write_toy_bundle

SCALES = np.array([0.2, 0.08, 0.004], np.float32)
FRAME = np.zeros((1, 64, 96, 1), np.uint8)


def int8_bundle(folder: Path) -> Bundle:
    """The toy bundle with the size of its boxes stored in INT8; one step of a height is within the tolerance."""
    bundle = write_toy_bundle(folder, {SENSOR: (64, 96)})
    path = folder / bundle.manifest.entry(SENSOR).graph
    model = onnx.load(str(path), load_external_data=False)
    (size,) = [each for each in model.graph.initializer if each.name == "size"]
    model.graph.initializer.remove(size)
    stored = {"size_int8": np.round(BOX / SCALES).astype(np.int8), "scales": SCALES, "zeros": np.zeros(3, np.int8)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["size_int8", "scales", "zeros"], ["size"], axis=0))
    path.write_bytes(model.SerializeToString())
    return bundle


def flip_height(engine: OnnxRuntimeEngine) -> None:
    (region,) = [each for each in engine.weights if each.dtype == "int8" and each.content.all()]  # not the zero points
    region.content[1] ^= 1


def moved(run: int, outputs: Outputs) -> Outputs:
    """Another last bit at every run."""
    return outputs[0] + np.float32(2**-16 * (run % 7)), outputs[1], outputs[2]


def test_a_flip_of_int8_weights_that_the_tolerances_let_pass_is_found_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = int8_bundle(tmp_path / "bundle")
    bench = Bench(bundle, [], check_interval_s=0.0)
    engine = bench.sound()
    bench.opened = [engine]
    guarded = bench.guarded()
    flip_height(engine)
    assert run_selftest(engine, read_selftest(bundle, SENSOR)).passed
    assert guarded.infer(FRAME)[0][0, 0, 3] != bench.sound().infer(FRAME)[0][0, 0, 3], "not yet due"
    bench.clock.now = UNWATCHED_INTERVAL_S
    assert guarded.infer(FRAME)[0][0, 0, 3] == bench.sound().infer(FRAME)[0][0, 0, 3]
    assert (guarded.counters.faults, guarded.counters.reloads) == (1, 1)
    assert [record.message for record in caplog.records if DIFFERS in record.message] != []


def test_an_engine_that_does_not_repeat_itself_is_held_to_the_tolerances_which_is_said_once(
    toy_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench = Bench(toy_bundle, [], check_interval_s=0.0)
    far = at(9, lambda run, outputs: (outputs[0] + np.float32(3), *outputs[1:]))
    bench.opened = [Broken(bench.sound(), lambda run, outputs: far(run, moved(run, outputs))) for _ in range(2)]
    guarded = bench.guarded()
    assert not guarded.repeats
    for _ in range(4):
        bench.clock.now += UNWATCHED_INTERVAL_S
        guarded.infer(FRAME)
    assert guarded.counters.selftests == 5 and guarded.counters.faults == 0
    for _ in range(4):
        bench.clock.now += UNWATCHED_INTERVAL_S
        guarded.infer(FRAME)
    assert (guarded.counters.faults, guarded.counters.reloads) == (1, 1), "the tolerances still judge"
    assert caplog.text.count("does not repeat itself to the bit") == 1


def test_an_engine_that_is_opened_again_is_held_to_its_own_bits(toy_bundle: Bundle) -> None:
    """The second rounds otherwise than the first did, and stays with that."""
    bench = Bench(toy_bundle, [], check_interval_s=0.0)
    near = Broken(bench.sound(), lambda run, outputs: (outputs[0] + np.float32(2**-10), *outputs[1:]))
    bench.opened = [Broken(bench.sound(), at(0, lambda run, outputs: (np.nan * outputs[0], *outputs[1:]))), near]
    guarded = bench.guarded()
    for _ in range(5):
        bench.clock.now += UNWATCHED_INTERVAL_S
        guarded.infer(FRAME)
    assert guarded.repeats and (guarded.counters.faults, guarded.counters.reloads, bench.num_opened) == (1, 1, 2)


@pytest.mark.parametrize("change", [lambda x: x.view(np.int32).__ixor__(1), lambda x: np.negative(x, out=x)])
def test_a_single_bit_of_any_output_is_a_fault(toy_bundle: Bundle, change: object) -> None:
    for place in range(2):
        bench = Bench(toy_bundle, [])

        def altered(run: int, outputs: Outputs, place: int = place) -> Outputs:
            whole = tuple(each.copy() for each in outputs)
            change(whole[place].reshape(-1)[-1:])  # type: ignore[operator]
            return whole  # type: ignore[return-value]

        canary = Canary(Broken(bench.sound(), at(1, altered)), read_selftest(toy_bundle, SENSOR))
        assert canary.repeats and canary.fault() == "" and canary.fault() != ""


@pytest.mark.parametrize(("owned", "repeats"), [(False, 40), (True, 200)])
def test_the_demo_bundle_repeats_itself_to_the_bit_whatever_runs_in_between(owned: bool, repeats: int) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    engine = OnnxRuntimeEngine(bundle.folder, bundle.manifest.entry(Sensor.IR), 2, owned=owned)
    selftest = read_selftest(bundle, Sensor.IR)
    canary = Canary(engine, selftest)
    assert canary.repeats and canary.opening.passed
    for number in range(repeats - OPENING_RUNS):
        if number % 20 == 0:  # batches of other sizes, as levels ask for
            engine.infer(np.repeat(selftest.pixels, 1 + number // 20 % 4, axis=0))
        assert canary.fault() == "", number
