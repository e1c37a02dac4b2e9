"""The predicted cost of pretraining configurations as tables.

``python -m train.pretrain_footprint FILE.yaml...`` prints those of several files,
``python -m train.pretrain --dry-run`` that of one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from babelrs.errors import run_command
from train.cli import load_config
from train.markdown import markdown_table
from train.pretrain_config import PretrainConfig
from train.pretrain_cost import PretrainFootprint, predict

FORMULA = (
    "Predicted as if all parts were there at once. DDP: weights, gradients, moments and, on several GPUs, buckets as "
    "large as the gradients. FSDP: that state over the number of GPUs; two gathered blocks; what is in no block "
    "(embedding, head, projector), which stays gathered; and whole gradients, of everything where accumulation is "
    "above 1, else of one block and of what is in none. Both: the weights' copies and the peak of the sequences "
    "computed at once. Workspaces and the allocator's losses come on top."
)


def table(footprint: PretrainFootprint) -> str:
    """The footprint as Markdown."""
    state = markdown_table(("state", "predicted"), ((kind, _size(n)) for kind, n in footprint.state_bytes().items()))
    parts = [_assumptions(footprint), _parameters(footprint), _flops(footprint), state, _activations(footprint)]
    return "\n\n".join([*parts, _memory(footprint), FORMULA, _days(footprint)]) + "\n"


def _assumptions(footprint: PretrainFootprint) -> str:
    visual, text, learnt = (sum(each[part] for each in footprint.conversations) for part in range(3))
    number, tile = len(footprint.conversations), footprint.config.data.tokens_per_tile
    return (
        f"Vocabulary: {footprint.vocabulary:,} tokens ({footprint.vocabulary_source}). A full sequence of "
        f"{visual + text:,} tokens is taken to hold {number} conversation{'s' if number > 1 else ''}: "
        f"{visual // tile} tiles of {tile} visual tokens, {text - learnt:,} tokens of instructions and {learnt:,} "
        "that are learnt (`plan` in the settings)."
    )


def _parameters(footprint: PretrainFootprint) -> str:
    counts = {**footprint.parameters, "total": footprint.total, "trainable": footprint.trainable}
    return markdown_table(("parameters", "millions"), ((part, f"{n / 1e6:.3f}") for part, n in counts.items()))


def _flops(footprint: PretrainFootprint) -> str:
    config = footprint.config
    return markdown_table(
        ("an optimiser step", ""),
        [
            ("sequences", str(config.sequences)),
            ("tokens, all sequences full", f"{config.sequences * config.data.max_length:,}"),
            ("model TFLOP of a sequence (a multiply-add counts twice)", f"{footprint.sequence_flops / 1e12:,.4g}"),
            ("model TFLOP of the step", f"{footprint.step_flops / 1e12:,.4g}"),
        ],
    )


def _activations(footprint: PretrainFootprint) -> str:
    plain, stored = (footprint.activation_bytes(1, flag) for flag in (False, True))
    rows = [
        ("kept up to the visual tokens", footprint.plain.vision, footprint.checkpointed.vision),
        ("kept in the language model and the loss", footprint.plain.language, footprint.checkpointed.language),
        ("peak backwards, with a chunk's logits", plain, stored),
        ("weights' copies in the run's precision", footprint.plain.copies, footprint.plain.copies),
    ]
    return markdown_table(
        (f"activations of a sequence (predicted; precision {footprint.config.precision})", "plain", "checkpointing"),
        ((what, _size(one), _size(other)) for what, one, other in rows),
    )


def _memory(footprint: PretrainFootprint) -> str:
    head = ("GPUs", "accumulation", "sequences at once", "DDP, each (predicted)", "FSDP, each (predicted)")
    rows = []
    for gpus in footprint.config.plan.gpus:
        if footprint.can_share(gpus):
            sequences, parts = footprint.share(gpus)
            memory = (_size(footprint.gpu_bytes(gpus, sharded)) for sharded in (False, True))
            rows.append((str(gpus), str(parts), str(sequences), *memory))
        else:
            rows.append((f"{gpus}: not a divisor of {footprint.config.sequences} sequences", *"----"))
    checkpointing = "on" if footprint.config.model.grad_checkpointing else "off"
    return f"{markdown_table(head, rows)}\n\nCheckpointing is {checkpointing} in this table."


def _days(footprint: PretrainFootprint) -> str:
    plan, steps = footprint.config.plan, footprint.config.steps
    if footprint.peak_tflops is None:
        return "Steps a day: set plan.peak_tflops, one GPU's peak in the run's precision."
    head = ("GPUs", *(f"steps/day (days) at {100 * mfu:g} % MFU" for mfu in plan.mfu))
    rows = []
    for gpus in filter(footprint.can_share, plan.gpus):
        rates = (footprint.steps_a_day(gpus, mfu) for mfu in plan.mfu)
        rows.append((str(gpus), *(f"{rate:,.0f} ({steps / rate:,.2f})" for rate in rates)))
    return (
        f"{markdown_table(head, rows)}\n\nPredicted for {steps:,} steps of full sequences on GPUs of "
        f"{footprint.peak_tflops:g} TFLOPS; the MFU is given, not measured. Checkpoints and restarts come on top."
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _page(files: list[str]) -> Iterator[str]:
    yield "# Predicted footprint of pretraining\n\nWritten by `python -m train.pretrain_footprint"
    yield f" {' '.join(files)}`. Nothing was trained: memory and time are predicted.\n"
    for file in files:
        config = load_config(PretrainConfig, ["--config", file, "--dry-run"])
        yield f"\n## {file}\n\n{table(predict(config))}"


def main(arguments: list[str]) -> int:
    """Print the footprints of settings files, as one Markdown page."""
    sys.stdout.writelines(_page(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
