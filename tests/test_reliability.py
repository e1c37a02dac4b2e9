"""Every promise of docs/reliability.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROMISE = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
FAULT = re.compile(r"^\| ([^|]+) \| [^|]+ \| (none|\d+(?:; \d+)?) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def promises(repository: Path) -> dict[str, str]:
    found = PROMISE.findall((repository / "docs" / "reliability.md").read_text())
    assert len(found) == len({number for number, _, _ in found}), "a number is there twice"
    return {number: verified for number, _, verified in found}


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def assert_tests_exist(repository: Path, what: str, verified: str) -> None:
    named = TEST.findall(verified)
    assert named, f"{what} names no test"
    assert verified.count("`") == 2 * len(named), f"{what} names something that is no test: {verified}"
    for file, function in named:
        assert (repository / file).is_file(), f"{what}: {file} is missing"
        assert not function or function in functions(repository / file), f"{what}: {file} has no {function}"


def test_every_promise_names_tests_that_exist(repository: Path) -> None:
    found = promises(repository)
    assert len(found) > 30
    for number, verified in found.items():
        assert_tests_exist(repository, number, verified)


def test_every_fault_has_an_action_an_exit_code_and_tests_that_exist(repository: Path) -> None:
    section = (repository / "docs" / "reliability.md").read_text().partition("## Faults, ")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 20
    for row in rows:
        found = FAULT.match(row)
        assert found is not None, f"no row of the matrix: {row}"
        assert_tests_exist(repository, found[1], found[3])


@pytest.mark.parametrize("kind", "TICLH")
def test_promises_are_numbered_without_a_gap(repository: Path, kind: str) -> None:
    numbers = sorted(int(number[1:]) for number in promises(repository) if number[0] == kind)
    assert numbers == list(range(1, len(numbers) + 1))
