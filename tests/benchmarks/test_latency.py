from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from babelrs.errors import run_command
from benchmarks.latency import format_table, main


def write_graph(path: Path, kind: int, shape: list[int | str]) -> Path:
    node = helper.make_node("Cast", ["pixels"], ["out"], to=TensorProto.FLOAT)
    inputs = [helper.make_tensor_value_info("pixels", kind, shape)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_every_graph_is_timed_in_every_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bytes_in = write_graph(tmp_path / "a.onnx", TensorProto.UINT8, ["N", 8, 8, 3])
    floats_in = write_graph(tmp_path / "b.onnx", TensorProto.FLOAT, [1, 3, 8, 8])
    given = ["--graphs", f"a={bytes_in}", f"b={floats_in}", "--rounds", "2", "--runs", "3", "--threads", "1"]
    assert run_command(main, [*given, "--out", str(tmp_path / "out.json")]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert {name: len(values) for name, values in record["rounds_ms"].items()} == {"a": 2, "b": 2}
    assert all(value > 0 for value in record["median_ms"].values()) and str(tmp_path) not in json.dumps(record)
    assert "median ms" in capsys.readouterr().out


def test_a_missing_graph_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--graphs", f"a={tmp_path}/none.onnx", "--out", str(tmp_path / "out.json")]) == 2
    assert "none.onnx" in capsys.readouterr().err and not (tmp_path / "out.json").exists()


def test_the_table_has_the_median_and_the_range() -> None:
    assert format_table({"a": [3.0, 1.0, 2.0]}).splitlines()[1].split() == ["a", "2.0", "1.0", "3.0"]
