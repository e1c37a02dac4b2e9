"""The cost of quantizing is that of the command, and a failed command is no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from babelrs.errors import BabelRSError, run_command
from benchmarks.quantization_cost import CostConfig, main, measure, missed


def test_limits_are_said_with_their_numbers() -> None:
    assert missed({"seconds": 299.0, "peak_bytes": 3.9e9}) == []
    assert missed({"seconds": 301.0, "peak_bytes": 4.1e9}) == ["301 s; 300", "4.10 GB; 4.0"]


def test_a_command_that_fails_gives_its_message(tmp_path: Path) -> None:
    config = CostConfig(checkpoint=tmp_path / "none", data=tmp_path)
    with pytest.raises(BabelRSError, match="ended with 2"):
        measure(config)
    out = tmp_path / "cost.json"
    given = ["--checkpoint", str(tmp_path / "none"), "--data", str(tmp_path), "--out", str(out)]
    assert run_command(main, given) == 2 and not out.exists()
