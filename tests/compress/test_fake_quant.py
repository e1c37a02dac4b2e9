from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.calibration import CalibrationImage, CalibrationSet
from compress.fake_quant import FakeQuantized, exact_threshold
from compress.folding import folded
from compress.ranges import choose
from tests.compress.tiny_data import calibration_images
from tests.train.builders import random_detector, random_pixels, tiny_model
from train.models.detector import Detector, normalise


@pytest.fixture(scope="module")
def detector() -> Detector:
    return random_detector(tiny_model(), 4)


@pytest.fixture
def model(detector: Detector) -> Iterator[FakeQuantized]:
    yield FakeQuantized(detector, half=False)


def logits(detector: Detector, sensor: Sensor, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = detector.heads[sensor.value](detector.features(normalise(pixels))).logits
    return found


def pixels_of(sensor: Sensor, seed: int = 3) -> torch.Tensor:
    return random_pixels((2, *tiny_model().input_px.of(sensor), sensor.num_channels), seed)


def test_folding_changes_rounding_only(detector: Detector) -> None:
    model = folded(detector)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for sensor in Sensor:
        pixels = pixels_of(sensor)
        torch.testing.assert_close(
            logits(model, sensor, pixels), logits(detector, sensor, pixels), rtol=1e-3, atol=1e-3
        )


def test_with_no_part_in_int8_nothing_is_rounded(detector: Detector, model: FakeQuantized) -> None:
    for sensor in Sensor:
        assert torch.equal(
            logits(model.detector, sensor, pixels_of(sensor)), logits(folded(detector), sensor, pixels_of(sensor))
        )


def test_histograms_hold_what_reaches_each_layer(detector: Detector, model: FakeQuantized) -> None:
    images = calibration_images(3)
    plain, seen = folded(detector), dict[str, list[np.ndarray]]()
    for name in model.points:
        dict(plain.named_modules())[name].register_forward_pre_hook(
            lambda module, inputs, name=name: seen.setdefault(name, []).append(inputs[0].numpy())
        )
    for _, pixels in images.batches(Sensor.IR, 1):
        logits(plain, Sensor.IR, torch.from_numpy(pixels))
    found = model.observe(images, Sensor.IR, batch_size=2)
    assert found.keys() == seen.keys() == {name for name in model.points if "heads" not in name or "heads.ir" in name}
    for name, histogram in found.items():
        low = min(part.min() for part in seen[name])
        high = max(part.max() for part in seen[name])
        assert histogram.high == pytest.approx(max(0.0, high), rel=1e-4, abs=1e-5), name
        assert histogram.low == pytest.approx(min(0.0, low), rel=1e-4, abs=1e-5), name


def test_histograms_do_not_depend_on_the_number_of_threads(model: FakeQuantized) -> None:
    images = calibration_images(9)
    alone, together = (model.observe(images, Sensor.RGB, batch_size=2, threads=threads) for threads in (1, 3))
    assert alone.keys() == together.keys()
    for name, histogram in alone.items():
        np.testing.assert_array_equal(histogram.counts, together[name].counts)
        assert (histogram.low, histogram.high) == (together[name].low, together[name].high)


def test_a_layer_computes_with_rounded_weights_and_inputs(model: FakeQuantized) -> None:
    name = "heads.ir.classify"
    layer = dict(model.detector.named_modules())[name]
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    model.quantize_parts(["head ir"])
    model.use({name: (-3.0, 2.0)})
    x = 2 * torch.randn(1, layer.in_channels, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = layer.weight.detach().double().numpy()[:, :, 0, 0]
    weight_steps = np.abs(weight).max(1, keepdims=True) / 127
    rounded_weight = np.clip(np.rint(weight / weight_steps), -128, 127) * weight_steps
    step = 3.0 / 127
    rounded = np.clip(np.rint(x.numpy() / step), -128, 127) * step
    expected = np.einsum("oc,bchw->bohw", rounded_weight, rounded) + layer.bias.detach().numpy()[:, None, None]
    with torch.no_grad():
        found = layer(x.float()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_only_the_chosen_parts_are_rounded(model: FakeQuantized) -> None:
    images, pixels = calibration_images(), pixels_of(Sensor.SAR)
    ranges = choose("per-sensor", {sensor: model.observe(images, sensor) for sensor in Sensor}, "max")
    exact = logits(model.detector, Sensor.SAR, pixels)
    model.use(ranges[Sensor.SAR])
    model.quantize_parts(["head ir"])
    assert torch.equal(logits(model.detector, Sensor.SAR, pixels), exact)
    for part in ("stem 1", "block 2", "pyramid", "head sar"):
        model.quantize_parts([part])
        assert 0 < (logits(model.detector, Sensor.SAR, pixels) - exact).abs().max() < 0.3 * exact.abs().max(), part
    with pytest.raises(ValueError, match="head xray"):
        model.quantize_parts(["head xray"])


def test_each_sensor_has_scales_of_its_own_over_the_same_weights(model: FakeQuantized) -> None:
    images = calibration_images()
    ranges = choose("per-sensor", {sensor: model.observe(images, sensor) for sensor in Sensor}, "max")
    weights = {name: quantizer.amax.clone() for name, quantizer in model._weights.items()}
    used = {}
    for sensor in Sensor:
        model.use(ranges[sensor])
        used[sensor] = float(model.points["backbone.blocks.0.attn.qkv"].amax)
    assert len(set(used.values())) == 3
    assert all(torch.equal(quantizer.amax, weights[name]) for name, quantizer in model._weights.items())


def test_nan_is_traced_to_layer_and_image(detector: Detector) -> None:
    broken = folded(detector)
    with torch.no_grad():
        broken.backbone.blocks[1].mlp.fc1.bias.fill_(float("nan"))
    with pytest.raises(BabelRSError, match=r"input of backbone.blocks.1.mlp.fc2 .* for the sar images sar0, sar1"):
        FakeQuantized(broken, half=False).observe(calibration_images(2), Sensor.SAR)


def test_a_point_that_sees_only_zeros_keeps_them(model: FakeQuantized) -> None:
    black = CalibrationSet({Sensor.IR: (CalibrationImage("black", "0" * 64, np.zeros((64, 64, 1), np.uint8)),)})
    ranges = choose("per-sensor", {Sensor.IR: model.observe(black, Sensor.IR)}, "max")[Sensor.IR]
    model.quantize_parts(model.parts)
    model.use(ranges)
    assert torch.isfinite(logits(model.detector, Sensor.IR, torch.zeros(1, 64, 64, 1, dtype=torch.uint8))).all()


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 0.0371, 3.0, 6e4])
def test_a_threshold_of_float16_graphs_has_a_scale_that_float16_holds(threshold: float) -> None:
    scale = exact_threshold(threshold, half=True) / 127
    assert scale > 0 and float(np.float16(scale)) == pytest.approx(scale, rel=1e-12)
    if threshold >= 0.01:
        assert scale * 127 == pytest.approx(threshold, rel=1e-3)


def test_float16_is_what_lies_between_int8(detector: Detector) -> None:
    half, pixels = FakeQuantized(detector, half=True), pixels_of(Sensor.RGB)
    for parameter in half.detector.parameters():
        assert torch.equal(parameter, parameter.half().float())
    exact = logits(folded(detector), Sensor.RGB, pixels)
    change = (logits(half.detector, Sensor.RGB, pixels) - exact).abs().max() / exact.abs().max()
    assert 0 < change < 0.02
