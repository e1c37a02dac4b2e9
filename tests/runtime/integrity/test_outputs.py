"""Every kind of output that no sound graph gives is named; what a sound one gives is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from babelrs.bundle import open_bundle, read_selftest
from babelrs.manifest import SensorEntry
from babelrs.sensors import Sensor
from runtime.cli import DEMO_BUNDLE
from runtime.engines import Outputs
from runtime.integrity.outputs import FEWEST_ALIKE, REACH, Sameness, output_fault


@pytest.fixture(scope="module")
def entry() -> SensorEntry:
    return open_bundle(DEMO_BUNDLE).manifest.entry(Sensor.IR)


@pytest.fixture
def outputs(entry: SensorEntry) -> Outputs:
    sound = read_selftest(open_bundle(DEMO_BUNDLE), Sensor.IR)
    return sound.boxes.copy(), sound.scores.copy(), sound.labels.copy()


@pytest.mark.parametrize("sensor", Sensor)
def test_what_the_demo_model_gives_is_sound(sensor: Sensor) -> None:
    bundle = open_bundle(DEMO_BUNDLE)
    sound = read_selftest(bundle, sensor)
    assert output_fault((sound.boxes, sound.scores, sound.labels), bundle.manifest.entry(sensor), 1) == ""


def test_the_last_bits_of_a_sigmoid_are_no_fault(entry: SensorEntry, outputs: Outputs) -> None:
    """Of a nearly black image, whose candidates hardly differ, ONNX Runtime gives scores that rise by 9e-8."""
    outputs[1][:] = 0.01
    outputs[1][0, 1::2] += np.float32(1e-4)
    assert (np.diff(outputs[1]) > 0).any() and output_fault(outputs, entry, 1) == ""


def set_to(which: int, index: tuple[int, ...], value: float) -> Callable[[Outputs], None]:
    def change(outputs: Outputs) -> None:
        outputs[which][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (set_to(0, (0, 3, 1), np.nan), "finite"),
        (set_to(0, (0, 3, 4), -np.inf), "finite"),
        (set_to(1, (0, 0), np.nan), "finite"),
        (set_to(1, (0, 0), 1.001), "0 to 1"),
        (set_to(1, (0, -1), -0.001), "0 to 1"),
        (set_to(1, (0, -1), 1.0), "descend"),
        (set_to(2, (0, 0), 999), "labels"),
        (set_to(2, (0, 0), -1), "labels"),
        (set_to(0, (0, 0, 0), 640 * (REACH + 1) + 1), "outside"),
        (set_to(0, (0, 0, 1), -640 * REACH - 1), "outside"),
        (set_to(0, (0, 0, 2), -0.5), "side"),
        (set_to(0, (0, 0, 3), 1e9), "side"),
        (set_to(0, (0, 0, 4), 7.0), "angle"),
    ],
)
def test_every_value_out_of_range_is_named(
    entry: SensorEntry, outputs: Outputs, change: Callable[[Outputs], None], word: str
) -> None:
    change(outputs)
    assert word in output_fault(outputs, entry, 1)


def test_shapes_and_types_must_be_those_of_the_manifest(entry: SensorEntry, outputs: Outputs) -> None:
    boxes, scores, labels = outputs
    assert "boxes are" in output_fault(outputs, entry, 2)
    assert "scores are float64" in output_fault((boxes, scores.astype(np.float64), labels), entry, 1)
    assert "labels are" in output_fault((boxes, scores, labels[:, :-1]), entry, 1)


def image(value: int) -> np.ndarray:
    return np.full((2, 4, 4, 1), value, np.uint8)


def test_the_same_outputs_for_different_inputs_are_suspected_after_a_few(outputs: Outputs) -> None:
    seen = Sameness()
    assert [seen.suspect(image(value), outputs) for value in range(FEWEST_ALIKE)] == [False, False, True]


def test_the_same_outputs_for_the_same_input_are_never_suspected(outputs: Outputs) -> None:
    seen = Sameness()
    assert not any(seen.suspect(image(7), outputs) for _ in range(20))


def test_a_suspicion_that_proved_wrong_makes_the_next_take_twice_as_many(outputs: Outputs) -> None:
    seen = Sameness()
    found = []
    for value in range(16):
        found.append(seen.suspect(image(value), outputs))
        if found[-1]:
            seen.acquit()
    assert [place for place, suspected in enumerate(found) if suspected] == [2, 7]
