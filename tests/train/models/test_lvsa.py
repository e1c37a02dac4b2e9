from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from babelrs.errors import BabelRSError
from train.models.lvsa import aggregate, layer_weights


@pytest.mark.parametrize(
    ("step", "last", "other"),
    [(0, 1.0, 0.0), (3000, 0.625, 0.125), (6000, 0.25, 0.25), (6001, 0.25, 0.25), (20_000, 0.25, 0.25)],
)
def test_four_layers_weigh_what_the_paper_says(step: int, last: float, other: float) -> None:
    assert layer_weights(step, tau=6000, num_taps=4) == pytest.approx((other, other, other, last), rel=0, abs=1e-15)


@pytest.mark.parametrize("num_taps", [1, 2, 3, 5])
@pytest.mark.parametrize("step", [0, 1, 7, 10, 11])
def test_the_weights_sum_to_one_and_the_others_are_alike(num_taps: int, step: int) -> None:
    weights = layer_weights(step, tau=10, num_taps=num_taps)
    alpha = min(step / 10, 1)
    assert len(weights) == num_taps
    assert sum(weights) == pytest.approx(1, abs=1e-15)
    assert weights[:-1] == pytest.approx([alpha / num_taps] * (num_taps - 1), abs=1e-15)


def test_tau_of_zero_is_the_mean_from_the_start() -> None:
    assert layer_weights(0, tau=0, num_taps=4) == (0.25, 0.25, 0.25, 0.25)


def test_a_negative_tau_is_refused() -> None:
    with pytest.raises(BabelRSError, match=r"tau -1 is negative"):
        layer_weights(0, tau=-1, num_taps=4)


def leaves(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 6, 5, generator=generator, requires_grad=True) for _ in range(4)]


@pytest.mark.parametrize("step", [0, 4, 10, 99])
def test_the_aggregate_is_the_papers_expression_in_float64(step: int) -> None:
    taps = leaves(seed=step)
    wide = [tap.detach().numpy().astype(np.float64) for tap in taps]
    alpha = min(step / 10, 1)
    expected = (1 - alpha) * wide[3] + alpha * np.mean(wide, axis=0)
    found = aggregate(taps, layer_weights(step, 10, 4))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("step", "reached"), [(0, [3]), (1, [0, 1, 2, 3]), (10, [0, 1, 2, 3]), (50, [0, 1, 2, 3])])
def test_gradients_reach_the_last_layer_at_the_start_and_every_layer_after(step: int, reached: list[int]) -> None:
    taps = leaves(seed=1)
    aggregate(taps, layer_weights(step, 10, 4)).square().sum().backward()
    assert [index for index, tap in enumerate(taps) if tap.grad is not None and tap.grad.abs().min() > 0] == reached
    assert [index for index, tap in enumerate(taps) if tap.grad is not None] == reached


def test_a_layer_without_weight_may_hold_values_that_are_not_finite() -> None:
    taps = [torch.full((1, 2, 3), float("nan")), torch.ones(1, 2, 3)]
    assert torch.equal(aggregate(taps, (0.0, 1.0)), taps[1])


def test_taps_and_weights_go_together() -> None:
    taps = [tap.detach() for tap in leaves(0)]
    with pytest.raises(ValueError, match="4 taps"):
        aggregate(taps, (0.5, 0.5))
    with pytest.raises(ValueError, match="4 taps"):
        aggregate(taps, (0.0, 0.0, 0.0, 0.0))
