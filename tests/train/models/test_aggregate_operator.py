from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import train.models.aggregate_operator  # noqa: F401  registers the operator
from babelrs.aggregate import available, has_cuda
from train.models.aggregate import EPSILON, LayerwiseAggregate, layerwise_aggregate

pytestmark = pytest.mark.skipif(not available(), reason="the native library is not installed")
NEEDS_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="the native library has no CUDA kernels (BABELRS_CUDA=ON)"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]


def arguments(device: str = "cpu", dtype: torch.dtype = torch.float32, affine: bool = True) -> dict[str, Any]:
    """S = 3, P = 2, B = 2, C = 16, a 3 x 5 grid behind one class token."""
    generator = torch.Generator().manual_seed(5)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float32).to(device).requires_grad_()

    return {
        "taps": [draw(2, 16, 16).detach().to(dtype).requires_grad_() for _ in range(3)],
        "gamma": draw(3, 16) if affine else None,
        "beta": draw(3, 16) if affine else None,
        "weights": draw(2, 3),
        "prefix_tokens": 1,
        "height": 3,
        "width": 5,
        "epsilon": EPSILON,
    }


def call(given: dict[str, Any]) -> list[Tensor]:
    return torch.ops.babelrs.layerwise_aggregate(**given)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_operator_passes_opcheck(device: str, affine: bool, dtype: torch.dtype) -> None:
    given = arguments(device, dtype, affine)
    torch.library.opcheck(torch.ops.babelrs.layerwise_aggregate.default, (), given)


@pytest.mark.parametrize("device", DEVICES)
def test_values_and_gradients_are_those_of_the_plain_expression(device: str) -> None:
    given, plain = arguments(device), arguments(device)
    levels = call(given)
    wanted = layerwise_aggregate(plain["taps"], plain["gamma"], plain["beta"], plain["weights"], 1, (3, 5))
    for level, expected in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, expected)
    sum(level.sin().sum() for level in levels).backward()  # type: ignore[union-attr]
    sum(level.sin().sum() for level in wanted).backward()  # type: ignore[union-attr]
    for name in ("gamma", "beta", "weights"):
        torch.testing.assert_close(given[name].grad, plain[name].grad, rtol=1e-4, atol=1e-4)
    for tap, expected in zip(given["taps"], plain["taps"], strict=True):
        torch.testing.assert_close(tap.grad, expected.grad, rtol=1e-4, atol=1e-4)


