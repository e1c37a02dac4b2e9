"""What a pretraining configuration costs, predicted without training: parameters, FLOPs, memory, steps a day.

``python -m train.pretrain --dry-run`` prints it for one configuration, ``python -m train.pretrain_footprint
FILE.yaml...`` for several. Weights are neither read nor made: of published ones only the configuration is.

What is counted are the tensors that autograd keeps in one forward pass of the model with CSIA's loss, over one and two
full sequences, under fake tensors and with the CPU's operators; token ids, positions and masks are real. Attention is
that of ``sdpa``, whose mask of packed conversations every block keeps in the queries' type. What a backward pass needs
beside is a formula: the block that is computed again, and the logits of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from babelrs.errors import BabelRSError
from train.activations import KnownIntegers, saved_tensors, without_data
from train.instruct.chat import IGNORED
from train.instruct.rows import IMAGE_CONTEXT, TEXT_END, TURN_END
from train.instruct.tokenizer import SPECIAL, read_tokenizer
from train.models.csia import CSIA
from train.models.vlm import LayerwiseInternVL
from train.models.vlm_build import (
    INTERNVL_1B_VOCABULARY,
    Vocabulary,
    build_vlm,
    published_sizes,
    read_vocabulary,
)
from train.models.vlm_flops import tokens_per_tile, training_flops
from train.pretrain_config import PlanConfig, PretrainConfig
from train.vlm_config import TINY

FLOAT_BYTES = 4
LOGIT_BYTES = 12
"""Of a logit at the peak of the loss' backward pass: logarithms, their gradient and the logits', in float32."""
SECONDS_A_DAY = 86_400


class Conversation(NamedTuple):
    """Tokens of one conversation: visual, all others, and those of the others that are learnt."""

    visual: int
    text: int
    responses: int


@dataclass(frozen=True)
class Kept:
    """What autograd keeps, in bytes.

    Attributes:
        vision: Of every sequence, until the language model's blocks begin: ViT, projector, embedding.
        language: Of every sequence, from there to the loss.
        copies: However many sequences there are: the weights in the run's precision.
    """

    vision: int
    language: int
    copies: int

    @property
    def sequence(self) -> int:
        """Of every sequence."""
        return self.vision + self.language


@dataclass(frozen=True)
class PretrainFootprint:
    """Predicted cost of a pretraining configuration.

    Attributes:
        parameters: By part of the model; a tied head counts nothing.
        trainable: Parameters with a gradient.
        buffer_bytes: Tables and counters.
        vision_blocks: Parameters of each block of the ViT.
        language_blocks: Parameters of each block of the language model.
        vocabulary: Rows of the head.
        width: Channels of the language model.
        vocabulary_source: Where their number comes from.
        conversations: Of a full sequence.
        sequence_flops: Model FLOPs of training on one.
        plain: What autograd keeps.
        checkpointed: The same with activation checkpointing.
        config: The settings.
    """

    parameters: dict[str, int]
    trainable: int
    buffer_bytes: int
    vision_blocks: tuple[int, ...]
    language_blocks: tuple[int, ...]
    vocabulary: int
    width: int
    vocabulary_source: str
    conversations: tuple[Conversation, ...]
    sequence_flops: float
    plain: Kept
    checkpointed: Kept
    config: PretrainConfig

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def step_flops(self) -> float:
        """Model FLOPs of an optimiser step."""
        return self.config.sequences * self.sequence_flops

    def state_bytes(self) -> dict[str, int]:
        """What a process holds, unsharded, by kind."""
        gradients = FLOAT_BYTES * self.trainable
        weights = FLOAT_BYTES * self.total + self.buffer_bytes
        return {"weights": weights, "gradients": gradients, "AdamW moments": 2 * gradients}

    def loss_bytes(self, sequences: int) -> int:
        """Logits and their gradients of a chunk at its peak, and the head's gradient of the chunks before."""
        rows = min(self.config.model.loss_chunk, sequences * sum(each.responses for each in self.conversations))
        return LOGIT_BYTES * rows * self.vocabulary + FLOAT_BYTES * self.vocabulary * self.width

    def activation_bytes(self, sequences: int, checkpointing: bool) -> int:
        """Peak of what the backward pass of so many sequences needs at once, without the weights' copies.

        With checkpointing the inputs of all blocks are there at first, with the loss or a block of the language model
        that is computed again; at the end those up to the visual tokens, with a block of the ViT.
        """
        if not checkpointing:
            return sequences * self.plain.sequence + self.loss_bytes(sequences)
        stored = self.checkpointed
        vision = (self.plain.vision - stored.vision) // len(self.vision_blocks)
        language = (self.plain.language - stored.language) // len(self.language_blocks)
        return max(
            sequences * stored.sequence + max(self.loss_bytes(sequences), sequences * language),
            sequences * (stored.vision + vision),
        )

    def sharded_bytes(self, gpus: int, accumulation: int) -> int:
        """Weights, gradients and moments of one process under FSDP, with what is gathered.

        What is in no block (embedding, head, projector) stays gathered, and so does its gradient until it is shared
        out; of the blocks two are gathered, one in use and one on its way, and one has a whole gradient. With a step
        in parts all gradients stay whole until the last.
        """
        state = sum(self.state_bytes().values()) // gpus
        blocks = (*self.vision_blocks, *self.language_blocks)
        rest, largest = self.total - sum(blocks), max(blocks)
        whole = self.trainable if accumulation > 1 else rest + largest
        return state + FLOAT_BYTES * (rest + 2 * largest + whole)

    def gpu_bytes(self, gpus: int, sharded: bool) -> int:
        """Predicted peak of one GPU of so many; workspaces and fragmentation are not in it.

        One GPU holds the whole state, DDP over several its buckets too, as large as the gradients; FSDP see
        :meth:`sharded_bytes`. On top come the weights' copies and the activations of the sequences computed at once.

        Raises:
            ValueError: The sequences of a step cannot be shared out evenly.
        """
        sequences, accumulation = self.share(gpus)
        state = sum(self.state_bytes().values())
        if gpus > 1:
            buckets = FLOAT_BYTES * self.trainable
            state = self.sharded_bytes(gpus, accumulation) if sharded else state + buckets
        return state + self.plain.copies + self.activation_bytes(sequences, self.config.model.grad_checkpointing)

    def can_share(self, gpus: int) -> bool:
        """Whether every GPU gets as many sequences of a step."""
        return self.config.sequences % gpus == 0

    def share(self, gpus: int) -> tuple[int, int]:
        """Sequences that a GPU computes at once, and the parts of a step: ``accumulation`` or the next lower number.

        Raises:
            ValueError: The sequences of a step cannot be shared out evenly.
        """
        own, left = divmod(self.config.sequences, gpus)
        if left:
            raise ValueError(f"{self.config.sequences} sequences are no multiple of {gpus} GPUs")
        parts = next(parts for parts in range(min(own, self.config.accumulation), 0, -1) if own % parts == 0)
        return own // parts, parts

    @property
    def peak_tflops(self) -> float | None:
        """One GPU's peak, if the settings say."""
        return self.config.plan.peak_tflops or self.config.watch.peak_tflops

    def steps_a_day(self, gpus: int, mfu: float) -> float:
        """Optimiser steps in a day at a model-FLOPs utilisation; evaluation, checkpoints and waiting are not in it.

        Raises:
            ValueError: The settings do not say the GPU's peak.
        """
        if self.peak_tflops is None:
            raise ValueError("plan.peak_tflops and watch.peak_tflops are not set")
        return SECONDS_A_DAY * gpus * mfu * self.peak_tflops * 1e12 / self.step_flops


