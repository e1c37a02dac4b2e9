"""Making the vision-language model of a configuration: from scratch, or from published weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

from babelrs.errors import BabelRSError, collected
from train.instruct.rows import IMAGE_CONTEXT, IMAGE_END, IMAGE_START
from train.models.vlm import SHUFFLE, LayerwiseInternVL, Tapping, tapped_config
from train.vlm_config import VisionSizes, VLMConfig

_PUBLISHED_NAMES = {
    r"^language_model\.model\.": "model.language_model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^(vision_tower|multi_modal_projector)\.": r"model.\1.",
}
"""Names in published files; transformers renames them for its own classes only."""


@dataclass(frozen=True)
class Vocabulary:
    """What the model needs to know of its tokenizer.

    Attributes:
        size: Highest token id plus one.
        image_context: Token that stands for a visual token.
        end: Token that ends an answer.
        pad: Token that fills up sequences.
    """

    size: int
    image_context: int
    end: int
    pad: int


INTERNVL_1B_VOCABULARY = Vocabulary(size=151_674, image_context=151_667, end=151_645, pad=151_643)
"""Of the tokenizer published with InternVL2.5-1B."""


def read_vocabulary(tokens: Mapping[str, int], end: str, pad: str) -> Vocabulary:
    """What the model needs to know of a tokenizer, from its ``get_vocab()``.

    Args:
        tokens: Token ids by token.
        end: Token that ends an answer.
        pad: Token that fills up sequences.

    Raises:
        BabelRSError: The image tokens, or one of these two, are no tokens of their own; all are listed.
    """
    missing = [token for token in (IMAGE_START, IMAGE_CONTEXT, IMAGE_END, end, pad) if token not in tokens]
    if missing:
        raise collected("The tokenizer lacks tokens", missing, "Add them as special tokens, each one token of its own.")
    return Vocabulary(max(tokens.values()) + 1, tokens[IMAGE_CONTEXT], tokens[end], tokens[pad])


def build_vlm(config: VLMConfig, vocabulary: Vocabulary) -> LayerwiseInternVL:
    """The model in training mode, float32: from scratch, or with published weights and the layers that a merge adds.

    Raises:
        BabelRSError: The weights are no InternVL, cannot be read, or fit neither the taps nor the tokenizer.
    """
    if config.from_scratch:
        scratch: Any = LayerwiseInternVL._from_config(_scratch_config(config, vocabulary))
        return _made_ready(scratch, config)
    published = _published_config(config.name)
    _check_vocabulary(published, vocabulary, config.name)
    return _made_ready(_published(config.name, _tapped(published, config)), config)


def published_sizes(config: VLMConfig) -> LayerwiseInternVL:
    """A model of the sizes of published weights, of which only the configuration is read; its weights are random.

    Raises:
        BabelRSError: It is no InternVL, cannot be read, or does not fit the taps.
    """
    import torch

    random: Any = LayerwiseInternVL._from_config(_tapped(_published_config(config.name), config), dtype=torch.float32)
    return _made_ready(random, config)


def save_vlm(model: LayerwiseInternVL, folder: Path) -> None:
    """Write a model with its LVSA step, as a folder in Hugging Face format that :func:`load_vlm` reads."""
    model.save_pretrained(folder)


def load_vlm(folder: Path) -> LayerwiseInternVL:
    """A model that :func:`save_vlm` wrote, in evaluation mode, float32.

    Raises:
        BabelRSError: The folder holds none.
    """
    config = _published_config(str(folder))
    if not hasattr(config, "tapping"):
        raise BabelRSError(f"{folder} does not say which layers are tapped.", "Give the model folder of a pretraining.")
    model, report = _read(str(folder), config)
    if faults := [f"missing {name}" for name in report["missing_keys"]]:
        raise collected(f"The weights in {folder} are not whole", faults, "Restore the folder.", 12)
    return model.eval()


def _made_ready(model: LayerwiseInternVL, config: VLMConfig) -> LayerwiseInternVL:
    model.set_attn_implementation({"text_config": config.attention, "vision_config": "sdpa"})
    if config.grad_checkpointing:
        enable: Any = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)  # renamed
        enable({"use_reentrant": False})
    return model.train()


def _tapped(published: InternVLConfig, config: VLMConfig) -> InternVLConfig:
    vision: Any = published.vision_config
    tapping = Tapping(config.merge, config.taps, config.tau, vision.num_hidden_layers, config.drop_path)
    return tapped_config(published, tapping)


def _scratch_config(config: VLMConfig, vocabulary: Vocabulary) -> InternVLConfig:
    vision, text = config.vision, config.text
    language = Qwen2Config(
        vocab_size=vocabulary.size, hidden_size=text.width, intermediate_size=text.hidden,
        num_hidden_layers=text.depth, num_attention_heads=text.num_heads, num_key_value_heads=text.num_kv_heads,
        max_position_embeddings=text.max_tokens, tie_word_embeddings=text.tied, initializer_range=text.init_std,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_base},
        eos_token_id=vocabulary.end, pad_token_id=vocabulary.pad,
    )  # fmt: skip
    whole = InternVLConfig(
        vision_config=_vision_config(vision), text_config=language, image_token_id=vocabulary.image_context,
        image_seq_length=(vision.image_px // vision.patch_px // SHUFFLE) ** 2, tie_word_embeddings=text.tied,
        downsample_ratio=1 / SHUFFLE,
    )  # fmt: skip
    return tapped_config(whole, Tapping(config.merge, config.taps, config.tau, vision.depth, config.drop_path))


def _vision_config(sizes: VisionSizes) -> InternVLVisionConfig:
    return InternVLVisionConfig(
        hidden_size=sizes.width, num_hidden_layers=sizes.depth, num_attention_heads=sizes.num_heads,
        intermediate_size=round(sizes.width * sizes.mlp_ratio), attention_bias=True, image_size=sizes.image_px,
        patch_size=sizes.patch_px, layer_scale_init_value=sizes.layer_scale, initializer_range=sizes.init_std,
    )  # fmt: skip


def _published_config(name: str) -> InternVLConfig:
    """The configuration in a local folder, or of a hub model where there is no such folder."""
    remedy = "Give a folder or hub name of an InternVL in Hugging Face format, such as OpenGVLab/InternVL3-1B-hf."
    if Path(name).is_dir():
        try:
            kind = json.loads((Path(name) / "config.json").read_text()).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise BabelRSError(f"{name} holds no readable config.json: {error}.", remedy) from None
        if kind != InternVLConfig.model_type:
            raise BabelRSError(f"{name} is no InternVL: its config.json says model_type {kind!r}.", remedy)
    try:
        config = InternVLConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise BabelRSError(f"{name} cannot be read: {str(error).splitlines()[0]}", remedy) from None
    if config.model_type != InternVLConfig.model_type:
        raise BabelRSError(f"{name} is no InternVL, but {config.model_type!r}.", remedy)
    return config


def _check_vocabulary(config: InternVLConfig, vocabulary: Vocabulary, name: str) -> None:
    rows = config.get_text_config().vocab_size
    faults = []
    if vocabulary.size > rows:
        faults.append(f"the tokenizer has {vocabulary.size} tokens, the model {rows}")
    if vocabulary.image_context != config.image_token_id:
        faults.append(f"{IMAGE_CONTEXT} is token {vocabulary.image_context}, in the model {config.image_token_id}")
    if faults:
        raise collected(f"The tokenizer does not fit {name}", faults, "Use the tokenizer published with the weights.")


def _published(name: str, config: InternVLConfig) -> LayerwiseInternVL:
    """Published weights; a projector per layer begins as copies of the published one, a wider one at random."""
    model, report = _read(name, config)
    unread = [key for key in report["missing_keys"] if "other_projectors" not in key and "lvsa_step" not in key]
    if faults := [f"missing {key}" for key in unread]:
        raise collected(f"The weights of {name} do not fit an InternVL", faults, "Give whole weights.", 12)
    if any("other_projectors" in key for key in report["missing_keys"]):
        for projector in model.model.other_projectors:
            projector.load_state_dict(model.model.multi_modal_projector.state_dict())
    return model


def _read(name: str, config: InternVLConfig) -> tuple[LayerwiseInternVL, dict[str, Any]]:
    """A model in float32 and what was missing of it."""
    import torch

    read: Any = LayerwiseInternVL.from_pretrained  # gives a pair where the loading's record is asked for
    try:
        model, report = read(
            name,
            config=config,
            dtype=torch.float32,
            key_mapping=_PUBLISHED_NAMES,
            output_loading_info=True,
            ignore_mismatched_sizes=Tapping.of(config).merge == "concat",  # its projector is wider than the published
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise BabelRSError(f"The weights of {name} cannot be read: {error}", "Restore the folder.") from None
    return model, report
