"""The spool keeps what is worth most, within its bound, over kills, damage and full disks."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.errors import BabelRSError
from runtime.links.message import Message
from runtime.links.spool import Spool, size_of


def message(spool: Spool, priority: int, value: float = 0.5, size: int = 100) -> Message:
    return Message(spool.next_sequence(), priority, value, "ir/detections", bytes([priority]) * size)


def drained(spool: Spool) -> list[Message]:
    found = []
    while (best := spool.best()) is not None:
        found.append(best)
        spool.remove([best.sequence])
    return found


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.1, 0.5, 0.9]), st.integers(1, 2000)), max_size=60))
def test_it_gives_the_best_first_and_drops_the_least(entries: list[tuple[int, float, int]]) -> None:
    import tempfile

    most = 12_000
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "s", most)
        kept: list[Message] = []
        dropped: Counter[int] = Counter()
        for entry in entries:
            one = message(spool, *entry)
            assert spool.add([one]) == Counter(
                {priority: count for priority, count in _expected(kept, one, most).items() if count}
            )
            dropped = spool.dropped
            assert spool.num_bytes == sum(map(size_of, kept)) <= most
        assert sum(dropped.values()) + len(kept) == len(entries)
        assert drained(spool) == sorted(kept, key=lambda one: (one.priority, -one.value, one.sequence))
        spool.close()


def _expected(kept: list[Message], new: Message, most: int) -> Counter[int]:
    """What a plain list would drop, and drops: the lowest priority first, in it the oldest."""
    kept.append(new)
    dropped: Counter[int] = Counter()
    while sum(map(size_of, kept)) > most:
        least = max(kept, key=lambda one: (one.priority, -one.sequence))
        kept.remove(least)
        dropped[least.priority] += 1
    return dropped


def test_what_is_on_its_way_is_not_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 3000)
    first = message(spool, 3)
    spool.add([first])
    assert spool.hold(first.sequence)
    for _ in range(50):
        spool.add([message(spool, 0)])
    assert first in drained(spool)
    assert not spool.hold(first.sequence)
    spool.close()


def test_it_is_there_in_the_next_run_with_numbers_that_go_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1 << 20)
    messages = [message(spool, number % 4) for number in range(8)]
    spool.add(messages)
    spool.remove([messages[-1].sequence])
    origin = spool.origin
    spool.keep_retained("classes/1", b"dictionary")
    spool.close()
    again = Spool(tmp_path / "s", 1 << 20)
    assert again.origin == origin and again.retained() == {"classes/1": b"dictionary"}
    assert again.next_sequence() > messages[-1].sequence, "the number of a message that was sent came again"
    assert {one.sequence for one in drained(again)} == {one.sequence for one in messages[:-1]}
    again.close()


def test_a_torn_end_costs_the_last_message_at_most(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1 << 20)
    for _ in range(20):
        spool.add([message(spool, 0)])
    (tmp_path / "torn").mkdir()
    for path in tmp_path.glob("s*"):  # as it lies on disk, without the end that closing brings
        if path.is_file():
            shutil.copy(path, tmp_path / "torn" / path.name)
    spool.close()
    log = tmp_path / "torn" / "s-wal"
    log.write_bytes(log.read_bytes()[:-1000])
    torn = Spool(tmp_path / "torn" / "s", 1 << 20)
    assert len(drained(torn)) in (18, 19)
    torn.close()


def test_a_message_whose_bytes_changed_is_discarded_and_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1 << 20)
    spool.add([message(spool, 0), message(spool, 1)])
    spool.close()
    database = sqlite3.connect(tmp_path / "s")
    database.execute("UPDATE messages SET payload = x'00' WHERE priority = 0")
    database.commit()
    database.close()
    spool = Spool(tmp_path / "s", 1 << 20)
    assert [one.priority for one in drained(spool)] == [1] and spool.damaged == 1
    spool.close()


def test_the_file_is_bounded_whatever_goes_through_it(tmp_path: Path) -> None:
    most = 1 << 20
    spool = Spool(tmp_path / "s", most)
    largest = 0
    for number in range(6000):
        spool.add([message(spool, number % 5, size=50 + 37 * number % 1900)])
        if number % 3 == 0 and (best := spool.best()):
            spool.remove([best.sequence])
        if number % 100 == 0:
            largest = max(largest, sum(path.stat().st_size for path in tmp_path.glob("s*")))
    assert spool.dropped and not spool.dropped[0]
    assert largest <= 1.5 * most + (2 << 20)
    spool.close()


def test_only_one_run_has_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1 << 20)
    spool.add([message(spool, 0)])
    with pytest.raises(BabelRSError, match="locked"):
        Spool(tmp_path / "s", 1 << 20)
    spool.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + bytes(5000)])
def test_a_file_that_is_no_spool_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(BabelRSError, match="cannot be used"):
        Spool(tmp_path / "s", 1 << 20)
    assert (tmp_path / "s").read_bytes() == content


def test_a_spool_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "s")
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(BabelRSError, match="version 7"):
        Spool(tmp_path / "s", 1 << 20)


def test_a_folder_that_vanished_is_an_error_of_the_next_message(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    spool = Spool(tmp_path / "out" / "s", 1 << 20)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(BabelRSError, match="removed"):
        spool.add([message(spool, 0)])
    spool.close()


def test_a_full_disk_is_an_error_that_names_the_spool_and_what_was_kept_stays(tmp_path: Path) -> None:
    """A process that may write 200 kB a file."""
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from babelrs.errors import BabelRSError\nfrom runtime.links.spool import Spool\n"
        "from tests.runtime.links.test_spool import message\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "spool = Spool(Path(sys.argv[1]), 1 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "kept = 0\n"
        "try:\n    while kept < 5000:\n        spool.add([message(spool, 0, size=1000)])\n        kept += 1\n"
        "except BabelRSError as error:\n    print(kept, 'cannot be used' in str(error) and sys.argv[1] in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert done.returncode == 0, done.stderr
    kept, is_named = done.stdout.split()
    assert is_named == "True" and int(kept) > 20
    spool = Spool(tmp_path / "s", 1 << 30)
    assert len(drained(spool)) == int(kept)
    spool.close()


def test_two_threads_lose_and_repeat_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1 << 24)
    numbers: list[int] = []

    def write() -> None:
        for number in range(500):
            spool.add([message(spool, number % 4)])

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive() or spool.waiting():
        if (best := spool.best()) is not None:
            numbers.append(best.sequence)
            spool.remove([best.sequence])
    writer.join()
    assert sorted(numbers) == list(range(1, 501))
    spool.close()
