from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from train.models.aggregate import EPSILON, LayerwiseAggregate, layerwise_aggregate

Floats = npt.NDArray[np.float64]


def reference(
    taps: list[Floats], gamma: Floats, beta: Floats, weights: Floats, prefix: int, height: int, width: int
) -> list[Floats]:
    """DESIGN.md's formula, token by token, in float64."""
    batch, _, channels = taps[0].shape
    levels = [np.zeros((batch, channels, height, width)) for _ in weights]
    for tap_index, tap in enumerate(taps):
        for image in range(batch):
            for row in range(height):
                for column in range(width):
                    token = tap[image, prefix + row * width + column]
                    centred = token - token.sum() / channels
                    normal = centred / np.sqrt((centred**2).sum() / channels + 1e-6)
                    for level, weight in zip(levels, weights[:, tap_index], strict=True):
                        level[image, :, row, column] += weight * (normal * gamma[tap_index] + beta[tap_index])
    return levels


def random_inputs(
    seed: int, num_taps: int, num_levels: int, prefix: int
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    # taps of very different spread, among them one whose variance is about epsilon, where epsilon matters most
    spreads = [1e-3, 1.0, 50.0, 0.1][:num_taps]
    shape = (2, prefix + 3 * 5, 8)
    taps = [torch.from_numpy(rng.normal(1, 1, shape) * spread).float() for spread in spreads]
    gamma, beta = rng.normal(1, 0.5, (num_taps, 8)), rng.normal(0, 0.5, (num_taps, 8))
    weights = rng.normal(0, 1, (num_levels, num_taps))
    return taps, *(torch.from_numpy(value).float() for value in (gamma, beta, weights))  # type: ignore[return-value]


@pytest.mark.parametrize("num_taps", [1, 2, 4])
@pytest.mark.parametrize("num_levels", [1, 4])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_aggregation_is_the_weighted_sum_of_layer_norms(num_taps: int, num_levels: int, prefix: int) -> None:
    taps, gamma, beta, weights = random_inputs(100 * num_taps + 10 * num_levels + prefix, num_taps, num_levels, prefix)
    found = layerwise_aggregate(taps, gamma, beta, weights, prefix, (3, 5))
    wide = [tap.double().numpy() for tap in taps]
    expected = reference(wide, gamma.double().numpy(), beta.double().numpy(), weights.double().numpy(), prefix, 3, 5)
    assert len(found) == num_levels
    for level, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(level.numpy(), wanted, rtol=0, atol=2e-4)


def test_epsilon_is_the_one_of_the_design() -> None:
    assert EPSILON == 1e-6


def test_module_starts_as_the_mean_of_the_normalised_taps_on_every_level() -> None:
    taps = random_inputs(3, 3, 1, 2)[0]
    module = LayerwiseAggregate(num_taps=3, num_levels=4, channels=8, prefix_tokens=2)
    expected = np.zeros((2, 8, 3, 5))
    for tap in taps:
        tokens = tap[:, 2:].double().numpy()
        normal = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
        expected += normal.transpose(0, 2, 1).reshape(2, 8, 3, 5) / 3
    levels = module(taps, (3, 5))
    assert len(levels) == 4
    for level in levels:
        np.testing.assert_allclose(level.detach().numpy(), expected, atol=2e-4)


def test_gradients_reach_every_tap_and_weight_but_not_the_prefix_tokens() -> None:
    taps = [tap.requires_grad_() for tap in random_inputs(5, 4, 1, 3)[0]]
    module = LayerwiseAggregate(num_taps=4, num_levels=2, channels=8, prefix_tokens=3)
    probe = torch.randn(2, 2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    (torch.stack(module(taps, (3, 5))) * probe).sum().backward()
    for tap in taps:
        assert tap.grad is not None
        assert (tap.grad[:, :3] == 0).all() and (tap.grad[:, 3:].abs().amax(-1) > 0).all()
    for parameter in (module.gamma, module.beta, module.weights):
        assert parameter.grad is not None and (parameter.grad.abs() > 0).all()
