"""Conversations as token ids and labels, in the chat template of InternVL2.5 on Qwen2.5.

``<|im_start|>ROLE\\nTEXT<|im_end|>\\n`` a turn; a picture is ``<img>``, a ``<IMG_CONTEXT>`` a visual token, ``</img>``.
Only the answers and their end tokens are learnt (CSIA: instruction tokens are masked out of the loss).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from train.instruct.rows import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, MARKER, TURN_END, TURN_START
from train.instruct.tokenizer import TemplateTokens

IGNORED = -100
"""Label of a token that carries no loss."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """A conversation.

    Attributes:
        input_ids: ``(L,)`` int64.
        labels: ``(L,)`` int64: the same ids where they are learnt, else -100; not shifted.
    """

    input_ids: Ids
    labels: Ids


def conversation_tokens(
    turns: Sequence[tuple[str, str]],
    system: str,
    image_tokens: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateTokens,
) -> Tokens:
    """A conversation with its answers, for training.

    Args:
        turns: Questions, with an image marker for each picture, and answers.
        system: System message.
        image_tokens: Visual tokens of each picture in order.
        tokenizer: Any that has the template's tokens.
        template: Their ids.
    """
    pieces: list[tuple[str, bool]] = []
    for number, (question, answer) in enumerate(turns):
        pieces += [(_before_answer(question, system if number == 0 else None), False), (answer + TURN_END, True)]
    parts = [(_ids(text, tokenizer), learnt) for text, learnt in pieces]
    ids = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([part if learnt else np.full_like(part, IGNORED) for part, learnt in parts])
    repeats = _repeats(ids, image_tokens, template)
    return Tokens(np.repeat(ids, repeats), np.repeat(labels, repeats))


def prompt_ids(
    question: str,
    system: str,
    image_tokens: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateTokens,
) -> Ids:
    """What a model reads before it answers a first question, ``(L,)``; the same ids as in training."""
    ids = _ids(_before_answer(question, system), tokenizer)
    return np.repeat(ids, _repeats(ids, image_tokens, template))


def _before_answer(question: str, system: str | None) -> str:
    """The template's text up to an answer; ``None`` where an earlier answer comes before the question."""
    opening = "\n" if system is None else f"{TURN_START}system\n{system}{TURN_END}\n"
    pictured = question.replace(MARKER, IMAGE_START + IMAGE_CONTEXT + IMAGE_END)
    return f"{opening}{TURN_START}user\n{pictured}{TURN_END}\n{TURN_START}assistant\n"


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> Ids:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int64)


def _repeats(ids: Ids, image_tokens: Sequence[int], template: TemplateTokens) -> Ids:
    """How often each id stands: a picture's one context token as often as it has visual tokens."""
    repeats = np.ones(len(ids), np.int64)
    places = np.flatnonzero(ids == template.image_context)
    if len(places) != len(image_tokens):
        raise ValueError(f"{len(places)} pictures in the text, {len(image_tokens)} images")
    repeats[places] = image_tokens
    return repeats
