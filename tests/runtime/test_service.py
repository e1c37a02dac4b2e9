"""The systemd unit: systemd takes it, and what it runs exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from runtime.arguments import _parser

UNIT = Path(__file__).resolve().parents[2] / "runtime" / "service" / "babelrs.service"


def settings() -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name  # its commands are not installed here: any that can be run will do
    copy.write_text(re.sub(r"/opt/babelrs/bin/babelrs-\w+", "/bin/true", UNIT.read_text()))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    copy.write_text(copy.read_text().replace("WatchdogSec=60", "WatchdogSec=often"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert "Failed to parse sec value" in done.stderr  # it looks


def test_the_unit_restarts_whatever_ended_with_a_fault() -> None:
    """A full disk is exit code 2 like a wrong command line, and only one of them mends itself."""
    unit = settings()
    assert unit["Type"] == ["notify"] and unit["Restart"] == ["on-failure"] and unit["StartLimitIntervalSec"] == ["0"]
    assert "RestartPreventExitStatus" not in unit and int(unit["WatchdogSec"][0]) >= 30


def test_the_unit_runs_commands_and_options_that_exist() -> None:
    unit = settings()
    (command,) = unit["ExecStart"]
    known = {option for action in _parser()._actions for option in action.option_strings}
    assert set(re.findall(r"--[a-z-]+", command)) <= known
    scripts = (UNIT.parents[2] / "pyproject.toml").read_text()
    for line in [command, *unit["ExecStartPre"]]:
        (name,) = re.findall(r"/opt/babelrs/bin/(babelrs-\w+)", line)
        assert f"{name} = " in scripts
    assert [line.startswith("-") for line in unit["ExecStartPre"]] == [False, True]


def test_what_the_unit_may_write_to_is_what_it_writes_to() -> None:
    unit = settings()
    (paths,) = unit["ReadWritePaths"]
    assert unit["ProtectSystem"] == ["strict"] and "--out /var/lib/babelrs/out" in unit["ExecStart"][0]
    assert "/var/lib/babelrs" in paths.split() and "BABELRS_CACHE=/var/cache/babelrs" in unit["Environment"]
    assert "/var/cache/babelrs" in paths.split()