def predict(config: PretrainConfig) -> PretrainFootprint:
    """The footprint of a configuration.

    Raises:
        BabelRSError: The model cannot be built, or its visual tokens are not those of the data's tiles.
    """
    vocabulary, source = vocabulary_of(config)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    plain, checkpointing = (_without_data(config, vocabulary, mode, flag) for flag in (False, True))
    tile = tokens_per_tile(plain.config)
    if tile != config.data.tokens_per_tile:
        raise BabelRSError(
            f"A tile of data.tile_px {config.data.tile_px} and data.patch_px {config.data.patch_px} has "
            f"{config.data.tokens_per_tile} visual tokens, an image of {config.model.name} {tile}.",
            "Give the model's image and patch size.",
        )
    conversations = full_sequence(config.plan, config.data.max_length, tile)
    text: Any = plain.config.get_text_config()
    return PretrainFootprint(
        parameters=_parameters(plain),
        trainable=sum(p.numel() for p in plain.parameters() if p.requires_grad),
        buffer_bytes=sum(buffer.nbytes for buffer in plain.buffers()),
        vision_blocks=tuple(map(_size, plain.model.vision_tower.encoder.layer)),
        language_blocks=tuple(map(_size, plain.model.language_model.layers)),
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        vocabulary_source=source,
        conversations=conversations,
        sequence_flops=sum(training_flops(plain.config, *each) for each in conversations),
        plain=_kept(plain, config, conversations, mode),
        checkpointed=_kept(checkpointing, config, conversations, mode),
        config=config,
    )


def vocabulary_of(config: PretrainConfig) -> tuple[Vocabulary | None, str]:
    """The tokens a model from scratch would know, ``None`` for published weights, and where that comes from.

    Raises:
        BabelRSError: ``tokenizer.folder`` cannot be read or lacks tokens.
    """
    if not config.model.from_scratch:
        return None, f"of {config.model.name}"
    if config.tokenizer.folder is not None:
        tokenizer = read_tokenizer(config.tokenizer.folder)
        found = read_vocabulary(tokenizer.get_vocab(), TURN_END, str(tokenizer.pad_token))
        return found, f"of {config.tokenizer.folder}"
    if config.model.name == TINY:
        context, end, pad = (SPECIAL.index(token) for token in (IMAGE_CONTEXT, TURN_END, TEXT_END))
        return Vocabulary(config.tokenizer.vocabulary, context, end, pad), "tokenizer.vocabulary, the most it can be"
    return INTERNVL_1B_VOCABULARY, "assumed: InternVL2.5-1B's published tokenizer, which tokenizer.folder would name"


