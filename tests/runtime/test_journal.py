"""Of a journal that was torn or damaged, the records before count; after a loss of power, those that are sure."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.errors import BabelRSError
from runtime.journal import Journal, boot_id, line_of, read_journal, records_in
from runtime.locking import locked
from runtime.recorder import shortened
from runtime.sources.past import Numbers
from runtime.standing import Ended, Standing, head_of, record_of, standing_after

BOOT = boot_id()
ENDED = st.builds(
    Ended,
    source=st.integers(0, 2),
    sensor=st.sampled_from(["ir", "sar"]),
    number=st.integers(0, 12),
    sequence=st.integers(0, 12),
    key=st.sampled_from(["", "a", "b\udcff", "c d"]),
    stem=st.sampled_from(["", "x"]),
    is_used=st.booleans(),
)


def written(path: Path, count: int, sure_after: int | None = None) -> bytes:
    """A journal of numbered records, synced after some of them."""
    journal = Journal(path)
    for number in range(count):
        end = journal.append({"number": number})
        if number == sure_after:
            journal.sync(end)
    journal.close()
    return path.read_bytes()


def numbers(path: Path, boot: str = BOOT) -> list[int]:
    found = read_journal(path, boot)
    assert found is not None
    return [record["number"] for record in found.records]


def test_where_there_is_no_journal_there_is_none(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "j", BOOT) is None


def test_a_journal_that_cannot_be_read_or_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(BabelRSError, match="j: cannot be read"):
        read_journal(tmp_path / "j", BOOT)
    with pytest.raises(BabelRSError, match="j: cannot be written"):
        Journal(tmp_path / "j")


def test_wherever_it_is_torn_the_whole_records_before_count(tmp_path: Path) -> None:
    data = written(tmp_path / "j", 4)
    ends = [end for _, end in records_in(data)]
    for size in range(len(data) + 1):
        (tmp_path / "j").write_bytes(data[:size])
        assert numbers(tmp_path / "j") == list(range(max(0, sum(end <= size for end in ends) - 1)))


def test_a_byte_that_changed_ends_what_counts(tmp_path: Path) -> None:
    data = written(tmp_path / "j", 4)
    ends = [end for _, end in records_in(data)]
    for at in range(len(data)):
        (tmp_path / "j").write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert numbers(tmp_path / "j") == list(range(max(0, sum(end <= at for end in ends) - 1)))


def test_after_another_start_of_the_system_only_what_was_synced_counts(tmp_path: Path) -> None:
    written(tmp_path / "j", 5, sure_after=2)
    assert numbers(tmp_path / "j") == [0, 1, 2, 3, 4]
    assert numbers(tmp_path / "j", "another") == [0, 1, 2]
    assert numbers(tmp_path / "j", "") == [0, 1, 2], "a system that does not say when it started"


def test_a_journal_that_goes_on_counts_under_the_start_it_goes_on_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "j", 5, sure_after=2)
    found = read_journal(tmp_path / "j", "second")
    assert found is not None
    monkeypatch.setattr("runtime.journal.boot_id", lambda: "second")
    journal = Journal(tmp_path / "j", found)
    journal.append({"number": 7})
    journal.close()
    assert numbers(tmp_path / "j", "second") == [0, 1, 2, 7]
    assert numbers(tmp_path / "j", "third") == [0, 1, 2], "a second loss of power costs what was sure"


@given(st.lists(ENDED, max_size=30), st.integers(0, 30))
def test_a_shortened_journal_means_the_same(images: list[Ended], num_sure: int) -> None:
    last_keys: dict[int, str] = {}
    data = line_of({"boot": BOOT}) + line_of(head_of({"formats": []}))
    sure, ends = len(data), []
    for one in images:
        marks = [{"end": one.number}] if one.is_used else None
        data += line_of(record_of(one, marks, last_keys.get(one.source, "")))
        last_keys[one.source] = one.key
        ends.append(len(data))
    sure = ends[num_sure - 1] if 0 < num_sure <= len(ends) else sure
    short = shortened(data + line_of({"synced": sure}), sure)
    assert _meaning(short) == _meaning(data)
    (said,) = [record["synced"] for record, _ in records_in(short) if "synced" in record]
    assert _meaning(short[:said]) == _meaning(data[:sure])


def _meaning(data: bytes) -> tuple[object, ...]:
    records = [record for record, _ in records_in(data) if not record.keys() & {"boot", "synced"}]
    standing = standing_after(records)
    assert isinstance(standing, Standing)
    pasts = {source: (past, past.last_key) for source, past in standing.pasts.items()}
    return standing.settings, pasts, standing.numbers, standing.marks, standing.is_over


@given(st.permutations(range(8)), st.integers(0, 8))
def test_every_number_is_given_once_in_whatever_order_images_end(order: list[int], count: int) -> None:
    numbers = Numbers()
    for number in order[:count]:
        numbers.add(number)
    free = numbers.free()
    assert sorted([*order[:count], *(next(free) for _ in range(8 - count))]) == list(range(8))


def test_records_of_several_threads_are_all_there_after_it_was_shortened_in_between(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(head_of({}))

    def write(source: int) -> None:
        for number in range(50):
            one = Ended(source, "ir", 50 * source + number, number, f"{source}-{number}", "", True)
            journal.append(record_of(one, [], None))

    threads = [threading.Thread(target=write, args=(source,)) for source in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        end = journal.end
        journal.replace(lambda data, sure=end: shortened(data, sure))  # type: ignore[misc]
    for thread in threads:
        thread.join()
    journal.close()
    found = read_journal(tmp_path / "j", BOOT)
    assert found is not None
    standing = standing_after(found.records)
    assert standing is not None and standing.num_images == 150 and standing.numbers["ir"] == Numbers(150)


def _try_to_lock(folder: Path, said: multiprocessing.Queue[str]) -> None:
    try:
        with locked(folder):
            said.put("locked")
    except BabelRSError as error:
        said.put(str(error))


def test_a_second_process_may_not_write_to_the_folder_until_the_first_has_ended(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    said: multiprocessing.Queue[str] = context.Queue()  # type: ignore[assignment]
    answers = []
    with locked(tmp_path / "out"):
        answers.append(_answer(context, tmp_path / "out", said))
    answers.append(_answer(context, tmp_path / "out", said))
    assert "out: another run writes to this folder" in answers[0] and answers[1] == "locked"


def _answer(context: multiprocessing.context.SpawnContext, folder: Path, said: multiprocessing.Queue[str]) -> str:
    process = context.Process(target=_try_to_lock, args=(folder, said))
    process.start()
    process.join()
    return said.get(timeout=10)
