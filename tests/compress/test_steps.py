from __future__ import annotations

from pathlib import Path

import pytest

from compress.steps import Steps, forget


def count(steps: Steps, name: str, calls: list[str], value: float = 1.5) -> float:
    def compute() -> float:
        calls.append(name)
        return value

    return steps.do(name, compute, to=str, back=float)


def test_finished_steps_are_not_computed_again(tmp_path: Path) -> None:
    calls: list[str] = []
    steps = Steps(tmp_path / "s", {"a": 1})
    assert count(steps, "x", calls) == 1.5 and count(steps, "x", calls, 9.0) == 1.5
    again = Steps(tmp_path / "s", {"a": 1})
    assert count(again, "x", calls, 9.0) == 1.5 and count(again, "y", calls, 2.0) == 2.0
    assert calls == ["x", "y"]


def test_other_inputs_start_anew(tmp_path: Path) -> None:
    calls: list[str] = []
    count(Steps(tmp_path / "s", {"a": 1}), "x", calls)
    assert count(Steps(tmp_path / "s", {"a": 2}), "x", calls, 4.0) == 4.0
    assert calls == ["x", "x"]


@pytest.mark.parametrize("content", ["", '{"inputs": "', "[]", "null"])
def test_a_damaged_file_is_not_believed(tmp_path: Path, content: str) -> None:
    calls: list[str] = []
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "steps.json").write_text(content)
    assert count(Steps(folder, {}), "x", calls) == 1.5 and calls == ["x"]


def test_a_step_that_fails_leaves_the_others(tmp_path: Path) -> None:
    calls: list[str] = []
    steps = Steps(tmp_path / "s", {})
    count(steps, "x", calls)

    def fail() -> float:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        steps.do("y", fail, to=str, back=float)
    assert count(Steps(tmp_path / "s", {}), "x", calls, 9.0) == 1.5


def test_forgetting_removes_the_folder(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "s", {})
    count(steps, "x", [])
    forget(tmp_path / "s")
    assert not (tmp_path / "s").exists()
