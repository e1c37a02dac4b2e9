from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from babelrs.aggregate import (
    Aggregation,
    NumberType,
    aggregate_emulated,
    aggregate_on_cpu,
    aggregate_on_cuda,
    available,
    has_cuda,
)

TYPES = {
    NumberType.FLOAT32: torch.float32,
    NumberType.FLOAT16: torch.float16,
    NumberType.BFLOAT16: torch.bfloat16,
    NumberType.INT8: torch.int8,
}
PAIRS = [
    *[(number, number) for number in NumberType],
    *[(number, NumberType.INT8) for number in list(NumberType)[:3]],
    *[(NumberType.INT8, number) for number in list(NumberType)[:3]],
]
TOLERANCE = {NumberType.FLOAT32: 1e-6, NumberType.FLOAT16: 2e-3, NumberType.BFLOAT16: 1e-2}
# shared memory a block of the emulated devices, in bytes
EMULATED = {"turing": 64 * 1024, "orin": 163 * 1024, "hopper": 227 * 1024}
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not has_cuda(), reason="the native library has no CUDA kernels (BABELRS_CUDA=ON)"),
    ],
)
GUARD = 64  # elements in front of and behind each level that must stay as they are
EPSILON = 1e-6

# B, prefix, H, W, C, S, P
SHAPES = [
    (1, 0, 1, 1, 8, 1, 1),
    (2, 1, 1, 1, 1536, 2, 5),
    (2, 1, 10, 10, 64, 4, 4),
    (1, 5, 7, 5, 24, 3, 5),
    (3, 0, 5, 5, 40, 8, 3),
    (2, 1, 4, 12, 384, 4, 2),
    (1, 1, 8, 8, 1024, 4, 4),
    (1, 0, 3, 11, 1536, 8, 5),
    (2, 5, 6, 43, 16, 5, 1),
]

pytestmark = pytest.mark.skipif(not available(), reason="the native library is not installed")


class Inputs:
    """Random taps and parameters, and the levels in float64."""

    def __init__(
        self, seed: int, shape: tuple[int, ...], number: NumberType, lvsa: bool = False, offset: float = 2.0
    ) -> None:
        self.batch, self.prefix, self.height, self.width, self.channels, num_taps, num_levels = shape
        generator = torch.Generator().manual_seed(seed)
        size = (self.batch, self.prefix + self.height * self.width, self.channels)
        values = [torch.randn(size, generator=generator) * 3**index + offset for index in range(num_taps)]
        self.tap_scales = [float(value.abs().max()) / 127 for value in values] if number == NumberType.INT8 else []
        if self.tap_scales:
            values = [(value / scale).round() for value, scale in zip(values, self.tap_scales, strict=True)]
        self.number, self.taps = number, [value.to(TYPES[number]) for value in values]
        parameters = torch.randn((2, num_taps, self.channels), generator=generator)
        self.gamma, self.beta = (None, None) if lvsa else (parameters[0].clone(), parameters[1].clone())
        self.weights = torch.randn((num_levels, num_taps), generator=generator)

    def expected(self) -> list[Tensor]:
        """DESIGN.md's formula in float64."""
        normal = []
        for index, tap in enumerate(self.taps):
            tokens = tap[:, self.prefix :].double() * np.float32(self.tap_scales[index] if self.tap_scales else 1.0)
            if self.gamma is not None and self.beta is not None:
                centred = tokens - tokens.mean(-1, keepdim=True)
                tokens = centred / (centred.square().mean(-1, keepdim=True) + EPSILON).sqrt()
                tokens = tokens * self.gamma[index].double() + self.beta[index].double()
            normal.append(tokens)
        mixed = torch.einsum("ps,sbtc->pbct", self.weights.double(), torch.stack(normal))
        return [level.unflatten(-1, (self.height, self.width)) for level in mixed]

    def run(self, out: NumberType, level_scales: list[float], where: str = "cpu") -> list[Tensor]:
        """The levels by the library, in memory that held NaN (or -128): on the CPU, by the emulated kernel, by CUDA."""
        device = "cuda" if where == "cuda" else "cpu"
        size = (self.batch, self.channels, self.height, self.width)
        poison = -128 if out == NumberType.INT8 else float("nan")
        memory = [
            torch.full((int(np.prod(size)) + 2 * GUARD,), poison, dtype=TYPES[out], device=device) for _ in self.weights
        ]
        levels = [flat[GUARD:-GUARD].view(size) for flat in memory]
        taps = [tap.to(device) for tap in self.taps]
        gamma, beta, weights = (None if x is None else x.to(device) for x in (self.gamma, self.beta, self.weights))
        assert weights is not None
        call = Aggregation(
            taps=[tap.data_ptr() for tap in taps],
            outputs=[level.data_ptr() for level in levels],
            gamma=None if gamma is None else gamma.data_ptr(),
            beta=None if beta is None else beta.data_ptr(),
            weights=weights.data_ptr(),
            shape=(self.batch, self.prefix + self.height * self.width, self.channels),
            prefix_tokens=self.prefix,
            grid=(self.height, self.width),
            in_type=self.number,
            out_type=out,
            epsilon=EPSILON,
            tap_scales=self.tap_scales,
            level_scales=level_scales,
        )
        if where == "cuda":
            aggregate_on_cuda(call, torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream)
            torch.cuda.synchronize()
        elif where == "cpu":
            aggregate_on_cpu(call)
        else:
            aggregate_emulated(call, EMULATED[where], 3)
        for flat in memory:
            guards = torch.cat([flat[:GUARD], flat[-GUARD:]])
            assert (guards.isnan() if out != NumberType.INT8 else guards == poison).all(), "written beside a level"
        return [level.cpu() for level in levels]


