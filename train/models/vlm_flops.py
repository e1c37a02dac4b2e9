"""FLOPs that a step of pretraining needs, for model-FLOPs utilisation (MFU)."""

from __future__ import annotations

from typing import Any

from transformers import InternVLConfig

from train.models.vlm import SHUFFLE, Tapping

TRAINING_PASSES = 3
"""Forward once, and twice as much backward (Kaplan et al. 2020, arXiv 2001.08361, sec. 2.1)."""


def training_flops(
    config: InternVLConfig,
    visual_tokens: int,
    text_tokens: int,
    response_tokens: int | None = None,
    recomputed: bool = False,
) -> float:
    """FLOPs of training on one sample; a packed sequence needs the sum over its samples.

    Matrix products only, a multiply-add counting twice; attention is counted in full, causal or not (PaLM, Chowdhery et
    al. 2022, arXiv 2204.02311, appendix B). MFU is this per second over the device's peak, and takes no account of
    activations that are computed again: give ``recomputed`` for the hardware's utilisation instead.

    Args:
        config: The model's.
        visual_tokens: That the language model reads; whole tiles of the configured image size.
        text_tokens: All others, instructions and responses.
        response_tokens: Whose logits are computed; ``None``: of every token.
        recomputed: Every block is computed again backwards (full activation checkpointing).
    """
    sequence = visual_tokens + text_tokens
    text: Any = config.text_config
    scored = sequence if response_tokens is None else response_tokens
    forward = (
        visual_tokens * (_vision_flops(config) / tokens_per_tile(config) + _projector_flops(config))
        + _language_flops(text, sequence)
        + 2 * scored * text.hidden_size * text.vocab_size
    )
    return forward * (TRAINING_PASSES + recomputed)


def tokens_per_tile(config: InternVLConfig) -> int:
    """Visual tokens of an image of the configured size, after pixel shuffle."""
    height, width = _grid(config)
    return height * width // SHUFFLE**2


def _grid(config: InternVLConfig) -> tuple[int, int]:
    vision: Any = config.vision_config
    (height, width), (rows, columns) = vision.image_size, vision.patch_size
    return height // rows, width // columns


def _vision_flops(config: InternVLConfig) -> int:
    """Forward of one tile, up to the last tap."""
    vision: Any = config.vision_config
    height, width = _grid(config)
    patches, channels = height * width, vision.hidden_size
    embedding = 2 * patches * vision.num_channels * vision.patch_size[0] * vision.patch_size[1] * channels
    tokens = patches + 1
    products = 2 * tokens * (4 * channels**2 + 2 * channels * vision.intermediate_size)
    return embedding + vision.num_hidden_layers * (products + _attention_flops(tokens, channels))


def _projector_flops(config: InternVLConfig) -> int:
    """Forward of one visual token."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    tapping, width = Tapping.of(config), text.hidden_size
    num_taps = len(tapping.taps)
    inputs = SHUFFLE**2 * vision.hidden_size * (num_taps if tapping.merge == "concat" else 1)
    return 2 * (inputs * width + width**2) * (num_taps if tapping.merge == "per_layer" else 1)


def _language_flops(text: Any, tokens: int) -> int:
    """Forward through the blocks of a model with grouped queries and a gated MLP, as Qwen2 and Llama."""
    width, head = text.hidden_size, getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    products = 2 * tokens * (2 * width * queries + 2 * width * keys + 3 * width * text.intermediate_size)
    return text.num_hidden_layers * (products + _attention_flops(tokens, queries))


def _attention_flops(tokens: int, channels: int) -> int:
    """Scores and weighted values of all heads together."""
    return 4 * tokens**2 * channels
