from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import IO

import pytest
from transformers import PreTrainedTokenizerFast

from babelrs.errors import BabelRSError, run_command
from tests.train.instruct.builders import random_rows, row, small_config, write_images, write_meta, write_set
from train.instruct.corpus import read_meta
from train.instruct.examples import Example, ExampleMaker
from train.instruct.faults import Fault
from train.instruct.shards import ShardFault, ShardWriter, open_local_or_url, read_index, read_shard
from train.instruct.sources import MetaSource, ShardSource
from train.instruct.write_shards import main, write_shards


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    images = write_images(tmp_path / "sets")
    rows = [
        *random_rows(11, 3, images),
        row(50, "<image><image>", "two", images[:2]),
        row(51, "<image>", "x", "no.png"),
    ]
    entries = {
        "a": write_set(tmp_path / "sets", "a", rows, max_dynamic_patch=2),
        "b": write_set(tmp_path / "sets", "b", random_rows(6, 9), repeat_time=1.5, sensor="ir"),
    }
    return write_meta(tmp_path / "sets", entries)


def test_shards_hold_an_epoch_of_the_mixture_byte_for_byte(meta: Path, tmp_path: Path) -> None:
    tally = write_shards(read_meta(meta), tmp_path / "out", seed=2, shard_samples=5)
    assert tally.rows == 13 + 9 and dict(tally.causes) == {"image: missing": 1}
    listed = [json.loads(line) for line in (tmp_path / "out/broken_rows.jsonl").read_text().splitlines()]
    assert [fault["id"] for fault in listed] == ["51"]
    index = read_index(str(tmp_path / "out/shards.json"))
    assert index.samples == (5, 5, 5, 5, 1)
    samples = [sample for url in index.urls for sample in read_shard(url)]
    rows = [json.loads(sample.row) for sample in samples]
    assert len({sample.key for sample in samples}) == 21 and sum(r["babelrs"]["set"] == "b" for r in rows) == 9
    assert all(r["sensor"] == "ir" for r in rows if r["babelrs"]["set"] == "b")
    for sample, values in zip(samples, rows, strict=True):
        named = values.get("image", [])
        files = [
            (meta.parent / "images" / name).read_bytes() for name in ([named] if isinstance(named, str) else named)
        ]
        assert [sample.images[number] for number in range(len(files))] == files and len(sample.images) == len(files)
        assert sample.max_tiles == (2 if values["babelrs"]["set"] == "a" else None)


