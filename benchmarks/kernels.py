"""``python -m benchmarks.kernels``: the fused layerwise aggregation against what memory allows.

On a GPU: time and bandwidth of the fused operator, eager PyTorch and ``torch.compile``, beside a device-to-device copy,
with cold and warm caches apart. Without one: the byte counts on paper, marked as predicted. Writes a table, a JSON and
a plot.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from babelrs.aggregate import has_cuda
from babelrs.errors import BabelRSError, LimitMissedError, run_command
from train.cli import load_config
from train.models.aggregate import EPSILON, layerwise_aggregate

# Orin Nano Super, Orin NX, AGX Orin, Thor, H200 (measured): device memory in GB/s
MEMORY_GB_PER_S = {"Orin Nano": 102, "AGX Orin": 205, "Thor": 273, "H200": 4300}
TARGETS = {"of_copy": 0.85, "over_eager": 3.0, "over_compile": 1.3}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


class KernelsConfig(BaseModel):
    """Measure the layerwise aggregation; the defaults are InternViT-300M at 800 px, batch 16, S = 4."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path = Field(Path("benchmarks/results/kernels"), description="results go to OUT.json and OUT.png")
    batch: int = Field(16, ge=1, description="images")
    channels: int = Field(1024, ge=8, multiple_of=8, description="C")
    taps: int = Field(4, ge=1, le=8, description="S")
    levels: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field((1, 4), description="each P to measure")
    grids: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (57, 56, 50), description="each side of the square token map: patches of 14 and 16 px"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float16", description="of taps and levels")
    repeats: int = Field(50, ge=3, description="timed runs; the median counts")
    check: bool = Field(False, description="exit with 1 where a target is missed")


@dataclass(frozen=True)
class Workload:
    """Shape of one measurement."""

    batch: int
    channels: int
    taps: int
    levels: int
    grid: int
    dtype: str

    @property
    def map_bytes(self) -> int:
        """Bytes of one tap without its prefix, or of one level."""
        return self.batch * self.grid**2 * self.channels * (4 if self.dtype == "float32" else 2)

    @property
    def floor_bytes(self) -> int:
        """Every tap read once, every level written once, the parameters once."""
        return (self.taps + self.levels) * self.map_bytes + 4 * self.taps * (2 * self.channels + self.levels)

    @property
    def eager_bytes(self) -> int:
        """Normalise (read, write), stack (read, write), mix (read), per tap, and the levels: at least."""
        return (5 * self.taps + self.levels) * self.map_bytes

    @property
    def name(self) -> str:
        """Short label."""
        return f"{self.grid}x{self.grid} P={self.levels}"


def paper(workload: Workload) -> dict[str, Any]:
    """Bytes and, for known memories, the time below which no kernel can be."""
    floors = {name: workload.floor_bytes / rate / 1e6 for name, rate in MEMORY_GB_PER_S.items()}
    return {
        **asdict(workload),
        "floor_bytes": workload.floor_bytes,
        "eager_bytes": workload.eager_bytes,
        "floor_ms": {name: round(value, 3) for name, value in floors.items()},
    }