def test_without_layer_norm_the_gradients_are_those_of_a_weighted_sum() -> None:
    given, plain = arguments(affine=False), arguments(affine=False)
    stacked = torch.stack([tap[:, 1:] for tap in plain["taps"]])
    wanted = torch.einsum("ps,sbtc->pbct", plain["weights"], stacked).unflatten(-1, (3, 5))
    torch.testing.assert_close(torch.stack(call(given)), wanted)
    call(given)[1].sin().sum().backward()
    wanted[1].sin().sum().backward()
    torch.testing.assert_close(given["weights"].grad, plain["weights"].grad)
    torch.testing.assert_close(given["taps"][0].grad, plain["taps"][0].grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_int8_levels_are_the_rounded_float_levels(device: str, dtype: torch.dtype) -> None:
    given = arguments(device, dtype)
    exact = call({**given, "taps": [tap.float() for tap in given["taps"]]})
    levels = call({**given, "level_scales": [0.05, 0.1], "out_dtype": torch.int8})
    for level, value, scale in zip(levels, exact, (0.05, 0.1), strict=True):
        assert level.dtype == torch.int8
        assert (level - (value / scale).clamp(-128, 127)).abs().max() <= 1.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("out", [torch.float32, torch.float16, torch.bfloat16])
def test_int8_taps_are_their_steps_times_the_scale(device: str, out: torch.dtype) -> None:
    given, scales = arguments(device), [0.02, 0.03, 0.04]
    steps = [(tap.detach() / scale).round().clamp(-128, 127) for tap, scale in zip(given["taps"], scales, strict=True)]
    exact = call({**given, "taps": [step * scale for step, scale in zip(steps, scales, strict=True)]})
    integers = [step.to(torch.int8) for step in steps]
    levels = call({**given, "taps": integers, "tap_scales": scales, "out_dtype": out})
    for level, wanted in zip(levels, exact, strict=True):
        assert level.dtype == out
        torch.testing.assert_close(level, wanted.to(out))


def side_stream(device: str) -> AbstractContextManager[Any]:
    """A stream that waits for no other; on the CPU, nothing."""
    return torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else nullcontext()


def occupy(device: str) -> None:
    """Keeps the current stream busy for some milliseconds."""
    if device == "cuda":
        value = torch.eye(4096, device=device)
        for _ in range(20):
            value = value @ value


def finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_the_operator_runs_on_the_current_stream(device: str) -> None:
    given = arguments(device)
    wanted = [level.clone() for level in call(given)]
    late = [torch.full_like(tap, float("nan")) for tap in given["taps"]]
    finish(device)
    with side_stream(device):
        occupy(device)
        for tap, value in zip(late, given["taps"], strict=True):
            tap.copy_(value)
        levels = call({**given, "taps": late})  # on any other stream it would read NaN
    finish(device)
    for level, expected in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, expected, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_calls_on_two_streams_at_once_keep_apart(device: str) -> None:
    calls = [arguments(device), arguments(device)]
    calls[1]["taps"] = [2 * tap.flip(1) + 1 for tap in calls[1]["taps"]]
    wanted = [[level.clone() for level in call(given)] for given in calls]
    finish(device)
    streams, found = [side_stream(device), side_stream(device)], [[], []]
    for stream in streams:
        with stream:
            occupy(device)
    for _ in range(5):
        for index, (stream, given) in enumerate(zip(streams, calls, strict=True)):
            with stream:
                found[index] = call(given)
    finish(device)
    assert not torch.allclose(wanted[0][0], wanted[1][0])
    for levels, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(levels, expected, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["gamma", "beta", "weights", "taps"])
@torch.no_grad()
def test_memory_of_another_device_is_refused(device: str, name: str) -> None:
    given, other = arguments(device), "cpu" if device == "cuda" else "meta"
    moved = (
        [given["taps"][0], given["taps"][1].to(other), given["taps"][2]] if name == "taps" else given[name].to(other)
    )
    with pytest.raises(ValueError, match=rf"{name}.* is on {other}: expected {device}"):
        call({**given, name: moved})


def changed(**changes: Any) -> dict[str, Any]:
    return {**arguments(), **changes}


def taps(*sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.zeros(size, dtype=dtype) for size in sizes]


BAD_CALLS = {
    "no taps": (changed(taps=[]), ValueError, "taps: 0 token maps, expected 1 to 8"),
    "nine taps": (changed(taps=taps(*[(2, 16, 16)] * 9)), ValueError, "taps: 9 token maps"),
    "unlike taps": (changed(taps=taps((2, 16, 16), (2, 16, 8), (2, 16, 16))), ValueError, r"taps\[1\].*\(2, 16, 8\)"),
    "flat taps": (changed(taps=taps(*[(16, 16)] * 3)), ValueError, r"expected \(B, T, C\)"),
    "odd channels": (changed(taps=taps(*[(2, 16, 12)] * 3)), ValueError, "C a multiple of 8"),
    "double taps": (changed(taps=taps(*[(2, 16, 16)] * 3, dtype=torch.float64)), TypeError, r"torch\.float64"),
    "mixed taps": (
        changed(taps=[*taps((2, 16, 16)), *taps((2, 16, 16), (2, 16, 16), dtype=torch.float16)]),
        TypeError,
        r"taps\[1\]",
    ),
    "wrong grid": (changed(height=4), ValueError, r"T = 1 prefix tokens \+ 4 \* 5"),
    "negative prefix": (changed(prefix_tokens=-1), ValueError, "prefix_tokens -1"),
    "beta alone": (changed(gamma=None), ValueError, "both or neither"),
    "short gamma": (changed(gamma=torch.zeros(2, 16)), ValueError, r"gamma of shape \(2, 16\).*\(3, 16\)"),
    "integer beta": (changed(beta=torch.zeros(3, 16, dtype=torch.int32)), TypeError, "beta"),
    "wrong weights": (changed(weights=torch.zeros(2, 4)), ValueError, r"weights of shape \(2, 4\).*\(P, 3\)"),
    "six levels": (changed(weights=torch.zeros(6, 3)), ValueError, "P from 1 to 5"),
    "other device": (changed(weights=torch.zeros(2, 3, device="meta")), ValueError, "weights is on meta"),
    "wrong type out": (changed(out_dtype=torch.float16), TypeError, "out_dtype is torch.float16"),
    "no scales": (changed(out_dtype=torch.int8), ValueError, "level_scales is None"),
    "needless scales": (changed(tap_scales=[1.0] * 3), ValueError, "tap_scales"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_wrong_arguments_are_named(case: str) -> None:
    given, error, message = BAD_CALLS[case]
    with torch.no_grad(), pytest.raises(error, match=message):
        call(given)


@pytest.mark.parametrize("device", DEVICES)
def test_strided_and_misaligned_taps_are_refused(device: str) -> None:
    strided = torch.zeros(2, 16, 32, device=device)[:, :, ::2]
    misaligned = torch.zeros(2 * 16 * 16 + 1, device=device)[1:].view(2, 16, 16)
    for bad in (strided, misaligned):
        given = {**arguments(device), "taps": [bad, *(torch.zeros(2, 16, 16, device=device) for _ in range(2))]}
        with torch.no_grad(), pytest.raises(ValueError, match=r"taps\[0\] of shape \(2, 16, 16\): expected contiguous"):
            call(given)


def test_more_elements_than_an_int32_counts_are_refused() -> None:
    huge = [torch.empty((2**20, 256, 8), device="meta")] * 3
    with pytest.raises(ValueError, match=r"2\^31"):
        call(changed(taps=huge, gamma=None, beta=None, weights=torch.zeros(2, 3, device="meta"), height=15, width=17))


def test_the_model_keeps_the_plain_expression_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the operator ran")

    monkeypatch.setattr(torch.ops.babelrs, "layerwise_aggregate", refuse)
    given = arguments()
    assert len(LayerwiseAggregate(3, 2, 16, 1)(given["taps"], (3, 5))) == 2


@pytest.mark.gpu
@NEEDS_CUDA[1]
def test_the_model_runs_the_operator_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, fused = [], torch.ops.babelrs.layerwise_aggregate
    monkeypatch.setattr(torch.ops.babelrs, "layerwise_aggregate", lambda *args: calls.append(1) or fused(*args))
    model = LayerwiseAggregate(3, 2, 16, 1).cuda()
    given = arguments("cuda")
    wanted = layerwise_aggregate(given["taps"], model.gamma, model.beta, model.weights, 1, (3, 5))
    for level, expected in zip(model(given["taps"], (3, 5)), wanted, strict=True):
        torch.testing.assert_close(level, expected)
    assert calls
