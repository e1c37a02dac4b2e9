"""``python -m train.pretrain``: align RGB, SAR and infrared through language (CSIA + LVSA).

Several processes or machines: ``accelerate launch -m train.pretrain ...``; ``sequences`` counts all of them together.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from babelrs.errors import BabelRSError, run_command
from train.cli import load_config, start_logging
from train.devices import warn_of_slow_precision
from train.heldout import choose_rows
from train.instruct.corpus import InstructSet, read_meta
from train.instruct.examples import ExampleMaker
from train.instruct.faults import RowFault
from train.instruct.rows import TURN_END, JsonLines, parse_row
from train.instruct.scan import refuse_broken
from train.instruct.shards import read_index
from train.instruct.sources import MetaSource, ShardSource, Source
from train.instruct.tokenizer import read_tokenizer, train_tokenizer
from train.interruption import exit_code
from train.models.vlm_build import build_vlm, read_vocabulary
from train.observer import SAMPLES, Observer
from train.parallel import make_accelerator, start_trackers
from train.pretrain_config import FREE, PretrainConfig
from train.pretrain_cost import predict
from train.pretrain_footprint import table
from train.pretrainer import Pretrainer, sequences_of_a_part
from train.processes import rank, wait_for_all
from train.run_folder import FINAL, RunFolder

log = logging.getLogger("train.pretrain")
TOKENIZER = "tokenizer"


def corpus_texts(sets: list[InstructSet], rows: int) -> Iterator[str]:
    """All texts of the first rows of every set, as many of each."""
    for item in sets:
        file = JsonLines(item.annotation)
        for number in range(min(len(file), -(-rows // len(sets)))):
            try:
                yield from itertools.chain.from_iterable(parse_row(file[number]).turns)
            except RowFault:
                continue  # counted when training comes to it


def get_tokenizer(config: PretrainConfig, sets: list[InstructSet]) -> PreTrainedTokenizerBase:
    """The tokenizer of the settings; one trained on the corpus is kept in the run's folder.

    Raises:
        BabelRSError: It cannot be read, lacks tokens, or there is no corpus to train one on.
    """
    kept = config.out / TOKENIZER
    folder = config.tokenizer.folder or (kept if config.model.from_scratch else Path(config.model.name))
    if folder == kept and not kept.exists():
        if not sets:
            raise BabelRSError("There is no corpus to train a tokenizer on.", "Give tokenizer.folder with shards.")
        if rank() == 0:
            train_tokenizer(corpus_texts(sets, config.tokenizer.corpus_rows), config.tokenizer.vocabulary, kept)
        wait_for_all()
    return read_tokenizer(folder)


def look_at_rows(config: PretrainConfig, sets: list[InstructSet]) -> None:
    """Look for broken rows and missing images before training; every process must call this.

    Raises:
        BabelRSError: There are too many; all are listed, up to fifty.
    """
    data = config.data
    rows = sum(len(JsonLines(item.annotation)) for item in sets) if rank() == 0 and data.scan_rows else 0
    if 0 < rows <= data.scan_rows:
        log.info("looking at %d rows and their image files", rows)
        tally = refuse_broken(sets, data.max_broken_share, data.broken_from_rows)
        for cause, count in tally.causes.most_common():
            log.warning("%d rows will be skipped: %s", count, cause)
    wait_for_all()


def fingerprint(config: PretrainConfig, sets: list[InstructSet]) -> str:
    """SHA-256 of the sets' names, rates and files' sizes, or of the shards' index."""
    digest = hashlib.sha256()
    for item in sets:
        digest.update(f"{item.name}|{item.repeat_time}|{item.annotation.stat().st_size}|{item.max_tiles}\n".encode())
    if config.data.shards is not None:
        digest.update("\n".join(read_index(config.data.shards).urls).encode())
    return digest.hexdigest()


def open_source(config: PretrainConfig, sets: list[InstructSet], tokenizer: PreTrainedTokenizerBase) -> Source:
    """Where examples come from."""
    make = ExampleMaker(config.data, tokenizer)
    if config.data.shards is not None:
        return ShardSource(read_index(config.data.shards), make, config.seed)
    return MetaSource(sets, make, config.seed)


def make_observer(
    config: PretrainConfig, sets: list[InstructSet], tokenizer: PreTrainedTokenizerBase
) -> Observer | None:
    """What looks at rows of these sets; ``None`` where nothing is to be looked at."""
    if not config.heldout.every or not sets:
        return None
    held = choose_rows(sets, config.heldout.rows, config.seed)
    return Observer(config.heldout, held, ExampleMaker(config.data, tokenizer), config.out / SAMPLES)


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(PretrainConfig, arguments)
    transformers.utils.logging.disable_progress_bar()
    if config.dry_run:
        sys.stdout.write(table(predict(config)))
        return 0
    sets = read_meta(config.data.meta, config.data.base) if config.data.meta is not None else []
    looked_at = sets if config.heldout.meta is None else read_meta(config.heldout.meta, config.heldout.base)
    accelerator = make_accelerator(config.deterministic, config.watch.trackers, config.out)
    start_logging(logging.INFO if rank() == 0 else logging.WARNING)
    sequences_of_a_part(config)
    look_at_rows(config, sets)
    RunFolder(config.out).begin(config.model_dump(mode="json"), config.resume, FREE, accelerator.device)
    start_trackers(accelerator, config.watch.trackers, config.out)
    warn_of_slow_precision(config.precision, accelerator.device)
    tokenizer = get_tokenizer(config, sets)
    torch.manual_seed(config.seed)
    vlm = build_vlm(config.model, read_vocabulary(tokenizer.get_vocab(), TURN_END, str(tokenizer.pad_token)))
    source = open_source(config, sets, tokenizer)
    observer = make_observer(config, looked_at, tokenizer)
    trainer = Pretrainer(config, vlm, tokenizer, source, fingerprint(config, sets), accelerator, observer)
    finished = trainer.run()
    accelerator.end_training()
    return exit_code(finished, config.out / FINAL)


if __name__ == "__main__":
    sys.exit(run_command(main))
