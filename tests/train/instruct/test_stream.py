from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from babelrs.errors import BabelRSError
from tests.train.instruct.builders import random_rows, row, small_config, write_images, write_meta, write_set
from train.instruct.config import InstructConfig
from train.instruct.corpus import read_meta
from train.instruct.examples import Example, ExampleMaker
from train.instruct.faults import Fault, FaultFile, Tally, summed
from train.instruct.packing import Pack
from train.instruct.shards import read_index
from train.instruct.sources import MetaSource, ShardSource, Source
from train.instruct.stream import LoaderState, PackLoader, epoch_packs
from train.instruct.tokenizer import template_tokens
from train.instruct.write_shards import write_shards

TOLERANT = {"max_broken_share": 1.0}
BROKEN = [
    row(900, "<image>", "lost", "gone.png"),
    row(901, "<image>", "cut", "cut.png"),
    row(902, "no picture", "named", "0.png"),
    row(903, "many words", "word " * 400),
    "not a row",
]
CAUSES = {
    "image: missing": 1, "image: truncated": 1, "no image marker": 1, "longer than the sequence": 1, "not JSON": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of 40 and 25 + 5 rows; the last five are broken."""
    folder = tmp_path_factory.mktemp("sets")
    images = write_images(folder)
    (folder / "images/cut.png").write_bytes((folder / "images/0.png").read_bytes()[:90])
    return write_meta(
        folder,
        {
            "plain": write_set(folder, "plain", random_rows(40, 1, images), data_augment=True, max_dynamic_patch=2),
            "rough": write_set(folder, "rough", [*random_rows(25, 2, images), *BROKEN], max_dynamic_patch=1),
        },
    )


@pytest.fixture(scope="module")
def index(meta: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("shards")
    write_shards(read_meta(meta), out, shard_samples=9, max_broken_share=1.0)
    return str(out / "shards.json")


def make_source(kind: str, config: InstructConfig, tokenizer: PreTrainedTokenizerFast, where: Any) -> Source:
    make = ExampleMaker(config, tokenizer)
    return MetaSource(read_meta(where), make, 4) if kind == "meta" else ShardSource(read_index(where), make, 4)


@pytest.fixture(params=["meta", "shards"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def where(kind: str, meta: Path, index: str) -> Any:
    return meta if kind == "meta" else index


def assert_same(found: list[Pack], expected: list[Pack]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.names == other.names
        for name in ("input_ids", "labels", "sample_ids", "tiles"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_exactly_where_it_left_off(
    kind: str, where: Any, workers: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = small_config(streams=2, workers=workers, **TOLERANT)
    source = make_source(kind, config, tokenizer, where)
    whole = PackLoader(source, config, 0)
    expected = list(islice(whole, 60))
    for stop in (1, 7, 40):
        first = PackLoader(source, config, 0)
        assert_same(list(islice(first, stop)), expected[:stop])
        state = LoaderState.from_dict(json.loads(json.dumps(first.state.to_dict())))
        second = PackLoader(make_source(kind, config, tokenizer, where), config, 0, state)
        assert_same(list(islice(second, 60 - stop)), expected[stop:])
        assert second.state == whole.state
    assert len(json.dumps(whole.state.to_dict())) < 4000


def test_neither_workers_nor_processes_change_the_sequences(
    kind: str, where: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = small_config(streams=4, **TOLERANT)
    source = make_source(kind, config, tokenizer, where)
    alone = list(islice(PackLoader(source, config, 0), 24))
    spread = list(islice(PackLoader(source, config.model_copy(update={"workers": 2}), 0), 24))
    assert_same(spread, alone)
    halves = [list(islice(PackLoader(source, config, 0, share=(rank, 2)), 12)) for rank in (0, 1)]
    assert_same([pack for pair in zip(*halves, strict=True) for pack in pair], alone)


def test_an_epoch_reads_every_row_once_over_all_streams(meta: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = small_config(streams=2, **TOLERANT)
    source = make_source("meta", config, tokenizer, meta)
    read = [entry for k in (0, 1) for entry in islice(source.entries(k, 2, None), 35)]
    names = [e.outcome.name for e in read if isinstance(e.outcome, Example)]
    broken = [e.outcome for e in read if isinstance(e.outcome, Fault)]
    assert len(set(names)) == len(names) == 65
    assert Counter(fault.cause for fault in broken) == CAUSES
    assert {(fault.dataset, fault.row) for fault in broken} == {("rough", number) for number in range(25, 30)}
    assert {fault.id for fault in broken} == {"900", "901", "902", "903", ""}


def test_packed_text_is_the_rows_own(meta: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = small_config(**TOLERANT)
    lines = [json.loads(line) for line in (meta.parent / "plain.jsonl").read_text().splitlines()]
    context = template_tokens(tokenizer).image_context
    seen = 0
    for pack in islice(PackLoader(make_source("meta", config, tokenizer, meta), config, 0), 20):
        visual = 0
        for number, name in enumerate(pack.names):
            part = pack.sample_ids == number
            visual += int((pack.input_ids[part] == context).sum())
            if name.startswith("plain:"):
                answer = lines[int(name.split(":")[1])]["conversations"][1]["value"]
                kept = pack.labels[part]
                assert tokenizer.decode(kept[kept >= 0].tolist()) == answer + "<|im_end|>"
                seen += 1
        assert visual == 4 * len(pack.tiles)
    assert seen > 20


def test_without_packing_a_sequence_holds_one_conversation(meta: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = small_config(pack=False, **TOLERANT)
    packs = list(islice(PackLoader(make_source("meta", config, tokenizer, meta), config, 0), 65))
    assert {len(pack.names) for pack in packs} == {1} and len({pack.names for pack in packs}) == 65


def test_measuring_goes_through_an_epoch_once(meta: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config, tally = small_config(**TOLERANT), Tally()
    source = MetaSource(read_meta(meta), ExampleMaker(config, tokenizer), 0)
    names = [name for pack in epoch_packs(source, config, 0, tally) for name in pack.names]
    assert len(set(names)) == len(names) == 65 and tally.rows == 70 and dict(tally.causes) == CAUSES


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_rows_are_counted_by_cause_and_listed(
    meta: Path, tmp_path: Path, workers: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = small_config(streams=2, workers=workers, **TOLERANT)
    file = FaultFile(tmp_path / "broken.jsonl")
    loader = PackLoader(make_source("meta", config, tokenizer, meta), config, 0, on_faults=file.add)
    packs = iter(loader)
    while loader.state.tally.rows < 200:
        next(packs)
    listed = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert Counter(fault["cause"] for fault in listed) == loader.state.tally.causes
    assert set(loader.state.tally.causes) == set(CAUSES) and loader.state.tally.broken >= 10
    assert all(set(fault) == {"set", "row", "id", "cause", "detail"} and fault["detail"] for fault in listed)
    lost = next(fault for fault in listed if fault["cause"] == "image: missing")
    assert lost["set"] == "rough" and lost["row"] == 25 and lost["id"] == "900" and "gone.png" in lost["detail"]


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_the_stated_share_of_broken_rows_stops_the_run_with_the_counts(
    meta: Path, workers: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = small_config(max_broken_share=0.05, broken_from_rows=60, workers=workers)
    with pytest.raises(BabelRSError) as caught:
        list(islice(PackLoader(make_source("meta", config, tokenizer, meta), config, 0), 400))
    message = str(caught.value)
    assert "4 of" in message and sum(cause in message for cause in CAUSES) >= 3


def test_rows_that_are_all_broken_stop_the_run_too(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    meta = write_meta(tmp_path, {"bad": write_set(tmp_path, "bad", ["x", "y"])})
    config = small_config()
    with pytest.raises(BabelRSError, match="11 of 11 rows are broken"):
        next(iter(PackLoader(make_source("meta", config, tokenizer, meta), config, 0)))


def test_a_few_early_faults_do_not_stop_a_run() -> None:
    tally = Tally()
    tally.add(5, [Fault("a", 0, "", "x", "")] * 2)
    tally.check(0.01, 200)
    with pytest.raises(BabelRSError, match="x: 2"):
        tally.check(0.01, 199)


def test_the_tallies_of_several_processes_add_up() -> None:
    total = summed([Tally(10, Counter(a=1)), Tally(30, Counter(a=2, b=5))])
    assert total == Tally(40, Counter(a=3, b=5)) and total.broken == 8


def test_a_resumed_list_forgets_what_was_written_after_the_checkpoint(tmp_path: Path) -> None:
    faults = [Fault("a", number, "", "x", "ü") for number in range(3)]
    file = FaultFile(tmp_path / "f.jsonl")
    file.add(faults[:2])
    size = file.size
    file.add(faults[2:])
    FaultFile(file.path, size).add(faults[:1])
    rows = [json.loads(line)["row"] for line in file.path.read_text().splitlines()]
    assert rows == [0, 1, 0]
    assert FaultFile(file.path).size == 0


def test_streams_that_cannot_be_shared_out_are_refused(meta: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = small_config(streams=3)
    with pytest.raises(BabelRSError, match="3 streams cannot be shared by 2 processes"):
        PackLoader(make_source("meta", config, tokenizer, meta), config, 0, share=(0, 2))
    with pytest.raises(ValueError, match="multiple of workers"):
        small_config(streams=3, workers=2)
    with pytest.raises(ValueError, match="do not fit max_length"):
        small_config(max_length=32, tile_px=140)
