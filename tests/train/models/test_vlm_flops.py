from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.train.models.vlms import conversation, random_images
from train.models.vlm_build import Vocabulary, build_vlm
from train.models.vlm_flops import tokens_per_tile, training_flops
from train.vlm_config import VLMConfig

TINY = Vocabulary(2000, 3, 1, 0)
INTERNVL_1B = Vocabulary(151_674, 151_667, 151_645, 151_643)


@pytest.mark.parametrize("merge", ["last", "concat", "per_layer", "lvsa"])
@pytest.mark.parametrize(("tiles", "text"), [(1, 30), (2, 100)])
def test_training_costs_what_torch_counts(merge: str, tiles: int, text: int) -> None:
    """Plain attention on both sides: the fused backward pass computes scores again, which is no model FLOP."""
    model = build_vlm(VLMConfig(merge=merge, tau=0, taps=(2, 5)), TINY)
    model.set_attn_implementation("eager")
    words, _ = conversation(16 * tiles + text, 4 * tiles, 0, seed=0)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=words[None], pixel_values=random_images(tiles, 0, 128, 128), use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    predicted = training_flops(model.config, 16 * tiles, text)
    assert predicted / 3 == pytest.approx(forward.get_total_flops(), rel=1e-6)
    assert predicted == pytest.approx(forward.get_total_flops() + backward.get_total_flops(), rel=0.02)
    assert training_flops(model.config, 16 * tiles, text, recomputed=True) == pytest.approx(4 * predicted / 3)


def test_only_response_tokens_pay_for_the_vocabulary() -> None:
    config = build_vlm(VLMConfig(), TINY).config
    saved = training_flops(config, 16, 50) - training_flops(config, 16, 50, response_tokens=10)
    assert saved == 3 * 2 * 56 * 192 * 2000


def test_the_1b_configuration_costs_about_six_flops_a_parameter_and_token() -> None:
    """Kaplan's 6 N D for each half with its own tokens; attention comes on top, more of it in the ViT's long tiles."""
    with torch.device("meta"):
        config = build_vlm(VLMConfig(name="internvl_1b"), INTERNVL_1B).config
    assert tokens_per_tile(config) == 256
    vision, projector, blocks, head = 302.3e6, 4.47e6, 357.9e6, 151_674 * 896  # parameters in matrix products
    tiles, text = 7, 1000
    plain = 6 * (1025 * tiles * vision + 256 * tiles * projector + (256 * tiles + text) * (blocks + head))
    found = training_flops(config, 256 * tiles, text)
    attention = 3 * 4 * 24 * (tiles * 1025**2 * 1024 + (256 * tiles + text) ** 2 * 896)
    assert found == pytest.approx(plain + attention, rel=2e-3)
    assert 1.05 < found / plain < 1.25