def assert_matches(inputs: Inputs, out: NumberType, where: str) -> None:
    wanted = inputs.expected()
    scales = [float(level.abs().max()) / 120 + 1e-3 for level in wanted] if out == NumberType.INT8 else []
    found = inputs.run(out, scales, where)
    for index, (level, exact) in enumerate(zip(found, wanted, strict=True)):
        if out == NumberType.INT8:
            assert (level.double() - exact / scales[index]).abs().max() <= 1.0
        else:
            assert torch.isfinite(level).all()
            assert (level.double() - exact).norm() <= TOLERANCE[out] * exact.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("number", "out"), PAIRS, ids=lambda number: number.name)
@pytest.mark.parametrize("where", ["cpu", "orin", "hopper", CUDA])
def test_levels_match_the_float64_expression(
    shape: tuple[int, ...], number: NumberType, out: NumberType, where: str
) -> None:
    assert_matches(Inputs(seed=sum(shape), shape=shape, number=number), out, where)


@pytest.mark.parametrize(("number", "out"), PAIRS, ids=lambda number: number.name)
@pytest.mark.parametrize("where", ["cpu", "turing", CUDA])
def test_the_lvsa_sum_has_no_layer_norm(number: NumberType, out: NumberType, where: str) -> None:
    assert_matches(Inputs(7, (2, 1, 5, 7, 48, 4, 1), number, lvsa=True), out, where)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("where", ["emulated", CUDA])
def test_any_shape_gives_the_same_levels(seed: int, where: str) -> None:
    rng = np.random.default_rng(seed)
    height, width, taps, levels = (int(rng.integers(1, high)) for high in (20, 20, 9, 6))
    channels = 8 * int(rng.integers(1, 1 + 192 // (1 + height * width // 20)))
    shape = (int(rng.integers(1, 4)), int(rng.choice([0, 1, 5])), height, width, channels, taps, levels)
    number, out = PAIRS[int(rng.integers(len(PAIRS)))]
    emulated = str(rng.choice(list(EMULATED)))
    assert_matches(Inputs(seed, shape, number), out, emulated if where == "emulated" else where)


@pytest.mark.parametrize("where", ["cpu", "orin", CUDA])
def test_a_large_mean_costs_no_accuracy(where: str) -> None:
    # float32 holds a mean of 3000 to 2e-4 deviations; E[x^2] - E[x]^2 would lose every digit of the variance
    inputs = Inputs(3, (1, 1, 4, 4, 1024, 1, 1), NumberType.FLOAT32, offset=3000.0)
    (level,), (exact,) = inputs.run(NumberType.FLOAT32, [], where), inputs.expected()
    assert (level.double() - exact).norm() <= 1e-3 * exact.norm()


def test_too_little_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMULATED, "tiny", 1000)
    with pytest.raises(ValueError, match="does not fit 1000 bytes"):
        Inputs(1, (1, 0, 2, 2, 64, 1, 1), NumberType.FLOAT32).run(NumberType.FLOAT32, [], "tiny")


@pytest.mark.parametrize("where", ["cpu", "orin", CUDA])
def test_misaligned_memory_is_refused(where: str) -> None:
    inputs = Inputs(1, (1, 0, 2, 2, 64, 2, 1), NumberType.FLOAT16)
    device = "cuda" if where == "cuda" else "cpu"
    inputs.taps[1] = torch.zeros(300, dtype=torch.float16, device=device)[1:]
    with pytest.raises(ValueError, match=r"taps\[1\] is null or not aligned to 16 bytes"):
        inputs.run(NumberType.FLOAT16, [], where)


def test_a_pair_of_types_without_a_kernel_is_refused() -> None:
    inputs = Inputs(1, (1, 0, 2, 2, 64, 2, 1), NumberType.FLOAT16)
    with pytest.raises(ValueError, match="out_type"):
        inputs.run(NumberType.FLOAT32, [])


@pytest.mark.parametrize(("scale", "which"), [(0.0, "tap_scales"), (float("nan"), "tap_scales")])
def test_a_scale_that_is_no_positive_number_is_refused(scale: float, which: str) -> None:
    inputs = Inputs(1, (1, 0, 2, 2, 64, 2, 1), NumberType.INT8)
    inputs.tap_scales[0] = scale
    with pytest.raises(ValueError, match=rf"{which}\[0\]"):
        inputs.run(NumberType.FLOAT32, [])
