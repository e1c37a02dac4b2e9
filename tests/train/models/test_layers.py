from __future__ import annotations

import numpy as np
import torch

from train.models.layers import LevelsUnit


def levels(seed: int) -> list[torch.Tensor]:
    """Three maps whose means differ much, as those of a pyramid's levels do."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 4, size, size + 1, generator=generator) * scale + scale
        for size, scale in ((8, 1), (4, 5), (2, 20))
    ]


def test_statistics_are_taken_over_all_levels_together() -> None:
    unit, maps = LevelsUnit(4, 3), levels(0)
    outputs = unit.train().on_levels(maps)
    convolved = [unit[0](level).detach().double().numpy() for level in maps]
    values = np.concatenate([level.transpose(1, 0, 2, 3).reshape(3, -1) for level in convolved], 1)
    mean, variance = values.mean(1).reshape(1, 3, 1, 1), values.var(1).reshape(1, 3, 1, 1)
    for level, output in zip(convolved, outputs, strict=True):
        normal = (level - mean) / np.sqrt(variance + unit[1].eps)
        np.testing.assert_allclose(output.detach().numpy(), normal / (1 + np.exp(-normal)), atol=1e-4)


def test_in_use_a_level_gives_what_it_gave_in_training_once_the_statistics_have_settled() -> None:
    unit, maps = LevelsUnit(4, 3), levels(1)
    unit[1].momentum = 0.5
    for _ in range(40):
        trained = unit.train().on_levels(maps)
    used = unit.eval().on_levels(maps)
    for left, right in zip(trained, used, strict=True):
        torch.testing.assert_close(left, right, atol=0.02, rtol=0.02)  # variances differ by n / (n - 1)
    torch.testing.assert_close(used[1], unit(maps[1]))
