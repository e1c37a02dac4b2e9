"""The steps from all to nothing, and what asks for each: tables, so that a reader sees the whole policy at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """What a step changes.

    Attributes:
        name: As logs and health reports call it.
        batch_factor: Tiles a run of the model, times what was asked for.
        overlap_factor: Overlap of tiles, times what the bundle says.
        stride: Of the frames of a live source, one in so many is taken, and no sooner than so many times what the last
            took. Files are never skipped.
        on_cpu: Whether ONNX Runtime on the CPU runs the model.
        stops: Whether the run ends.
    """

    name: str
    batch_factor: int = 1
    overlap_factor: float = 1.0
    stride: int = 1
    on_cpu: bool = False
    stops: bool = False


LEVELS = (
    Level("normal"),
    Level("saving", batch_factor=2, overlap_factor=0.5),
    Level("skipping", batch_factor=2, overlap_factor=0.5, stride=3),
    Level("cpu", batch_factor=1, overlap_factor=0.5, stride=3, on_cpu=True),
    Level("stop", batch_factor=1, overlap_factor=0.5, stride=3, stops=True),
)
NORMAL, SAVING, SKIPPING, CPU, STOP = range(len(LEVELS))


@dataclass(frozen=True)
class Rule:
    """When a signal asks for a level.

    Attributes:
        signal: Its name.
        level: Place in :data:`LEVELS`.
        enter: It asks once the signal has been so much or more for ``hold_s`` without a break.
        leave: It goes on asking until the signal is so much or less.
        hold_s: Seconds.
    """

    signal: str
    level: int
    enter: float
    leave: float
    hold_s: float


LAG, HEAT, CRITICAL, FAULTS, MEMORY = "lag", "heat_c", "critical_c", "faults", "memory"

RULES = (
    # Latency over the deadline. No further: a CPU is no faster, and late results are better than none.
    Rule(LAG, SAVING, enter=1.0, leave=0.7, hold_s=5),
    Rule(LAG, SKIPPING, enter=1.0, leave=0.7, hold_s=20),
    # Degrees over the limit of the hottest zone. The limit is where the kernel begins to slow clocks down.
    Rule(HEAT, SAVING, enter=0, leave=-3, hold_s=5),
    Rule(HEAT, SKIPPING, enter=2, leave=-3, hold_s=20),
    Rule(HEAT, CPU, enter=5, leave=-3, hold_s=60),
    # Degrees over the critical point, where the kernel turns the power off: end in order before that.
    Rule(CRITICAL, STOP, enter=-3, leave=-10, hold_s=3),
    # Faults of engines in the last minutes. One is enough: what an engine gave up is tried again only when it is calm.
    Rule(FAULTS, CPU, enter=1, leave=0, hold_s=0),
    # Share of the memory that is taken: end in order before the kernel chooses whom to kill.
    Rule(MEMORY, STOP, enter=0.98, leave=0.95, hold_s=10),
)
FAULT_WINDOW_S = 600.0
"""Faults older than this count no more."""
RECOVERY_S = 60.0
"""So long nothing may ask for the present level before the run goes one step back."""
LONGEST_RECOVERY_S = 960.0
"""Each relapse doubles the recovery, up to this."""
