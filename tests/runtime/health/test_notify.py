from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.health.notify import Notifier, notifier_of, watchdog_s
from tests.runtime.health.manager import Manager


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_fields_come_as_lines_of_one_datagram(kind: str, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify" if kind == "path" else f"@babelrs-test-{os.getpid()}")
    notifier = notifier_of({"NOTIFY_SOCKET": manager.address})
    assert notifier.is_heard and notifier.tell(READY=1, STATUS="two\nlines")
    assert manager.until(lambda message: True) == [{"READY": "1", "STATUS": "two lines"}]
    notifier.close()
    manager.close()


def test_without_a_manager_nothing_is_told() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "relative"}):
        notifier = notifier_of(environment)
        assert not notifier.is_heard and not notifier.tell(READY=1)


def test_a_manager_that_is_gone_is_logged_once_and_heard_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    assert not notifier.tell(WATCHDOG=1) and not notifier.tell(WATCHDOG=1)
    assert len(caplog.records) == 1 and "cannot be told" in caplog.text
    manager = Manager(tmp_path / "notify")
    assert notifier.tell(WATCHDOG=1) and manager.until(lambda message: True) == [{"WATCHDOG": "1"}]
    manager.close()
    notifier.close()


def test_a_manager_that_reads_nothing_does_not_hold_the_run_up(tmp_path: Path) -> None:
    manager, notifier = Manager(tmp_path / "notify"), Notifier(str(tmp_path / "notify"))
    told = [notifier.tell(STATUS="x" * 1000) for _ in range(5000)]
    assert told[0] and not told[-1]
    manager.close()
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # another process is meant
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_units_and_only_of_the_process_that_is_meant(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_s(environment) == seconds
