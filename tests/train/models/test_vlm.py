from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from babelrs.errors import BabelRSError
from tests.train.models.vlms import CONTEXT, conversation, packed, random_csia, random_images, random_vlm
from train.models.vlm import LayerwiseInternVL

MERGES = ["last", "concat", "sum", "per_layer", "lvsa"]

Floats = npt.NDArray[np.float64]


def numpy_taps(model: LayerwiseInternVL, images: Tensor) -> list[Floats]:
    """What transformers' own vision tower gives after every block, without class token: ``(B, H, W, C)``."""
    with torch.no_grad():
        states = model.model.vision_tower(images, output_hidden_states=True).hidden_states
    grid = (images.shape[2] // 8, images.shape[3] // 8)
    return [states[tap][:, 1:].double().numpy().reshape(len(images), *grid, -1) for tap in model.tapping.taps]


def numpy_projected(tokens: Floats, projector: Any) -> Floats:
    """Pixel shuffle and projector, token by token, in float64."""
    weights = {name: tensor.double().numpy() for name, tensor in projector.state_dict().items()}
    rows = []
    for image in tokens:
        for row in range(0, tokens.shape[1], 2):
            for column in range(0, tokens.shape[2], 2):
                square = image[row : row + 2, column : column + 2].reshape(-1)  # upper left, upper right, lower ...
                normal = (square - square.mean()) / np.sqrt(square.var() + 1e-5)
                normal = normal * weights["layer_norm.weight"] + weights["layer_norm.bias"]
                inner = torch.from_numpy(weights["linear_1.weight"] @ normal + weights["linear_1.bias"])
                inner = (0.5 * inner * (1 + torch.erf(inner / 2**0.5))).numpy()
                rows.append(weights["linear_2.weight"] @ inner + weights["linear_2.bias"])
    return np.stack(rows).reshape(len(tokens), -1, rows[0].shape[0])


def numpy_features(model: LayerwiseInternVL, taps: list[Floats], alpha: float) -> Floats:
    """The paper's strategies, each written out."""
    shared = model.model.multi_modal_projector
    if model.tapping.merge == "concat":
        return numpy_projected(np.concatenate(taps, -1), shared)
    if model.tapping.merge == "per_layer":
        projectors = [*model.model.other_projectors, shared]
        return sum(numpy_projected(tap, project) for tap, project in zip(taps, projectors, strict=True))  # type: ignore[return-value]
    merged = {
        "last": taps[-1],
        "sum": np.sum(taps, axis=0),
        "lvsa": (1 - alpha) * taps[-1] + alpha * np.mean(taps, axis=0),
    }
    return numpy_projected(merged[model.tapping.merge], shared)


@pytest.mark.parametrize("size", [(32, 32), (48, 16)])
@pytest.mark.parametrize("step", [0, 4, 30])
@pytest.mark.parametrize("merge", MERGES)
def test_visual_tokens_are_those_of_an_independent_float64_expression(
    merge: str, step: int, size: tuple[int, int]
) -> None:
    model = random_vlm(seed=1, merge=merge, taps=(1, 3, 4))
    model.lvsa_step = step
    images = random_images(2, step, *size)
    with torch.no_grad():
        found = model.get_image_features(images).pooler_output
    expected = numpy_features(model, numpy_taps(model, images), min(step / 10, 1))
    assert found.shape == (2, size[0] * size[1] // 256, 24)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.3


def test_the_last_layer_alone_is_transformers_internvl() -> None:
    model = random_vlm(seed=2, merge="last")
    theirs = InternVLForConditionalGeneration(model.config).eval()
    theirs.load_state_dict({n: t for n, t in model.state_dict().items() if n != "model.lvsa_step"})
    words, _ = conversation(length=20, images=2, responses=5, seed=2)
    images = random_images(2, 2)
    with torch.no_grad():
        found = model(input_ids=words[None], pixel_values=images).logits
        wanted = theirs(input_ids=words[None], pixel_values=images).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("step", [0, 5, 10])
@pytest.mark.parametrize("merge", MERGES)
def test_a_step_of_every_strategy_gives_every_parameter_a_gradient(merge: str, step: int, checkpointed: bool) -> None:
    """DDP waits for all of them; at alpha = 0 the earlier blocks still learn through the last."""
    csia = random_csia(merge=merge, taps=(1, 3), drop_path=0.3, grad_checkpointing=checkpointed).train()
    csia.vlm.lvsa_step = step
    batch = packed([conversation(15, 1, 5, 0), conversation(12, 2, 3, 1)])
    before = {name: parameter.clone() for name, parameter in csia.named_parameters()}
    optimizer = torch.optim.SGD(csia.parameters(), lr=1e-2)
    first = csia(*batch, random_images(3, 0), 2).total
    first.backward()
    assert [name for name, parameter in csia.named_parameters() if parameter.grad is None] == []
    optimizer.step()
    still = [name for name, parameter in csia.named_parameters() if torch.equal(parameter, before[name])]
    assert [name for name in still if "k_proj.bias" not in name] == []  # softmax is blind to a shift of all keys


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointed in (False, True):
        csia = random_csia(seed=3, grad_checkpointing=checkpointed, tau=0).train()
        csia(*packed([conversation(15, 1, 5, 0)]), random_images(1, 0), 1).total.backward()
        gradients.append([parameter.grad for parameter in csia.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_blocks_after_the_last_tap_are_not_built() -> None:
    assert len(random_vlm(taps=(1, 3)).model.vision_tower.encoder.layer) == 3


def test_drop_path_drops_whole_branches_in_training_only() -> None:
    model = random_vlm(drop_path=0.9, merge="last")
    images = random_images(1, 0).expand(64, -1, -1, -1)
    with torch.no_grad():
        calm = model.get_image_features(images).pooler_output
        torch.manual_seed(0)
        dropped = model.train().get_image_features(images).pooler_output
    assert (calm - calm[:1]).abs().max() < 1e-5
    kinds = {tuple(row) for row in dropped.flatten(1)[:, :4].mul(1e3).round().int().tolist()}
    # rates of 0, 0.3, 0.6 and 0.9 on two branches each: 6 branches that are there or not, at most 64 outcomes
    assert 8 < len(kinds) < 50


@pytest.mark.parametrize("size", [(40, 32), (32, 40), (36, 32), (8, 8)])
def test_images_of_an_odd_number_of_patches_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BabelRSError, match=f"Images of {size[0]} x {size[1]} px are no even number of 8 px patches"):
        random_vlm().get_image_features(random_images(1, 0, *size))


def test_generating_reads_the_image_and_continues_as_the_logits_say() -> None:
    model = random_vlm(seed=6, tau=0)
    words, _ = conversation(length=12, images=1, responses=0, seed=3)
    answers = []
    for seed in range(3):
        images = random_images(1, seed)
        found = model.generate(
            input_ids=words[None], attention_mask=torch.ones_like(words[None]), pixel_values=images,
            max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0,
        )[0, 12:]  # fmt: skip
        wanted = words[None]
        for _ in range(5):
            with torch.no_grad():
                logits = model(input_ids=wanted, pixel_values=images, use_cache=False).logits[0, -1]
            assert int(logits.argmax()) != CONTEXT
            wanted = torch.cat([wanted, logits.argmax()[None, None]], 1)
        assert found.tolist() == wanted[0, 12:].tolist()
        answers.append(found.tolist())
    assert answers[0] != answers[1] or answers[0] != answers[2]
