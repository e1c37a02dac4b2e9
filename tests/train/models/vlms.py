"""Small vision-language models and packed batches; nothing here relies on a default setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.instruct.chat import IGNORED
from train.models.csia import CSIA
from train.models.vlm import LayerwiseInternVL
from train.models.vlm_build import Vocabulary, build_vlm
from train.vlm_config import VLMConfig

CONTEXT = 3
VOCABULARY = Vocabulary(size=61, image_context=CONTEXT, end=1, pad=0)


def vlm_config(**changes: Any) -> VLMConfig:
    """A ViT of width 16 and 4 blocks on 4 x 4 patches of 8 px, 4 visual tokens; a language model of width 24."""
    fields: dict[str, Any] = {
        "name": "tiny", "merge": "lvsa", "taps": (1, 2, 3, 4), "tau": 10, "drop_path": 0.0, "attention": "sdpa",
        "loss_chunk": 7, "grad_checkpointing": False,
        "vision": {"image_px": 32, "patch_px": 8, "width": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0,
                   "layer_scale": 0.7, "init_std": 0.2},
        "text": {"width": 24, "depth": 2, "num_heads": 4, "num_kv_heads": 2, "hidden": 32, "max_tokens": 256,
                 "rope_base": 1e4, "tied": True, "init_std": 0.2},
    }  # fmt: skip
    return VLMConfig.model_validate({**fields, **changes})


def random_vlm(seed: int = 0, **changes: Any) -> LayerwiseInternVL:
    """A model with every weight disturbed, in evaluation mode."""
    torch.manual_seed(seed)
    model = build_vlm(vlm_config(**changes), VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def random_images(count: int, seed: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def conversation(length: int, images: int, responses: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels ``(L,)``: a word, 4 visual tokens an image, words, and responses at the end."""
    words = torch.randint(4, VOCABULARY.size, (length,), generator=torch.Generator().manual_seed(seed))
    words[1 : 1 + 4 * images] = CONTEXT
    labels = words.clone()
    labels[: length - responses] = IGNORED
    return words, labels


def packed(samples: list[tuple[Tensor, Tensor]], padding: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """``input_ids``, ``labels`` and ``sample_ids`` of one row that holds all samples."""
    tokens = torch.cat([words for words, _ in samples] + [torch.zeros(padding, dtype=torch.int64)])
    labels = torch.cat([wanted for _, wanted in samples] + [torch.full((padding,), IGNORED)])
    owners = [torch.full((len(words),), number) for number, (words, _) in enumerate(samples)]
    return tokens[None], labels[None], torch.cat([*owners, torch.full((padding,), -1)])[None]


def random_csia(seed: int = 0, **changes: Any) -> CSIA:
    return CSIA(random_vlm(seed, **changes), chunk=7).eval()
