"""``python -m benchmarks.machine_code``: what the CUDA compiler made of the layerwise aggregation, kernel by kernel.

Compiles ``cmake_ext/cuda/layerwise.cu`` for each architecture, as the build does; needs nvcc and cuobjdump, no GPU.
Reads registers, stack and spills from the assembler's report, and counts the memory instructions of the machine code.
Writes a table and ``OUT.json``; exits with 1 where a kernel uses local memory, or moves taps or levels in small pieces.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import BabelRSError, LimitMissedError, run_command
from benchmarks.cuda_tools import SOURCES, find_tool, output_of, tool_version
from train.cli import load_config

FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-cubin", "-Xptxas=-v")
TYPES = {"f": "float32", "a": "int8", "7Float16": "float16", "8BFloat16": "bfloat16"}
PARAMETER_BITS = 32  # gamma, beta and weights are float32, at any multiple of four bytes
FIRST_ASYNCHRONOUS = 80  # from sm_80 on taps reach shared memory by LDGSTS, before by LDG

_MANGLED = re.compile(r"aggregate_kernelI(f|a|NS_(?P<first>\w+?)E)(f|a|NS_(?P<second>\w+?)E|S\w*_)Lb([01])E")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?(LDGSTS|LDG|STG|LDL|STL|LD|ST)((?:\.\w+)*)\s", re.M)


class MachineCodeConfig(BaseModel):
    """Read the machine code of the layerwise aggregation; needs nvcc and cuobjdump, no GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path = Field(Path("benchmarks/results/machine-code"), description="results go to OUT.json")
    architectures: tuple[Annotated[str, Field(pattern=r"^sm_\d+$")], ...] = Field(
        ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110"), min_length=1, description="to compile for"
    )


@dataclass(frozen=True)
class Resources:
    """What the assembler says of one kernel."""

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True)
class KernelCode:
    """One kernel on one architecture; ``whole`` stores 16 bytes a lane, otherwise pieces through shared memory.

    Attributes:
        accesses: Instructions by kind and bits, such as ``LDGSTS.128``: LDGSTS from global to shared memory, LDG and
            STG global, LDL and STL local, LD and ST of an address whose memory is not known.
    """

    architecture: str
    in_type: str
    out_type: str
    whole: bool
    resources: Resources
    accesses: dict[str, int]

    @property
    def name(self) -> str:
        """Short label."""
        return f"{self.architecture} {self.in_type} to {self.out_type}, {'whole' if self.whole else 'staged'}"

    @property
    def tap_loads(self) -> dict[int, int]:
        """Loads of taps by bits. Before sm_80 they are told from parameters by being wider or narrower."""
        if int(self.architecture[3:]) >= FIRST_ASYNCHRONOUS:
            return _by_bits(self.accesses, "LDGSTS")
        loads = _by_bits(self.accesses, "LDG")
        return {bits: count for bits, count in loads.items() if bits != PARAMETER_BITS}

    @property
    def stores(self) -> dict[int, int]:
        """Stores of levels by bits."""
        return _by_bits(self.accesses, "STG")


def _by_bits(accesses: dict[str, int], kind: str) -> dict[int, int]:
    found = {int(name.split(".")[1]): count for name, count in accesses.items() if name.split(".")[0] == kind}
    return dict(sorted(found.items(), reverse=True))


def kernel_of(mangled: str) -> tuple[str, str, bool]:
    """Types in and out, and whether it is a whole kernel, from a kernel's mangled name.

    Raises:
        BabelRSError: The name is no aggregation kernel's.
    """
    match = _MANGLED.search(mangled)
    if match is None:
        raise BabelRSError(f"{mangled} is no kernel of the aggregation.", "Let benchmarks.machine_code know its name.")
    first = TYPES[match["first"] or match[1]]
    # A type that occurs again is abbreviated: S0_, S1_, ...
    second = first if match[3].startswith("S") else TYPES[match["second"] or match[3]]
    return first, second, match[5] == "1"


def parse_resources(report: str) -> dict[str, Resources]:
    """Resources by mangled name, from what ``nvcc -Xptxas=-v`` prints."""
    found = {}
    for part in report.split("Function properties for ")[1:]:
        numbers = [re.search(rf"(\d+) bytes {kind}", part) for kind in ("stack frame", "spill stores", "spill loads")]
        registers = re.search(r"Used (\d+) registers", part)
        if registers is None or None in numbers:
            raise BabelRSError(f"The assembler's report cannot be read: {part[:300]!r}.", "Use CUDA 11.4 to 13.")
        stack, stores, loads = (int(number[1]) for number in numbers if number is not None)
        found[part.split(maxsplit=1)[0]] = Resources(int(registers[1]), stack, stores, loads)
    return found


def parse_accesses(listing: str) -> dict[str, dict[str, int]]:
    """Counts of memory instructions by mangled name, from ``cuobjdump -sass``."""
    found = {}
    for part in listing.split("Function : ")[1:]:
        counts = Counter(f"{kind}.{_bits(modifiers)}" for kind, modifiers in _INSTRUCTION.findall(part))
        found[part.split(maxsplit=1)[0]] = dict(sorted(counts.items()))
    return found


def _bits(modifiers: str) -> int:
    """Bits an instruction moves: ``.E.128`` 128, ``.E.U8`` 8, ``.E`` 32."""
    for modifier in modifiers.split("."):
        if number := re.fullmatch(r"[US]?(8|16|64|128|256)", modifier):
            return int(number[1])
    return 32


