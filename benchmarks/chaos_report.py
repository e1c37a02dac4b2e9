"""What came of a flight of :mod:`benchmarks.chaos`: how soon it recovered, which promises it broke, table and plot."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelrs.errors import EXIT_DEVICE, EXIT_DONE, EXIT_USER_INPUT
from benchmarks.chaos_faults import Fault
from benchmarks.chaos_flight import Look

_C_LIBRARY = 127
KNOWN_CODES = {EXIT_DONE, EXIT_USER_INPUT, EXIT_DEVICE, -signal.SIGKILL, -signal.SIGABRT, _C_LIBRARY}
"""How a process may end: stopped; something is wrong around it; the device failed; killed; ended by the C or C++
library, which had no memory for itself, where nobody can catch it."""


def recovery_s(looks: Sequence[Look], happened: Sequence[Fault]) -> dict[str, list[float]]:
    """Seconds from the end of each fault until all was done that the camera had written by then, by kind."""
    found: dict[str, list[float]] = {}
    for fault in happened:
        written = next((count for at, count, _ in looks if at >= fault.end_s), looks[-1][1])
        done_at = next((at for at, _, done in looks if at >= fault.end_s and done >= written), None)
        found.setdefault(fault.name, []).append(
            looks[-1][0] - fault.end_s if done_at is None else done_at - fault.end_s
        )
    return found


def missed_promises(record: dict[str, Any]) -> list[str]:
    """What is promised and this flight does not show, in words."""
    missed = [
        f"{name}: {count} images {fault}"
        for name, found in record["outputs"].items()
        for fault, count in found.items()
        if count
    ]
    counts = {
        "bad files were never named": record["bad_files_unsaid"],
        "images' messages did not arrive": record["images_whose_messages_are_lost"],
        "tracebacks": record["tracebacks"],
    }
    missed += [f"{count} {what}" for what, count in counts.items() if count]
    unknown = {code for code in record["exit_codes"] if int(code) not in KNOWN_CODES}
    missed += [f"exit code {code}, {record['exit_codes'][code]} times" for code in sorted(unknown)]
    if record["last_exit_code"] != EXIT_DONE:
        missed.append(f"the last end was {record['last_exit_code']}")
    return missed


def table(record: dict[str, Any]) -> str:
    """A line for each kind of fault, and what came of it all."""
    lines = [f"{'fault':<18}{'times':>6}{'until all was done, s: median':>31}{'longest':>9}"]
    lines += [
        f"{name:<18}{row['times']:>6}{row['recovery_s_p50']:>31.1f}{row['recovery_s_max']:>9.1f}"
        for name, row in record["faults"].items()
    ]
    ends = ", ".join(f"{count} with {code}" for code, count in sorted(record["exit_codes"].items()))
    lines.append(f"{record['images']} images, {record['bad_files']} bad files, ends: {ends}; {record['peak_mb']} MB")
    return "\n".join(lines) + "\n"


def plot(record: dict[str, Any], path: Path) -> None:
    """Images that wait over time, with a mark for every fault."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    minutes = [at / 60 for at, _, _ in record["looks"]]
    axes.plot(minutes, [written - done for _, written, done in record["looks"]], color="#333333", linewidth=0.8)
    names = sorted({fault["name"] for fault in record["happened"]})
    most = max(1, *(written - done for _, written, done in record["looks"]))
    for place, name in enumerate(names):
        at = [fault["begin_s"] / 60 for fault in record["happened"] if fault["name"] == name]
        height = -most * (0.06 + 0.045 * place)
        axes.plot(at, [height] * len(at), "|", markersize=5, color=f"C{place % 10}")
        axes.text(minutes[-1] * 1.01, height, name, fontsize=7, va="center", color=f"C{place % 10}")
    axes.set_xlim(-0.01 * minutes[-1], 1.13 * minutes[-1])
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= most])
    axes.set_xlabel("minutes")
    axes.set_ylabel("images written and not done")
    axes.set_ylim(bottom=-most * (0.1 + 0.045 * len(names)))
    axes.set_title(f"{record['images']} images, {len(record['happened'])} faults, {record['starts']} starts")
    figure.savefig(path, dpi=130)
    plt.close(figure)
