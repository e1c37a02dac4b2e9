from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.train.models.vlms import conversation, packed, random_csia, random_images
from train.models.csia import CSIA, packed_positions

SAMPLES = [conversation(23, 2, 9, 0), conversation(9, 1, 2, 1), conversation(14, 0, 6, 2), conversation(17, 1, 8, 3)]
IMAGES = [2, 1, 0, 1]


def single_loss(csia: CSIA, number: int, images: Tensor) -> Tensor:
    """The loss of one sample by itself, from transformers' logits of all its tokens."""
    words, labels = SAMPLES[number]
    first = sum(IMAGES[:number])
    own = images[first : first + IMAGES[number]]
    logits = csia.vlm(input_ids=words[None], pixel_values=own if len(own) else None, use_cache=False).logits[0]
    return functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("step", [0, 5, 10])
def test_packed_samples_have_the_losses_they_have_alone(step: int, padding: int) -> None:
    csia = random_csia(seed=step)
    csia.vlm.lvsa_step = step
    images = random_images(4, seed=step)
    with torch.no_grad():
        found = csia(*packed(SAMPLES, padding), images, 4)
        expected = torch.stack([single_loss(csia, number, images) for number in range(4)])
    torch.testing.assert_close(found.per_sample, expected, rtol=0, atol=1e-5 * float(expected.min()))
    torch.testing.assert_close(found.total, expected.sum(), rtol=1e-5, atol=0)
    assert found.tokens_per_sample.tolist() == [9, 2, 6, 8]


def test_the_gradients_of_a_pack_are_the_sum_of_the_samples() -> None:
    csia, images = random_csia(seed=3, tau=0).train(), random_images(4, seed=3)
    csia(*packed(SAMPLES), images, 4).total.backward()
    together = [parameter.grad.clone() for parameter in csia.parameters() if parameter.grad is not None]
    csia.zero_grad()
    for number in range(4):
        single_loss(csia, number, images).backward()
    alone = [parameter.grad for parameter in csia.parameters()]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("watched", [0, 1, 2, 3])
def test_no_sample_reads_anothers_tokens_or_images(watched: int) -> None:
    """The gradient of one sample's loss is exactly 0 at the others' inputs, and at their pixels."""
    csia, images = random_csia(seed=4, tau=0), random_images(4, seed=4).requires_grad_()
    inputs, labels, owners = packed(SAMPLES, padding=3)
    labels = torch.where(owners == watched, labels, -100)
    embedded: list[Tensor] = []

    def record(module: object, args: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    hook = csia.vlm.get_input_embeddings().register_forward_hook(record)
    csia(inputs, labels, owners, images, 4).total.backward()
    hook.remove()
    tokens = embedded[0].grad
    assert tokens is not None and images.grad is not None
    own = owners == watched
    assert not tokens[~own].any()
    assert tokens[own][:-1][inputs[own][:-1] != 3].abs().sum(-1).min() > 0
    pictures = torch.tensor([number for number, count in enumerate(IMAGES) for _ in range(count)]) == watched
    assert not images.grad[~pictures].any()
    assert all(picture.any() for picture in images.grad[pictures])


def test_another_samples_tokens_change_nothing() -> None:
    csia, images = random_csia(seed=5, tau=0), random_images(4, seed=5)
    other = [*SAMPLES]
    other[1] = (other[1][0].clone(), other[1][1])
    other[1][0][6:] = other[1][0][6:].flip(0)
    with torch.no_grad():
        before = csia(*packed(SAMPLES), images, 4).per_sample
        after = csia(*packed(other), images, 4).per_sample
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert before[1] != after[1]


def test_rows_of_a_batch_are_packed_each_for_itself() -> None:
    csia, images = random_csia(seed=6, tau=0), random_images(4, seed=6)
    rows = [packed(SAMPLES[:2], padding=0), packed(SAMPLES[2:], padding=1)]
    owners = [rows[0][2], torch.where(rows[1][2] < 0, rows[1][2], rows[1][2] + 2)]
    with torch.no_grad():
        one = csia(*packed(SAMPLES), images, 4).per_sample
        two = csia(
            torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows]), torch.cat(owners), images, 4
        ).per_sample
    torch.testing.assert_close(one, two, rtol=1e-5, atol=0)


def test_positions_restart_with_every_sample() -> None:
    owners = torch.tensor([[0, 0, 0, 1, 2, 2, -1, -1], [3, 3, 3, 3, 3, 3, 3, 3]])
    assert packed_positions(owners).tolist() == [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("merge", ["concat", "per_layer", "lvsa"])
def test_text_alone_still_reaches_every_parameter(merge: str) -> None:
    csia = random_csia(seed=7, merge=merge).train()
    batch = packed([conversation(12, 0, 4, 0)])
    loss = csia(*batch, random_images(0, 0), 1)
    loss.total.backward()
    assert [name for name, parameter in csia.named_parameters() if parameter.grad is None] == []
    assert not any(p.grad.any() for p in csia.vlm.model.vision_tower.parameters() if p.grad is not None)
    torch.testing.assert_close(loss.total.detach(), loss.per_sample[0], rtol=1e-6, atol=0)


def test_under_autocast_the_loss_stays_float32_and_near() -> None:
    csia, images = random_csia(seed=8, tau=0).train(), random_images(4, seed=8)
    exact = csia(*packed(SAMPLES), images, 4).total
    with torch.autocast("cpu", torch.bfloat16):
        narrow = csia(*packed(SAMPLES), images, 4).total
    narrow.backward()
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, exact, rtol=3e-2, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: FlexAttention trains there only")
def test_flex_attention_packs_as_sdpa_does() -> None:
    images = random_images(4, seed=9).cuda()
    batch = [tensor.cuda() for tensor in packed(SAMPLES, padding=1)]
    changes = {"text": {"width": 64, "num_heads": 4, "num_kv_heads": 2, "hidden": 32, "depth": 2}}
    one, other = (random_csia(seed=9, attention=kind, **changes).cuda() for kind in ("sdpa", "flex_attention"))
    torch.testing.assert_close(
        one(*batch, images, 4).per_sample, other(*batch, images, 4).per_sample, rtol=1e-3, atol=0
    )