def faults(kernel: KernelCode) -> list[str]:
    """What a kernel should not do, in words."""
    resources = kernel.resources
    found = []
    if resources.spill_store_bytes or resources.spill_load_bytes:
        found.append(f"spills {resources.spill_store_bytes} bytes, reloads {resources.spill_load_bytes}")
    if resources.stack_bytes:
        found.append(f"has a stack frame of {resources.stack_bytes} bytes")
    for kind, meaning in (("LDL", "local"), ("STL", "local"), ("LD", "generic"), ("ST", "generic")):
        if count := sum(_by_bits(kernel.accesses, kind).values()):
            found.append(f"has {count} {meaning} accesses ({kind})")
    # int8 rows of an odd multiple of eight channels begin at multiples of eight bytes: a second path copies 64 bits
    allowed = {128, 64} if kernel.in_type == "int8" else {128}
    if 128 not in kernel.tap_loads or set(kernel.tap_loads) - allowed:
        found.append(f"loads taps by {_counts(kernel.tap_loads)} bits, expected {sorted(allowed)}")
    if kernel.whole and set(kernel.stores) != {128}:
        found.append(f"stores levels by {_counts(kernel.stores)} bits, expected 128")
    return [f"{kernel.name}: {fault}" for fault in found]


def _counts(by_bits: dict[int, int]) -> str:
    return ", ".join(f"{count} x {bits}" for bits, count in by_bits.items()) or "no"


def compile_for(architecture: str, folder: Path) -> list[KernelCode]:
    """Every kernel as compiled for one architecture; files go to ``folder``.

    Raises:
        BabelRSError: A tool is missing or fails, or nvcc does not know the architecture.
    """
    binary = folder / f"{architecture}.cubin"
    source = SOURCES / "cuda" / "layerwise.cu"
    command = [find_tool("nvcc"), *FLAGS, f"-arch={architecture}", "-I", str(SOURCES / "include")]
    resources = parse_resources(output_of([*command, "-o", str(binary), str(source)]))
    accesses = parse_accesses(output_of([find_tool("cuobjdump"), "-sass", str(binary)]))
    if resources.keys() != accesses.keys() or not resources:
        raise BabelRSError(
            f"{architecture}: nvcc reports {len(resources)} kernels, cuobjdump lists {len(accesses)}.",
            "Use both of one CUDA toolkit.",
        )
    kernels = [KernelCode(architecture, *kernel_of(name), resources[name], accesses[name]) for name in resources]
    return sorted(kernels, key=lambda kernel: (kernel.in_type, kernel.out_type, kernel.whole))


def table(kernels: Sequence[KernelCode]) -> str:
    """A line a kernel."""
    lines = [
        f"{'arch':<7}{'in':<10}{'out':<10}{'stores':<8}{'registers':>9}{'stack':>6}{'spills':>7}{'local':>6}  loads"
    ]
    for kernel in kernels:
        resources = kernel.resources
        local = sum(count for name, count in kernel.accesses.items() if name.split(".")[0] in ("LDL", "STL"))
        lines.append(
            f"{kernel.architecture:<7}{kernel.in_type:<10}{kernel.out_type:<10}"
            f"{'whole' if kernel.whole else 'staged':<8}{resources.registers:>9}{resources.stack_bytes:>6}"
            f"{resources.spill_store_bytes + resources.spill_load_bytes:>7}{local:>6}"
            f"  taps {_counts(kernel.tap_loads)}; stores {_counts(kernel.stores)}"
        )
    return "\n".join(lines)


def overview(kernels: Sequence[dict[str, Any]]) -> str:
    """A Markdown line an architecture, from the records of ``OUT.json``."""
    lines = [
        "| | kernels | registers | stack, spills: bytes | local, generic accesses | tap loads, bits | stores, bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for architecture in dict.fromkeys(record["architecture"] for record in kernels):
        own = [_restored(record) for record in kernels if record["architecture"] == architecture]
        registers = [kernel.resources.registers for kernel in own]
        memory = sum(sum(asdict(kernel.resources).values()) - kernel.resources.registers for kernel in own)
        local = sum(
            count
            for kernel in own
            for name, count in kernel.accesses.items()
            if name.split(".")[0] in ("LDL", "STL", "LD", "ST")
        )
        row = [architecture, str(len(own)), f"{min(registers)} to {max(registers)}", str(memory), str(local)]
        row += [_counts(_summed([kernel.tap_loads for kernel in own]))]
        row += [_counts(_summed([kernel.stores for kernel in own]))]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _restored(record: dict[str, Any]) -> KernelCode:
    return KernelCode(**{**record, "resources": Resources(**record["resources"])})


def _summed(counts: Sequence[dict[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for by_bits in counts:
        total.update(by_bits)
    return dict(sorted(total.items(), reverse=True))


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(MachineCodeConfig, arguments)
    with tempfile.TemporaryDirectory() as folder:
        kernels = [kernel for name in config.architectures for kernel in compile_for(name, Path(folder))]
    found = [fault for kernel in kernels for fault in faults(kernel)]
    result: dict[str, Any] = {
        "schema": "babelrs.machine-code/1",
        "nvcc": tool_version("nvcc"),
        "cuobjdump": tool_version("cuobjdump"),
        "flags": FLAGS,
        "kernels": [asdict(kernel) for kernel in kernels],
        "faults": found,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"{table(kernels)}\n\n{overview(result['kernels'])}\n")
    if found:
        raise LimitMissedError("The machine code is not as it should be:\n" + "\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
