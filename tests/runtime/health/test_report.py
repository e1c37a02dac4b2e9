from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from runtime.degrading.degrader import Degrader
from runtime.health.monitor import Monitor
from runtime.health.report import Reporter
from runtime.health.sampler import Sampler
from tests.runtime.health.device_tree import ORIN, write_tree
from tests.runtime.health.test_device import latest_where

PATIENT_S = 30.0


def test_reports_come_at_the_interval_as_a_line_and_a_whole_file(tmp_path: Path) -> None:
    lines: list[str] = []
    third = threading.Event()

    def take(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            third.set()

    monitor = Monitor()
    reporter = Reporter(monitor, 0.05, tmp_path, take)
    reporter.start()
    monitor.begin([], {})
    assert third.wait(PATIENT_S)
    monitor.end()
    reporter.close()
    reports = [json.loads(line) for line in lines]
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    assert reports[0]["state"] == "running" and reports[-1]["state"] == "ended"
    assert json.loads((tmp_path / "health.json").read_text()) == reports[-1]
    assert list(tmp_path.iterdir()) == [tmp_path / "health.json"]


def test_a_run_that_has_not_begun_is_not_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    reporter = Reporter(Monitor(), 0.01, tmp_path, lines.append)
    reporter.start()
    reporter.close()
    assert lines == [] and list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_logged_once_and_the_line_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []
    reporter = Reporter(Monitor(), 1, tmp_path / "gone", lines.append)
    reporter.report()
    reporter.report()
    assert len(lines) == 2 and [record.message[:17] for record in caplog.records] == ["no health report:"]
    (tmp_path / "gone").mkdir()
    reporter.report()
    assert (tmp_path / "gone" / "health.json").is_file()


def test_a_defect_of_the_report_leaves_a_stage_that_does_not_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = threading.Event()

    def fail(line: str) -> None:
        said.set()
        raise RuntimeError("a defect")

    monitor = Monitor(allowance_s=0.0)
    reporter = Reporter(monitor, 0.01, tmp_path, fail)
    monitor.begin([], {})
    reporter.start()
    assert said.wait(PATIENT_S)
    assert "reporting" in monitor.late()
    with pytest.raises(RuntimeError):
        reporter.close()
    assert "health reports have ended" in caplog.text


def test_reports_go_on_once_there_is_memory_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    is_there, told, reported = threading.Event(), threading.Event(), threading.Event()

    def say(line: str) -> None:
        told.set()
        if not is_there.is_set():
            raise MemoryError
        reported.set()

    monitor = Monitor()
    reporter = Reporter(monitor, 0.01, tmp_path, say)
    monitor.begin([], {})
    reporter.start()
    assert told.wait(PATIENT_S)
    is_there.set()
    assert reported.wait(PATIENT_S)
    reporter.close()
    assert "no health report: memory ran out" in caplog.text and "have ended" not in caplog.text


def test_a_hot_device_reaches_the_degrader(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {**ORIN, "sys/class/thermal/thermal_zone3/temp": "103000\n"})
    seconds, sampler = [0.0], Sampler(root)
    latest_where(sampler, lambda state: True)
    degrader = Degrader(lambda: seconds[0])
    monitor = Monitor(degrader, sampler)
    monitor.begin([], {})
    reporter = Reporter(monitor, None, tmp_path)
    for second in range(5):
        seconds[0] = float(second)
        reporter.observe()
    assert degrader.level.stops and degrader.report.reason == "tj-thermal is at 103.0 C, critical is 104.5 C"
