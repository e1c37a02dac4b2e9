from __future__ import annotations

import copy

import pytest
import torch

from babelrs.sensors import Sensor
from compress.output_error import OutputErrors, raw_outputs_of, worst
from tests.compress.tiny_data import calibration_images
from tests.train.builders import random_detector, tiny_model
from train.models.detector import Detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return random_detector(tiny_model(), 4)


def errors_of(detector: Detector, images: int = 4, count: int = 4) -> OutputErrors:
    return OutputErrors(raw_outputs_of(detector), detector.config.strides, calibration_images(images), count)


@pytest.mark.parametrize("sensor", list(Sensor))
def test_a_model_does_not_differ_from_itself(detector: Detector, sensor: Sensor) -> None:
    # the overlap of equal boxes is 1 but for the floor of the distance under the root
    assert errors_of(detector).of(raw_outputs_of(detector), sensor) == pytest.approx(0.0, abs=2e-3)


def test_the_error_grows_with_the_disturbance(detector: Detector) -> None:
    errors = errors_of(detector)
    found = []
    for size in (0.001, 0.01, 0.1):
        changed = copy.deepcopy(detector)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(1 + size * torch.randn(parameter.shape, generator=generator))
        found.append(errors.of(raw_outputs_of(changed), Sensor.IR))
    assert 0 < found[0] < found[1] < found[2] < 2


def test_scores_alone_change_it_by_their_mean_change(detector: Detector) -> None:
    """With every logit of the head moved by the same amount the boxes stay, and classes keep their order."""
    errors = errors_of(detector, count=1)
    changed = copy.deepcopy(detector)
    with torch.no_grad():
        changed.heads["sar"].classify.bias.add_(-1.0)
    from train.models.detector import normalise

    with torch.no_grad():
        pixels = torch.from_numpy(calibration_images().images[Sensor.SAR][0].pixels[None])
        logits = detector.heads["sar"](detector.features(normalise(pixels))).logits[0, :, 0].double()
    top = logits.sort(descending=True).values[:100]
    before, after = top.sigmoid(), (top - 1).sigmoid()
    expected = float((before * (before - after)).sum() / before.sum())
    assert errors.of(raw_outputs_of(changed), Sensor.SAR) == pytest.approx(expected, abs=2e-3)


def test_only_the_chosen_number_of_images_counts(detector: Detector) -> None:
    changed = copy.deepcopy(detector)
    with torch.no_grad():
        changed.heads["ir"].regress.weight.mul_(1.2)
    few = errors_of(detector, 4, 2).of(raw_outputs_of(changed), Sensor.IR)
    alone = errors_of(detector, 2, 2).of(raw_outputs_of(changed), Sensor.IR)
    assert few == pytest.approx(alone, rel=1e-5)


def test_the_worst_sensor_decides() -> None:
    assert worst({Sensor.RGB: 0.1, Sensor.SAR: 0.4, Sensor.IR: 0.2}) == 0.4
