"""The reader of machine code, on short reports and listings written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from benchmarks import cuda_tools
from benchmarks.machine_code import (
    KernelCode,
    Resources,
    faults,
    kernel_of,
    main,
    overview,
    parse_accesses,
    parse_resources,
)

HALVES = "_ZN1a16aggregate_kernelINS_7Float16ES2_Lb1EEEvNS_3PE"
INTEGERS = "_ZN1a16aggregate_kernelIaaLb0EEEvNS_3PE"
REPORT = f"""\
ptxas info    : Compiling entry function '{HALVES}' for 'sm_90'
ptxas info    : Function properties for {HALVES}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
ptxas info    : Function properties for {INTEGERS}
    24 bytes stack frame, 16 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 400 bytes cmem[0]
"""
LISTING = f"""\
        Function : {HALVES}
        /*0000*/                   LDC.64 R2, c[0x0][0x2e8] ;          /* 0x01 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R4], [R2.64] ;  /* 0x02 */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R4], [R2.64] ;  /* 0x03 */
        /*0030*/                   LDG.E.CONSTANT R9, [R2.64] ;        /* 0x04 */
        /*0040*/                   LDS.128 R8, [R4] ;                  /* 0x05 */
        /*0050*/               @P1 STG.E.128 [R2.64], R8 ;             /* 0x06 */
        Function : {INTEGERS}
        /*0000*/                   STL [R1+0x4], R8 ;                  /* 0x01 */
        /*1ab0*/                   LDL.LU.64 R8, [R1+0x4] ;            /* 0x02 */
        /*1ac0*/                   LDG.E.U8 R9, [R2.64] ;              /* 0x03 */
        /*1ad0*/                   STG.E.U16 [R2.64], R8 ;             /* 0x04 */
        /*1ae0*/                   LD.E R8, [R2.64] ;                  /* 0x05 */
"""
CLEAN = KernelCode(
    "sm_90", "float16", "float16", True, Resources(128, 0, 0, 0), {"LDG.32": 9, "LDGSTS.128": 4, "STG.128": 2}
)


def test_the_assemblers_report_is_read() -> None:
    assert parse_resources(REPORT) == {HALVES: Resources(128, 0, 0, 0), INTEGERS: Resources(96, 24, 16, 12)}


def test_memory_instructions_are_counted_by_kind_and_bits() -> None:
    assert parse_accesses(LISTING) == {
        HALVES: {"LDG.32": 1, "LDGSTS.128": 2, "STG.128": 1},
        INTEGERS: {"LD.32": 1, "LDG.8": 1, "LDL.64": 1, "STG.16": 1, "STL.32": 1},
    }


@pytest.mark.parametrize(
    ("arguments", "kernel"),
    [
        ("fa", ("float32", "int8")),
        ("ff", ("float32", "float32")),
        ("NS_8BFloat16ES2_", ("bfloat16", "bfloat16")),
        ("NS_7Float16Ea", ("float16", "int8")),
        ("aNS_8BFloat16E", ("int8", "bfloat16")),
    ],
)
def test_a_mangled_name_says_types_and_stores(arguments: str, kernel: tuple[str, str]) -> None:
    assert kernel_of(f"_ZN1a16aggregate_kernelI{arguments}Lb1EEEv") == (*kernel, True)
    assert kernel_of(f"_ZN1a16aggregate_kernelI{arguments}Lb0EEEv") == (*kernel, False)


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(BabelRSError, match="_Z5otherv"):
        kernel_of("_Z5otherv")


INT8 = replace(CLEAN, in_type="int8", accesses={"LDGSTS.128": 1, "LDGSTS.64": 2, "STG.128": 1})
TURING = replace(CLEAN, architecture="sm_75", accesses={"LDG.32": 9, "LDG.128": 4, "STG.128": 2})


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (CLEAN, []),
        (INT8, []),
        (TURING, []),
        (replace(CLEAN, whole=False, accesses={"LDGSTS.128": 4, "STG.16": 2}), []),
        (replace(CLEAN, resources=Resources(128, 0, 8, 4)), ["spills 8 bytes, reloads 4"]),
        (replace(CLEAN, resources=Resources(128, 16, 0, 0)), ["stack frame of 16 bytes"]),
        (replace(CLEAN, accesses={**CLEAN.accesses, "LDL.64": 3}), ["3 local accesses (LDL)"]),
        (replace(CLEAN, accesses={**CLEAN.accesses, "STL.32": 1}), ["1 local accesses (STL)"]),
        (replace(CLEAN, accesses={**CLEAN.accesses, "LD.32": 1}), ["1 generic accesses (LD)"]),
        (replace(CLEAN, accesses={**CLEAN.accesses, "LDGSTS.64": 2}), ["4 x 128, 2 x 64 bits, expected [128]"]),
        (replace(CLEAN, accesses={"LDG.128": 4, "STG.128": 2}), ["loads taps by no bits"]),
        (replace(INT8, accesses={"LDGSTS.64": 2, "STG.128": 1}), ["loads taps by 2 x 64 bits"]),
        (replace(TURING, accesses={**TURING.accesses, "LDG.16": 1}), ["4 x 128, 1 x 16 bits"]),
        (replace(CLEAN, accesses={**CLEAN.accesses, "STG.64": 1}), ["stores levels by 2 x 128, 1 x 64 bits"]),
    ],
)
def test_spills_local_memory_and_small_pieces_are_faults(kernel: KernelCode, said: list[str]) -> None:
    found = faults(kernel)
    assert len(found) == len(said) and all(word in line for word, line in zip(said, found, strict=True))
    assert all(line.startswith(kernel.name) for line in found)


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of the toolkit's names that print the report and the listing."""
    for name, text in (("nvcc", REPORT), ("cuobjdump", LISTING)):
        (tmp_path / f"{name}.txt").write_text(f"{text}release 13.0, V13.0.88\n")
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path / name}.txt\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_the_command_writes_its_file_and_fails_where_a_kernel_spills(toolkit: Path) -> None:
    with pytest.raises(BabelRSError, match="sm_87 int8 to int8, staged: spills 16 bytes") as raised:
        main(["--architectures", "sm_87", "--out", str(toolkit / "new" / "code")])
    assert raised.value.exit_code == 1
    record = json.loads((toolkit / "new" / "code.json").read_text())
    assert [kernel["in_type"] for kernel in record["kernels"]] == ["float16", "int8"] and record["nvcc"] == "13.0.88"
    assert "| sm_87 | 2 | 96 to 128 | 52 | 3 | 2 x 128 |" in overview(record["kernels"])


def test_a_missing_tool_and_a_failing_one_are_named(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toolkit / "nvcc").write_text("#!/bin/sh\necho \"Unsupported gpu architecture 'sm_12'\"\nexit 2\n")
    with pytest.raises(BabelRSError, match=r"nvcc failed \(2\):\nUnsupported gpu architecture 'sm_12'"):
        main(["--architectures", "sm_12", "--out", str(toolkit / "code")])
    monkeypatch.setattr(cuda_tools.shutil, "which", lambda *_, **__: None)
    with pytest.raises(BabelRSError, match="nvcc was not found"):
        main(["--out", str(toolkit / "code")])


def test_the_document_shows_the_figures_of_the_result_file(repository: Path) -> None:
    record = json.loads((repository / "benchmarks" / "results" / "machine-code.json").read_text())
    document = (repository / "docs" / "layerwise-aggregation.md").read_text()
    assert record["faults"] == [] and len(record["kernels"]) == 7 * 20
    assert overview(record["kernels"]) in document
    assert f"nvcc {record['nvcc']}" in document
