from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.targets import BUILT_IN, find_target, read_targets


def faults_of(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(BabelRSError) as raised:
        read_targets(file)
    assert str(file) in str(raised.value)
    return [line[4:] for line in str(raised.value).splitlines() if line.startswith("  - ")]


def test_the_table_has_every_promised_device_and_its_figures_are_consistent() -> None:
    targets = read_targets()
    names = {"jetson-orin", "jetson-orin-nano", "jetson-thor", "rtx", "datacenter-gpu", "cpu-x86", "cpu-arm"}
    assert set(targets) == names
    for name, target in targets.items():
        assert target.name == name
        assert (target.kind == "onnxruntime") == name.startswith("cpu")
        assert target.peak("fp32") <= target.peak("fp16") <= target.peak("int8"), name
    # the compute capabilities of Orin, Thor and Hopper
    found = {name: target.compute_capability for name, target in targets.items()}
    assert (found["jetson-orin"], found["jetson-thor"], found["datacenter-gpu"]) == ("8.7", "11.0", "9.0")


def test_every_figure_says_where_it_comes_from() -> None:
    lines = [line.strip() for line in BUILT_IN.read_text().splitlines()]
    figures = [line for line in lines if line.startswith(("bandwidth_gb_s", "peak_t", "peak_g"))]
    assert len(figures) == 26 and all("#" in line for line in figures)


def test_a_precision_the_device_lacks_runs_at_the_next_wider_one() -> None:
    cpu, orin = read_targets()["cpu-x86"], read_targets()["jetson-orin"]
    assert (cpu.peak("int8"), cpu.peak("fp16"), cpu.peak("fp32")) == (0.768e12, 384e9, 384e9)
    assert (orin.peak("int8"), orin.peak("fp16"), orin.peak("fp32")) == (85e12, 42.5e12, 5.3e12)


def test_aliases_find_their_target_and_a_typo_is_told_the_nearest_name() -> None:
    targets = read_targets()
    assert find_target("cpu", targets) is targets["cpu-x86"] is find_target("cpu-x86", targets)
    with pytest.raises(BabelRSError, match=r"'jetson-orni'.*Did you mean 'jetson-orin'\?.*cpu-arm, cpu-x86, data"):
        find_target("jetson-orni", targets)


def test_targets_cannot_be_changed_after_reading() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_targets()["rtx"].memory_gib = 18  # type: ignore[misc]


def test_a_user_s_entry_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "drone: {based_on: orin-slow, input_px: {rgb: [640, 800]}}\n"
        "orin-slow: {based_on: jetson-orin, bandwidth_gb_s: 100}\n"
        "rtx: {based_on: rtx, memory_gib: 16}\n"
        "old-pc: {based_on: cpu, reduce_range: false}\n"
    )
    built_in, targets = read_targets(), read_targets(file)
    orin = built_in["jetson-orin"].model_dump()
    assert targets["orin-slow"].model_dump() == {**orin, "name": "orin-slow", "bandwidth_gb_s": 100}
    changed = {"name": "drone", "bandwidth_gb_s": 100, "input_px": {Sensor.RGB: (640, 800)}}
    assert targets["drone"].model_dump() == {**orin, **changed}
    assert targets["rtx"].memory_gib == 16 and targets["rtx"].bandwidth_gb_s == built_in["rtx"].bandwidth_gb_s
    assert not targets["old-pc"].reduce_range and find_target("cpu", targets).name == "cpu-x86"
    assert targets["jetson-thor"] == built_in["jetson-thor"]


def test_a_complete_entry_needs_no_base(tmp_path: Path) -> None:
    lines = BUILT_IN.read_text().splitlines()
    start = lines.index("cpu-arm:")
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(["my-board:", *lines[start + 1 :]]))
    targets = read_targets(file)
    assert targets["my-board"].model_dump(exclude={"name"}) == targets["cpu-arm"].model_dump(exclude={"name"})


WRONG = """
typo: {based_on: jetson-orin, bandwith_gb_s: 3, peak_share: 1.5, memory_gib: "8", batch_profile: [4, 1, 2]}
versions: {based_on: jetson-orin, tensorrt: [10.3, 11.4]}
order: {based_on: jetson-orin, tensorrt: ["10.13", "10.3"]}
lost: {based_on: jetson-orn, bandwidth_gb_s: -1}
round: {based_on: trip}
trip: {based_on: round}
little: {kind: onnxruntime, precisions: [int4], qdq: uint8_activations, tensorrt: ["10.3", "11.4"]}
mixed: {based_on: cpu-x86, kind: tensorrt, precisions: [fp16], input_px: {rbg: [640, 640]}}
named: {based_on: rtx, name: other, reduce_range: true}
flat: 5
list: {based_on: [rtx]}
"""


def test_every_fault_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    faults = faults_of(tmp_path / "mine.yaml", WRONG)
    expected = [
        "typo.bandwith_gb_s: unknown field. Did you mean 'bandwidth_gb_s'?",
        "typo.peak_share: Input should be less than or equal to 1 (got 1.5)",
        "typo.memory_gib: Input should be a valid number (got '8')",
        "typo.batch_profile: least, best and most must not fall (got [4, 1, 2])",
        "versions.tensorrt.0: Input should be a valid string in quotes (got 10.3)",
        "versions.tensorrt.1: Input should be a valid string in quotes (got 11.4)",
        "order.tensorrt: the least version comes first (got ['10.13', '10.3'])",
        "lost.based_on: unknown target 'jetson-orn'. Did you mean 'jetson-orin'?",
        "lost.bandwidth_gb_s: Input should be greater than 0 (got -1)",
        "round.based_on: goes round in a circle (round -> trip -> round)",
        "trip.based_on: goes round in a circle (trip -> round -> trip)",
        "little.precisions.0: Input should be 'fp32', 'fp16' or 'int8' (got 'int4')",
        "little.tensorrt: onnxruntime targets have none (got ['10.3', '11.4'])",
        *(f"little.{field}: missing" for field in ("description", "memory_gib", "bandwidth_gb_s", "peak_gflops_fp32")),
        *(f"little.{field}: missing" for field in ("bandwidth_share", "peak_share", "kernel_us")),
        "little.batch_profile: missing",
        "mixed.compute_capability: tensorrt targets need it (got None)",
        "mixed.tensorrt: tensorrt targets need it (got None)",
        "mixed.qdq: TensorRT takes symmetric_int8 (got 'uint8_activations')",
        "mixed.peak_tflops_fp16: needed, since precisions has fp16 (got None)",
        "mixed.input_px.rbg.[key]: Input should be 'rgb', 'sar' or 'ir' (got 'rbg')",
        "named.name: unknown field; the entry's key is the name",
        "named.reduce_range: only with qdq: uint8_activations (got True)",
        "flat: 5 is not a mapping of fields under a name",
        "list.based_on: ['rtx'] is not a name",
    ]
    assert sorted(faults) == sorted(expected)


@pytest.mark.parametrize("text", ["- a list", "{", "\x00"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(BabelRSError, match=r"mine\.yaml"):
        read_targets(file)
    with pytest.raises(BabelRSError, match=r"none\.yaml"):
        read_targets(tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing yet\n")
    assert read_targets(tmp_path / "mine.yaml") == read_targets()