def full_sequence(plan: PlanConfig, length: int, tile: int) -> tuple[Conversation, ...]:
    """The conversations that a full sequence is taken to hold: whole tiles, shared out as evenly as can be.

    Args:
        plan: Shares and number of conversations.
        length: Tokens of the sequence.
        tile: Visual tokens of a tile; the sequence is longer.
    """
    tiles = max(1, int(plan.visual_share * length) // tile)
    text = length - tiles * tile
    number = min(plan.conversations, text // 2)
    responses = min(max(number, round(plan.response_share * length)), text - number)
    shares = (_shared(amount, number) for amount in (tiles, text, responses))
    return tuple(Conversation(tile * own, words, learnt) for own, words, learnt in zip(*shares, strict=True))


def packed_batch(conversations: Sequence[Conversation], sequences: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, labels and sample ids ``(sequences, L)`` of equal sequences, as :class:`CSIA` takes them.

    Args:
        conversations: Of a sequence.
        sequences: Their number.
        context: The image context token.
    """
    word = int(context == 0)  # any other token
    ids, labels, samples = [], [], []
    for number, (visual, text, responses) in enumerate(conversations):
        ids += [context] * visual + [word] * text
        labels += [IGNORED] * (visual + text - responses) + [word] * responses
        samples += [number] * (visual + text)
    batch = (torch.tensor([values] * sequences) for values in (ids, labels, samples))
    tokens, wanted, owners = batch
    return tokens, wanted, owners + len(conversations) * torch.arange(sequences)[:, None]


def kept_bytes(
    vlm: LayerwiseInternVL, config: PretrainConfig, conversations: Sequence[Conversation], sequences: int
) -> tuple[int, int]:
    """Bytes that autograd keeps for so many full sequences: up to the language model's blocks, and in all.

    Args:
        vlm: In training mode, on the CPU; of fake tensors, within their mode.
        config: Precision, loss chunk and tile size.
        conversations: Of a sequence.
        sequences: Their number.
    """
    csia = CSIA(vlm, config.model.loss_chunk)
    tiles = sequences * sum(each.visual for each in conversations) // config.data.tokens_per_tile
    pixels = torch.zeros(tiles, 3, config.data.tile_px, config.data.tile_px)
    with KnownIntegers(), saved_tensors(csia, config.precision) as saved:
        batch = packed_batch(conversations, sequences, vlm.config.image_token_id)
        before: list[int] = []
        language: nn.Module = vlm.model.language_model
        hook = language.register_forward_pre_hook(lambda *_: before.append(saved.num_bytes))
        csia(*batch, pixels, sequences * len(conversations))
    hook.remove()
    return before[0], saved.num_bytes


def _kept(
    vlm: LayerwiseInternVL, config: PretrainConfig, conversations: Sequence[Conversation], mode: FakeTensorMode
) -> Kept:
    """From one sequence and two: what grows is each sequence's."""
    with mode:
        (vision, one), (wider, two) = (kept_bytes(vlm, config, conversations, number) for number in (1, 2))
    own = wider - vision
    return Kept(own, two - one - own, max(0, 2 * one - two))


def _without_data(
    config: PretrainConfig, vocabulary: Vocabulary | None, mode: FakeTensorMode, checkpointing: bool
) -> LayerwiseInternVL:
    """The model at the end of LVSA, of tensors that have shapes and types only."""
    settings = config.model.model_copy(update={"grad_checkpointing": checkpointing, "attention": "sdpa"})
    build = (lambda: published_sizes(settings)) if vocabulary is None else (lambda: build_vlm(settings, vocabulary))
    vlm = without_data(build, mode)
    vlm.tie_weights()
    vlm.model.lvsa_step = torch.tensor(settings.tau)  # its value says which layers are read
    return vlm


def _parameters(vlm: LayerwiseInternVL) -> dict[str, int]:
    model = vlm.model
    embedding = model.get_input_embeddings()
    tied = vlm.lm_head.weight is embedding.weight
    head = {"embedding and head (tied)": _size(embedding)} if tied else {
        "embedding": _size(embedding), "head": _size(vlm.lm_head)
    }  # fmt: skip
    return {
        "vision tower": _size(model.vision_tower),
        "projector" if not len(model.other_projectors) else "projectors": _size(model.multi_modal_projector)
        + _size(model.other_projectors),
        "language model's blocks": _size(model.language_model) - _size(embedding),
        **head,
    }


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shared(amount: int, number: int) -> list[int]:
    """``amount`` as so many whole numbers that differ by one at most."""
    return [amount // number + (index < amount % number) for index in range(number)]