def draw(workload: Workload, generator: torch.Generator) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Random taps with one prefix token, gamma, beta and weights on the GPU."""

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    size = (workload.batch, 1 + workload.grid**2, workload.channels)
    taps = [normal(*size).to(getattr(torch, workload.dtype)) for _ in range(workload.taps)]
    affine = (workload.taps, workload.channels)
    return taps, 1 + 0.1 * normal(*affine), 0.1 * normal(*affine), normal(workload.levels, workload.taps)


def median_ms(run: Callable[[], object], repeats: int, between: Callable[[], object] | None) -> float:
    """Median time by events; ``between`` runs untimed before each repeat."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        if between is not None:
            between()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def implementations(workload: Workload, generator: torch.Generator) -> dict[str, Callable[[], Any]]:
    """The fused operator, eager and compiled PyTorch on the same inputs, and a copy of as many bytes."""
    taps, gamma, beta, weights = draw(workload, generator)
    cast = [value.to(taps[0].dtype) for value in (gamma, beta, weights)]
    compiled = torch.compile(layerwise_aggregate, dynamic=False)
    source = torch.empty(workload.floor_bytes // 2, dtype=torch.uint8, device="cuda").random_()
    target, side = torch.empty_like(source), workload.grid
    fused = torch.ops.babelrs.layerwise_aggregate
    return {
        "copy": lambda: target.copy_(source),
        "fused": lambda: fused(taps, gamma, beta, weights, 1, side, side, EPSILON),
        "eager": lambda: layerwise_aggregate(taps, cast[0], cast[1], cast[2], 1, (side, side)),
        "compile": lambda: compiled(taps, cast[0], cast[1], cast[2], 1, (side, side)),
        "exact": lambda: layerwise_aggregate(
            [tap[:1].double() for tap in taps], gamma.double(), beta.double(), weights.double(), 1, (side, side)
        ),
    }


def verify(workload: Workload, runs: dict[str, Callable[[], Any]]) -> float:
    """Relative error of the fused levels of the first image against float64; raises where it is too large."""
    found = torch.stack([level[:1] for level in runs["fused"]()]).double()
    exact = torch.stack(runs["exact"]())
    error = float((found - exact).norm() / exact.norm())
    if not error <= TOLERANCE[workload.dtype]:
        raise LimitMissedError(f"{workload.name}: the fused levels are wrong, relative error {error:g}.")
    return error


@torch.inference_mode()
def measure(workload: Workload, repeats: int) -> dict[str, Any]:
    """Times in milliseconds and their ratios, with cold caches (overwritten before each run) and warm ones."""
    generator = torch.Generator("cuda").manual_seed(workload.grid * 10 + workload.levels)
    runs = implementations(workload, generator)
    error = verify(workload, runs)
    cache_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    wiper = torch.empty(max(4 * cache_bytes, 2**26), dtype=torch.uint8, device="cuda")
    record: dict[str, Any] = {**paper(workload), "relative_error": error}
    for state, between in (("cold", wiper.zero_), ("warm", None)):
        times = {name: median_ms(runs[name], repeats, between) for name in ("copy", "fused", "eager", "compile")}
        record[state] = {
            "ms": times,
            "fused_gb_per_s": workload.floor_bytes / times["fused"] / 1e6,
            "of_copy": times["copy"] / times["fused"],
            "over_eager": times["eager"] / times["fused"],
            "over_compile": times["compile"] / times["fused"],
        }
    return record


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Measured: milliseconds with cold caches, by implementation. On paper: bytes by implementation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = "cold" in records[0]
    bars = ("copy", "fused", "compile", "eager") if measured else ("floor_bytes", "eager_bytes")
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for offset, name in enumerate(bars):
        heights = [record["cold"]["ms"][name] if measured else record[name] / 1e9 for record in records]
        positions = [index + offset * 0.8 / len(bars) for index in range(len(records))]
        axes.bar_label(axes.bar(positions, heights, 0.75 / len(bars), label=name), fmt="%.2f", fontsize=7)
    centres = [index + 0.4 - 0.4 / len(bars) for index in range(len(records))]
    axes.set_xticks(centres, [f"{record['grid']}² P={record['levels']}" for record in records])
    axes.set_ylabel("ms, cold caches" if measured else "GB to move")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def table(records: Sequence[dict[str, Any]]) -> str:
    """The results as text."""
    if "cold" not in records[0]:
        lines = [f"{'map':<8}{'P':>3}{'floor GB':>10}{'eager GB':>10}" + "".join(f"{n:>12}" for n in MEMORY_GB_PER_S)]
        for record in records:
            sizes = f"{record['floor_bytes'] / 1e9:>10.3f}{record['eager_bytes'] / 1e9:>10.3f}"
            floors = "".join(f"{value:>9.2f} ms" for value in record["floor_ms"].values())
            lines.append(f"{record['grid']}x{record['grid']:<5}{record['levels']:>3}{sizes}{floors}")
        return "\n".join(lines)
    lines = [f"{'map':<8}{'P':>3} {'caches':<7}{'fused ms':>9}{'GB/s':>7}{'of copy':>9}{'/eager':>8}{'/compile':>9}"]
    for record in records:
        for state in ("cold", "warm"):
            row = record[state]
            lines.append(
                f"{record['grid']}x{record['grid']:<5}{record['levels']:>3} {state:<7}{row['ms']['fused']:>9.3f}"
                f"{row['fused_gb_per_s']:>7.0f}{row['of_copy']:>9.2f}{row['over_eager']:>8.1f}{row['over_compile']:>9.2f}"
            )
    return "\n".join(lines)


def byte_table(records: Sequence[dict[str, Any]]) -> str:
    """The byte counts in Markdown, and the time that each memory needs for the floor: counted, never measured."""
    lines = [
        f"| map | P | floor, MB | eager at least, MB | {' | '.join(f'{name}, ms' for name in MEMORY_GB_PER_S)} |",
        f"|---|---|---|---|{'---|' * len(MEMORY_GB_PER_S)}",
    ]
    for record in records:
        sizes = [f"{record[name] / 1e6:.0f}" for name in ("floor_bytes", "eager_bytes")]
        times = [f"{record['floor_ms'][name]:.2f}" for name in MEMORY_GB_PER_S]
        lines.append(f"| {record['grid']} x {record['grid']} | {record['levels']} | {' | '.join(sizes + times)} |")
    return "\n".join(lines)


def missed(records: Sequence[dict[str, Any]]) -> list[str]:
    """Targets that a measurement with cold caches misses."""
    return [
        f"{record['grid']}x{record['grid']} P={record['levels']}: {name} {record['cold'][name]:.2f}, target {target}"
        for record in records
        for name, target in TARGETS.items()
        if "cold" in record and record["cold"][name] < target
    ]


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(KernelsConfig, arguments)
    workloads = [
        Workload(config.batch, config.channels, config.taps, levels, grid, config.dtype)
        for grid in config.grids
        for levels in config.levels
    ]
    on_gpu = torch.cuda.is_available()
    if on_gpu and not has_cuda():
        raise BabelRSError("The native library has no CUDA kernels.", "Reinstall with BABELRS_CUDA=ON pip install .")
    records = [measure(workload, config.repeats) if on_gpu else paper(workload) for workload in workloads]
    device = torch.cuda.get_device_name(0) if on_gpu else None
    result = {
        "schema": "babelrs.kernels/1",
        "device": device,
        "predicted": not on_gpu,  # bytes on paper only
        "torch": torch.__version__,
        "workloads": records,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.with_suffix(".json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    plot(records, config.out.with_suffix(".png"))
    sys.stdout.write(table(records) + "\n")
    if not on_gpu:
        sys.stdout.write(
            "No CUDA device: bytes on paper, and the time each memory needs for them. To measure, where nvcc and a GPU "
            "are:\n  BABELRS_CUDA=ON pip install '.[finetune]' && python -m benchmarks.kernels --check\n"
        )
    if config.check and (faults := missed(records)):
        raise LimitMissedError("Targets missed:\n" + "\n".join(faults))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
