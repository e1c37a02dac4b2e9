"""How much memory building an engine takes, and whether it is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from babelrs.errors import DeviceError

MIB = 1 << 20
FIXED_BYTES = 600 * MIB
"""Libraries, their kernels and the CUDA context. Without CUDA, builds of 11 MB of weights peaked at 350 MB in all."""
COPIES = 4
"""Of the weights while an engine is built: in the graph, the network, the tactics being timed, and the plan."""
LEAST_WORKSPACE, MOST_WORKSPACE = 32 * MIB, 1024 * MIB
SHARE = 0.5
"""Of what is left, the share that layers may take as workspace: the rest is for activations and other programs."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a build may take.

    Attributes:
        free_bytes: What is free now.
        needed_bytes: What the build needs by the rule, its workspace included.
        workspace_bytes: Most that a layer may take while it runs.
    """

    free_bytes: int
    needed_bytes: int
    workspace_bytes: int


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """The system's memory that programs may still take; on Jetsons the GPU's as well.

    Raises:
        DeviceError: The system does not say.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise DeviceError(f"{meminfo} does not say how much memory is free.", "Give --workspace-mib.")
    return int(found.group(1)) * 1024


def plan_memory(free_bytes: int, weight_bytes: int, workspace_bytes: int | None = None) -> MemoryPlan:
    """Whether a build fits, and its workspace: 600 MiB + 4 x weights + workspace must be free.

    Args:
        free_bytes: What is free now, the lesser of the CPU's and the GPU's.
        weight_bytes: Size of the graph with its weights.
        workspace_bytes: Workspace to give; None: half of what is left, 32 MiB to 1 GiB.

    Raises:
        DeviceError: It does not fit; the message has the numbers.
    """
    base = FIXED_BYTES + COPIES * weight_bytes
    if workspace_bytes is None:
        workspace_bytes = min(MOST_WORKSPACE, max(LEAST_WORKSPACE, int(SHARE * (free_bytes - base))))
    needed = base + workspace_bytes
    if needed > free_bytes:
        what = (
            f"The build needs {needed / MIB:.0f} MiB, and {free_bytes / MIB:.0f} MiB are free: "
            f"{FIXED_BYTES // MIB} MiB for libraries, {COPIES} x {weight_bytes / MIB:.0f} MiB for weights, "
            f"{workspace_bytes / MIB:.0f} MiB of workspace."
        )
        raise DeviceError(what, "Stop other programs (on a Jetson the desktop too), or give less --workspace-mib.")
    return MemoryPlan(free_bytes, needed, workspace_bytes)