def test_examples_from_shards_are_those_of_the_sets(
    meta: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_shards(read_meta(meta), tmp_path / "out", seed=2, shard_samples=5)
    make = ExampleMaker(small_config(), tokenizer)
    direct = MetaSource(read_meta(meta), make, 2)
    expected = [e for e in (direct.at(position) for position in range(22)) if isinstance(e, Example)]
    streamed = ShardSource(read_index(str(tmp_path / "out/shards.json")), make, 0)
    found = []
    for entry in streamed.entries(0, 1, None):
        if entry.position[0] == 5:
            break
        assert isinstance(entry.outcome, Example)
        found.append(entry.outcome)

    def content(examples: list[Example]) -> list[tuple[list[int], bytes]]:
        return sorted((e.input_ids.tolist(), e.tiles.tobytes()) for e in examples)

    assert content(found) == content(expected)


def test_the_same_rows_give_the_same_bytes(meta: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(read_meta(meta), tmp_path / name, seed=2, shard_samples=50)
    assert (tmp_path / "a/shard-00000.tar").read_bytes() == (tmp_path / "b/shard-00000.tar").read_bytes()


def test_any_opener_serves_and_streams_are_never_sought(meta: Path, tmp_path: Path) -> None:
    write_shards(read_meta(meta), tmp_path / "out", shard_samples=9)

    class OneWay(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.data = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            return self.data.readinto(buffer)

    def opener(url: str) -> IO[bytes]:
        assert url.startswith("store://bucket/")
        return io.BufferedReader(OneWay((tmp_path / "out" / url.rpartition("/")[2]).read_bytes()))  # type: ignore[return-value]

    index = read_index("store://bucket/shards.json", opener)
    assert sum(1 for url in index.urls for _ in read_shard(url, opener)) == 21


def test_urls_are_opened_by_fsspec(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    with open_local_or_url(f"file://{tmp_path}/x") as file:
        assert file.read() == b"content"
    with pytest.raises(BabelRSError, match="nosuch"):
        open_local_or_url("nosuch://bucket/x")


@pytest.mark.parametrize("url", ["pipe:cat x", " PIPE:rm -rf x"])
def test_commands_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match="never run"):
        open_local_or_url(url)
    with pytest.raises(BabelRSError, match="never run"):
        read_index(url, lambda _: io.BytesIO(b""))
    path = tmp_path / "shards.json"
    path.write_text(json.dumps({"schema": "babelrs.instruct-shards/1", "shards": [{"file": url, "samples": 1}]}))
    with pytest.raises(BabelRSError, match="never run"):
        read_index(str(path), lambda name: io.BytesIO(Path(name).read_bytes()))
    with pytest.raises(BabelRSError, match="never run"):
        read_index(str(path))


def test_an_index_names_all_missing_shards_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shards.json"
    shards = [{"file": f"{name}.tar", "samples": 1} for name in "ab"]
    path.write_text(json.dumps({"schema": "babelrs.instruct-shards/1", "shards": shards}))
    with pytest.raises(BabelRSError, match=r"(?s)a\.tar.*b\.tar"):
        read_index(str(path))
    for text in ("{", "[]", '{"schema": "x", "shards": []}', '{"schema": "babelrs.instruct-shards/1"}'):
        path.write_text(text)
        with pytest.raises(BabelRSError, match=r"shards\.json"):
            read_index(str(path))


def test_a_shard_that_breaks_off_gives_what_came_before_and_a_fault(
    meta: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_shards(read_meta(meta), tmp_path / "out", shard_samples=50)
    shard = tmp_path / "out/shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(ShardFault):
        list(read_shard(str(shard)))
    source = ShardSource(read_index(str(tmp_path / "out/shards.json")), ExampleMaker(small_config(), tokenizer), 0)
    entries = []
    for entry in source.entries(0, 1, None):
        if entry.position[0] == 2:
            break
        entries.append(entry)
    half = len(entries) // 2
    assert half > 2 and [isinstance(e.outcome, Fault) for e in entries] == ([False] * (half - 1) + [True]) * 2
    fault = entries[half - 1].outcome
    assert isinstance(fault, Fault) and fault.cause == "shard" and "shard-00000.tar" in fault.detail
    after = next(iter(source.entries(0, 1, entries[half - 1].position)))
    assert after.position == (1, 0)  # the fault is not met again


def test_shards_of_other_tools_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    files = {"d/k1.json": json.dumps(row(1, "<image>", "a", "z.jpg")).encode(), "d/k1.jpg": b"J", "d/k2.json": b"{"}
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    first, second = read_shard(str(path))
    assert (first.key, dict(first.images)) == ("d/k1", {0: b"J"}) and (second.key, dict(second.images)) == ("d/k2", {})


def test_a_folder_with_shards_is_not_written_again_and_a_broken_off_one_has_no_index(
    meta: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "out", 2) as writer:
        writer.add({"id": 1}, [])
        raise RuntimeError
    assert not (tmp_path / "out/shards.json").exists()
    write_shards(read_meta(meta), tmp_path / "out")
    with pytest.raises(BabelRSError, match="already"):
        ShardWriter(tmp_path / "out", 2)


def test_the_command_writes_shards_and_stops_at_too_many_broken_rows(
    meta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(main, ["--meta", str(meta), "--out", str(tmp_path / "o"), "--shard-samples", "7"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"samples": 21, "broken": {"image: missing": 1}}
    code = run_command(main, ["--meta", str(meta), "--out", str(tmp_path / "p"), "--max-broken-share", "0"])
    assert code == 2 and "image: missing: 1" in capsys.readouterr().err
