from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.half_precision import HalfPrecisionConfig, HalfProducts, finetune_arguments, summary

GENERATOR = torch.Generator().manual_seed(7)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR).half()


def product(x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
    return functional.linear(x.to(dtype), w.to(dtype))


def convolved(x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
    return functional.conv2d(x.to(dtype), w.to(dtype), padding=1)


def attended(x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
    return functional.scaled_dot_product_attention(x.to(dtype), w.to(dtype), w.to(dtype))


CASES: dict[str, tuple[Any, Tensor, Tensor]] = {
    "linear": (product, drawn(6, 32), drawn(8, 32)),
    "convolution": (convolved, drawn(2, 4, 6, 6), drawn(3, 4, 3, 3)),
    "attention": (attended, drawn(1, 2, 9, 8), drawn(1, 2, 9, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_products_and_their_gradients_are_float64_rounded_to_fp16(name: str) -> None:
    operation, x, w = CASES[name]

    def run(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in (x, w)]
        out = operation(*leaves, dtype)
        return out, *torch.autograd.grad(out.sum(), leaves)

    exact = run(torch.float64)
    with HalfProducts():
        found = run(torch.float16)
    for value, reference in zip(found, exact, strict=True):
        assert value.dtype == torch.float16
        # a rounding of the result, and for gradients of attention one of the output that they are made from
        torch.testing.assert_close(value.double(), reference.double(), rtol=2e-3, atol=2e-3)


def test_what_fp16_cannot_hold_overflows_only_when_it_is_rounded() -> None:
    x, w = torch.full((1, 64), 60.0).half(), torch.full((1, 64), 60.0).half()
    cancelling = w * torch.tensor([1.0, -1.0]).half().repeat(32)
    with HalfProducts():
        assert torch.isinf(functional.linear(x, w)).all()  # 230,400
        assert functional.linear(x, cancelling).item() == 0.0


def test_float32_is_left_alone() -> None:
    x, w = drawn(4, 8).float(), drawn(5, 8).float()
    with HalfProducts():
        assert torch.equal(functional.linear(x, w), torch.nn.functional.linear(x, w))
        assert functional.linear(x, w).dtype == torch.float32


def test_overflows_are_counted_and_opposing_gradients_too() -> None:
    def line(step: int, skipped: bool, norm: float, cosine: float | None) -> dict[str, Any]:
        looks = {"agreement": {"cosine.ir.rgb": cosine, "norm.ir": 1.0}} if cosine is not None else {}
        scale = {"loss_scale": 8.0 / step, "skipped": skipped, "gradient_norm": norm}
        return {"step": step, **scale, **looks, "rgb": {"total": 1.0}}

    found = summary([line(1, True, float("inf"), -0.5), line(2, False, 3.0, 0.25), line(4, False, 5.0, None)])
    assert found["last_step"] == 4 and found["losses_not_finite"] == 0
    assert found["overflows"] == [{"step": 1, "loss_scale": 8.0}]
    assert found["loss_scale"] == {"least": 2.0, "last": 2.0}
    assert found["gradient_norm"] == {"median": 4.0, "largest": 5.0}
    assert found["cosines"] == {"cosine.ir.rgb": {"looks": 2, "mean": -0.125, "negative": 1}}


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    config = HalfPrecisionConfig(data=tmp_path, run=tmp_path / "run", batch=(1, 2, 3))
    first = finetune_arguments(config)
    assert "--resume" not in first and first[first.index("--batch.ir") + 1] == "3"
    (tmp_path / "run" / "last").mkdir(parents=True)
    assert "--resume" in finetune_arguments(config)
