"""What the process itself takes: memory, threads, descriptors, processor time."""

from __future__ import annotations

import os
import re
from pathlib import Path


def read_process(proc: Path = Path("/proc/self")) -> dict[str, float]:
    """Resident bytes, threads, open descriptors, and seconds of processor time; what Linux does not say is absent."""
    readings: dict[str, float] = {}
    try:
        status = (proc / "status").read_text(errors="replace")
    except OSError:
        status = ""
    resident, threads = (re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE) for name in ("VmRSS", "Threads"))
    if resident is not None:
        readings["resident_bytes"] = int(resident.group(1)) * 1024
    if threads is not None:
        readings["threads"] = int(threads.group(1))
    try:
        readings["descriptors"] = len(os.listdir(proc / "fd"))
    except OSError:
        pass
    times = os.times()
    return {**readings, "cpu_s": round(times.user + times.system, 3)}
