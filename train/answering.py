"""Answers of a vision-language model to questions about images: greedy, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from train.instruct.examples import Prompt
from train.instruct.tiles import normalised
from train.instruct.tokenizer import TemplateTokens, template_tokens
from train.models.csia import CSIA


@torch.no_grad()
def answers(
    csia: CSIA,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_tokens: int,
    batch: int = 16,
    autocast: torch.dtype = torch.float32,
) -> list[str]:
    """The likeliest continuation of each prompt, token by token, up to the end of the turn.

    With sharded weights every process must ask for the same prompts. The model is in evaluation mode while it answers
    and in its former mode afterwards.

    Args:
        csia: The model.
        tokenizer: Its tokenizer.
        prompts: What it reads.
        max_tokens: Longest answer, tokens.
        batch: Prompts that are answered at a time.
        autocast: Type that matrix products are computed in.
    """
    template, mode = template_tokens(tokenizer), csia.training
    csia.eval()
    try:
        found: list[str] = []
        for start in range(0, len(prompts), batch):
            given = prompts[start : start + batch]
            with torch.autocast(csia.vlm.device.type, autocast, autocast != torch.float32):
                ids = _continued(csia, given, template, max_tokens)
            found += [text.strip() for text in _decoded(tokenizer, _until_end(ids, template.turn_end))]
        return found
    finally:
        csia.train(mode)


def _continued(csia: CSIA, prompts: Sequence[Prompt], template: TemplateTokens, max_tokens: int) -> Tensor:
    """New tokens ``(N, <= max_tokens)``; prompts are padded on the left, where the mask hides it."""
    length, device = max(len(prompt.input_ids) for prompt in prompts), csia.vlm.device
    ids = torch.full((len(prompts), length), template.pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.input_ids) :] = torch.from_numpy(prompt.input_ids)
        mask[row, length - len(prompt.input_ids) :] = 1
    tiles = torch.cat([torch.from_numpy(prompt.tiles) for prompt in prompts])
    images = {"pixel_values": normalised(tiles.to(device))} if len(tiles) else {}
    found = csia.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        **images,
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=template.turn_end,
        pad_token_id=template.pad,
    )
    return found[:, length:].cpu()


def _until_end(ids: Tensor, end: int) -> list[list[int]]:
    """Each row's tokens before its first ``end``."""
    rows: list[list[int]] = ids.tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    return tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
