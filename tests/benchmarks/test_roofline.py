from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from benchmarks.graph_cost import GraphCost, Kernel
from benchmarks.prediction import predict
from benchmarks.roofline import main
from compress.targets import Target, read_targets

FAST = {"bandwidth_gb_s": 100.0, "peak_tops_int8": 20.0, "peak_tflops_fp16": 10.0, "peak_gflops_fp32": 1000.0}
PLAN = {"bandwidth_share": 0.5, "peak_share": 0.25, "kernel_us": 10.0}


def device(**changes: Any) -> Target:
    """100 GB/s; 20, 10 and 1 T operations a second; half and a quarter of them to count on."""
    return Target.model_validate({**read_targets()["jetson-orin"].model_dump(), **FAST, **PLAN, **changes})


def kernel(operations: dict[Any, int], moved: int) -> Kernel:
    return Kernel("k", ("Conv",), operations, moved // 2, moved // 4, moved - moved // 2 - moved // 4)


def test_times_by_hand() -> None:
    """20 G int8 in 1 ms against 0.4 ms of bytes; then 1 G fp32 in 1 ms against 3 ms of bytes."""
    kernels = (kernel({"int8": 20_000_000_000}, 40_000_000), kernel({"fp32": 1_000_000_000}, 300_000_000))
    found = predict(device(), Sensor.SAR, "int8", 4, GraphCost(kernels, 0, 0, 0))
    assert found.bandwidth_ms == pytest.approx(3.4) and found.arithmetic_ms == pytest.approx(2.0)
    assert found.floor_ms == pytest.approx(1.0 + 3.0) and found.bound == "bandwidth"
    assert found.planned_ms == pytest.approx(max(0.8, 4.0) + 0.01 + max(6.0, 4.0) + 0.01)
    assert found.record()["predicted_images_per_s"] == pytest.approx(4 / 10.02e-3)


def test_operations_of_several_precisions_in_a_kernel_take_turns() -> None:
    cost = GraphCost((kernel({"int8": 20_000_000_000, "fp16": 10_000_000_000, "fp32": 1_000_000_000}, 4),), 0, 0, 0)
    assert predict(device(), Sensor.RGB, "int8", 1, cost).arithmetic_ms == pytest.approx(3.0)
    slow = device(precisions=("fp32",))  # everything at 1 T operations a second
    assert predict(slow, Sensor.RGB, "int8", 1, cost).arithmetic_ms == pytest.approx(31.0)


@pytest.fixture(scope="module")
def demo(repository: Path) -> Path:
    return repository / "runtime" / "demo"


def test_the_demo_bundle_on_every_target(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--bundle", str(demo), "--out", str(tmp_path / "new" / "roofline")]) == 0
    text = (tmp_path / "new" / "roofline.json").read_text()
    record = json.loads(text)
    assert record["schema"] == "babelrs.roofline/1" and record["predicted"] is True
    assert str(tmp_path) not in text and str(demo.parents[1]) not in text
    targets = read_targets()
    batches = {(name, batch) for name, target in targets.items() for batch in {1, target.batch_profile[1]}}
    assert {(row["target"], row["batch"]) for row in record["rows"]} == batches and len(record["rows"]) == 3 * len(
        batches
    )
    for row in record["rows"]:
        # train's dry run of its configuration: 9.8 to 9.9 GFLOP, and 2.47 M float32 parameters without the other heads
        assert row["gflop_multiply_add"] / row["batch"] == pytest.approx(9.8, rel=0.02)
        assert row["mb_weights"] == pytest.approx(4 * 2.47, rel=0.02)
        assert row["mb_weights"] < row["mb_moved"] < row["mb_moved_unfused"]
        floors = row["predicted_bandwidth_floor_ms"], row["predicted_arithmetic_floor_ms"]
        assert max(floors) <= row["predicted_floor_ms"] <= sum(floors)
        assert row["predicted_ms"] > row["predicted_floor_ms"]
    times = {row["target"]: row["predicted_ms"] for row in record["rows"] if row["batch"] == 1}
    assert times["datacenter-gpu"] < times["jetson-thor"] < times["jetson-orin"] < times["jetson-orin-nano"]
    assert times["jetson-orin-nano"] < times["cpu-x86"] < times["cpu-arm"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Predicted, not measured: babelrs-demo, fp32")
    assert [line.split()[:3] for line in printed[3:]] == [
        [row["target"], row["sensor"], str(row["batch"])] for row in record["rows"]
    ]
    picture = cv2.imread(str(tmp_path / "new" / "roofline.png"))
    assert picture is not None and min(picture.shape[:2]) > 500 and picture.std() > 10


def test_targets_are_chosen_by_name_alias_and_a_file_of_one_s_own(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("fast-cpu: {based_on: cpu-x86, peak_gflops_fp32: 768, kernel_us: 0}\n")
    given = ["--bundle", str(demo), "--out", str(tmp_path / "r"), "--targets-file", str(tmp_path / "mine.yaml")]
    assert run_command(main, [*given, "--target", "cpu,cpu-x86", "fast-cpu"]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert [(row["target"], row["sensor"]) for row in rows] == [
        (target, sensor.value) for target in ("cpu-x86", "fast-cpu") for sensor in Sensor
    ]
    slow, fast = rows[0], rows[3]
    assert fast["predicted_arithmetic_floor_ms"] == pytest.approx(slow["predicted_arithmetic_floor_ms"] / 2)
    assert fast["predicted_bandwidth_floor_ms"] == slow["predicted_bandwidth_floor_ms"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--target", "jetson-orni"], "Did you mean 'jetson-orin'?"),
        (["--targets-file", "none.yaml"], "none.yaml"),
        (["--bundle", "nowhere"], "nowhere: no such bundle"),
        (["--targets", "rtx"], "targets"),
    ],
)
def test_wrong_input_writes_nothing(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert run_command(main, ["--bundle", str(demo), "--out", str(tmp_path / "r"), *given]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_damaged_graph_is_refused(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in demo.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    (bundle / "model.sar.onnx").write_bytes((demo / "model.sar.onnx").read_bytes()[:-100])
    assert run_command(main, ["--bundle", str(bundle), "--out", str(tmp_path / "r")]) == 2
    assert "model.sar.onnx: altered" in capsys.readouterr().err and not (tmp_path / "r.json").exists()
