"""Who is watched, and who may do less: by the sources, the options and the service manager."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.arguments import Attention
from runtime.health.attendance import Attendance
from runtime.health.watchdog import ALLOWANCE_S
from tests.runtime.test_run import ListedSource

SERVICE = {"NOTIFY_SOCKET": "@nobody-listens", "WATCHDOG_USEC": "20000000"}


def attendance(
    attention: Attention, live: bool, environment: Mapping[str, str], root: Path, is_quiet: bool = False
) -> Attendance:
    return Attendance(attention, [ListedSource([], live=live)], root, is_quiet, environment, root)


@pytest.mark.parametrize(
    ("attention", "live", "degrades"),
    [
        (Attention(), False, False),
        (Attention(interval_s=1.0), False, False),
        (Attention(), True, True),
        (Attention(deadline_ms=100.0), False, True),
        (Attention(most_c=80.0), False, True),
    ],
)
def test_files_without_a_deadline_or_a_limit_never_do_less(
    attention: Attention, live: bool, degrades: bool, tmp_path: Path
) -> None:
    for environment in ({}, SERVICE):
        assert (attendance(attention, live, environment, tmp_path).degrader is not None) == degrades


@pytest.mark.parametrize(
    ("attention", "live", "environment", "is_quiet", "reports"),
    [
        (Attention(), False, {}, False, False),
        (Attention(interval_s=5.0), False, {}, True, True),
        (Attention(), True, {}, False, True),
        (Attention(), True, {}, True, False),
        (Attention(interval_s=0.0), True, {}, False, False),
        (Attention(), False, SERVICE, False, True),
    ],
)
def test_live_sources_and_services_report_unless_told_otherwise(
    attention: Attention, live: bool, environment: dict[str, str], is_quiet: bool, reports: bool, tmp_path: Path
) -> None:
    watched = attendance(attention, live, environment, tmp_path, is_quiet)
    with watched.during(threading.Event()) as monitor:
        monitor.begin([], {})
    assert (tmp_path / "health.json").exists() == reports


def test_stages_have_half_of_the_units_watchdog_to_answer(tmp_path: Path) -> None:
    assert attendance(Attention(), True, SERVICE, tmp_path).monitor.allowance_s == 10
    assert attendance(Attention(), True, {}, tmp_path).monitor.allowance_s == ALLOWANCE_S


def test_no_thread_is_left_and_a_run_of_files_has_none(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with attendance(Attention(), False, {}, tmp_path).during(threading.Event()):
        assert set(threading.enumerate()) == before
    full = Attention(interval_s=1.0, prometheus=("127.0.0.1", 0), deadline_ms=100.0)
    with attendance(full, True, SERVICE, tmp_path).during(threading.Event()):
        assert {thread.name for thread in set(threading.enumerate()) - before} >= {"watchdog", "health", "prometheus"}
    assert not {"watchdog", "health", "prometheus"} & {thread.name for thread in threading.enumerate()}


def test_the_last_level_stops_the_run(tmp_path: Path) -> None:
    stop, watched = threading.Event(), attendance(Attention(), True, {}, tmp_path, is_quiet=True)
    with watched.during(stop):
        assert watched.degrader is not None and not watched.has_given_up
        watched.degrader.halt("nothing is left")
        assert stop.is_set() and watched.has_given_up
    assert watched.explain() == 3
