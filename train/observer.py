"""What pretraining looks at from time to time: rows' losses, answers against the truth, and a page of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from train.heldout import SCORED, HeldOutRow, ask, held_out_losses, scores, scores_json
from train.instruct.examples import ExampleMaker
from train.models.csia import CSIA
from train.pretrain_config import HeldOutConfig
from train.sample_sheet import write_samples

SAMPLES = "samples"
"""Folder of the run that pages of samples go to."""


@dataclass(frozen=True)
class Observer:
    """Looks at the same rows again and again.

    Attributes:
        config: How often and how many.
        held: The rows.
        make: Turns them into examples and prompts.
        folder: Where samples go.
    """

    config: HeldOutConfig
    held: Sequence[HeldOutRow]
    make: ExampleMaker
    folder: Path

    def due(self, step: int, steps: int) -> bool:
        """Whether to look after ``step`` of ``steps``."""
        return step % self.config.every == 0 or step == steps

    def look(
        self, csia: CSIA, tokenizer: PreTrainedTokenizerBase, step: int, autocast: torch.dtype, write: bool
    ) -> dict[str, Any]:
        """Measure the rows and write the first of them with their answers.

        Args:
            csia: The model.
            tokenizer: Its tokenizer.
            step: Optimiser steps done.
            autocast: Type that matrix products are computed in.
            write: Whether this process writes; with sharded weights all of them must look.

        Returns:
            ``held_out`` with mean loss in nats, losses by sensor and scores by sensor and task, and whose rows these
            are.
        """
        config, origin = self.config, "held-out" if self.config.meta is not None else "training"
        loss = held_out_losses(csia, self.held, self.make, config.batch, autocast)
        shown, scored = _spread(self.held, config.shown), [one for one in self.held if one.task in SCORED]
        samples, answered = (
            ask(csia, tokenizer, rows, self.make, config.max_tokens, config.batch, autocast) for rows in (shown, scored)
        )  # apart: a batch takes as long as its longest answer, and scored ones are short
        if write and samples:
            title = f"step {step}: {origin} rows, with the boxes of question (blue), truth (green) and answer (red)"
            write_samples(samples, title, self.folder / f"step-{step:07d}")
        result = {"loss": loss.mean, "loss_by_sensor": loss.by_sensor, "answers": scores_json(scores(answered))}
        return {"rows_of": origin, "held_out": result}


def _spread(rows: Sequence[HeldOutRow], count: int) -> list[HeldOutRow]:
    """``count`` rows at even distances, so that every set is seen."""
    return [rows[index * len(rows) // count] for index in range(min(count, len(rows)))]
