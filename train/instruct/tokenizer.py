"""Tokenizers: a small byte-level BPE trained on a corpus, and the check that any tokenizer knows the image tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from babelrs.errors import BabelRSError
from train.instruct.rows import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TEXT_END, TURN_END, TURN_START

REQUIRED = (TURN_START, TURN_END, IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
SPECIAL = (TEXT_END, *REQUIRED, "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""Single tokens of a trained tokenizer, in the order of their ids."""
SMALLEST_VOCABULARY = 256 + len(SPECIAL)


@dataclass(frozen=True)
class TemplateTokens:
    """Ids that the template needs.

    Attributes:
        image_context: ``<IMG_CONTEXT>``, which a visual token takes the place of.
        turn_end: ``<|im_end|>``, which ends an answer.
        pad: Fills a sequence up.
    """

    image_context: int
    turn_end: int
    pad: int


def train_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE and save it as a tokenizer folder of transformers; the same texts give the same files.

    Digits are single tokens, as coordinates need them.

    Args:
        texts: The corpus; it is read once.
        vocabulary: Number of tokens at most: the 256 bytes and the special tokens are among them.
        folder: Where to save it.

    Raises:
        BabelRSError: ``vocabulary`` is too small, or the folder cannot be written.
    """
    if vocabulary < SMALLEST_VOCABULARY:
        raise BabelRSError(f"A vocabulary of {vocabulary} tokens is too small.", f"Use {SMALLEST_VOCABULARY} or more.")
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=TEXT_END,
        additional_special_tokens=[token for token in SPECIAL if token not in (TURN_END, TEXT_END)],
        clean_up_tokenization_spaces=False,
    )
    try:
        fast.save_pretrained(str(folder))
    except OSError as error:
        raise BabelRSError(f"Cannot write the tokenizer to {folder}: {error}.", "Name another folder.") from error
    return fast


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer in Hugging Face format.

    Raises:
        BabelRSError: It cannot be read.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise BabelRSError(f"The tokenizer {folder} cannot be read: {error}", "Give tokenizer.folder.") from None
    return tokenizer


def template_tokens(tokenizer: PreTrainedTokenizerBase) -> TemplateTokens:
    """The ids that the template needs, of any tokenizer that has each of its tokens as one.

    Raises:
        BabelRSError: Tokens are missing; all are listed.
    """
    ids = {token: tokenizer.encode(token, add_special_tokens=False) for token in REQUIRED}
    known = tokenizer.get_vocab()
    missing = [token for token, found in ids.items() if len(found) != 1 or token not in known]
    if missing:
        raise BabelRSError(
            f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} lacks {', '.join(missing)}.",
            "Use an InternVL tokenizer, or add these as special tokens and resize the embeddings.",
        )
    pad = tokenizer.pad_token_id
    end = ids[TURN_END][0]
    return TemplateTokens(ids[IMAGE_CONTEXT][0], end, end if pad is None else int(pad))
