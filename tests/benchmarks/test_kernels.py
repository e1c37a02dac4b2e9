"""The byte counts of the aggregation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.kernels import Workload, byte_table, main


def test_the_floor_is_every_tap_and_level_and_parameter_once() -> None:
    workload = Workload(batch=2, channels=8, taps=3, levels=2, grid=5, dtype="float16")
    tap = torch.zeros((2, 25, 8), dtype=torch.float16)
    parameters = [torch.zeros(3, 8), torch.zeros(3, 8), torch.zeros(2, 3)]
    assert workload.floor_bytes == 5 * tap.nbytes + sum(tensor.nbytes for tensor in parameters)


def test_without_a_gpu_the_command_writes_counts_marked_as_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--grids", "5", "--levels", "1", "--out", str(tmp_path / "kernels")]) == 0
    record = json.loads((tmp_path / "kernels.json").read_text())
    assert record["predicted"] is True and record["device"] is None
    assert [(row["grid"], row["levels"]) for row in record["workloads"]] == [(5, 1)]


def test_the_document_shows_the_counts_of_the_result_file(repository: Path) -> None:
    record = json.loads((repository / "benchmarks" / "results" / "kernels.json").read_text())
    document = (repository / "docs" / "layerwise-aggregation.md").read_text()
    assert byte_table(record["workloads"]) in document
    assert record["predicted"] == ("Predicted: counted on paper" in document)
