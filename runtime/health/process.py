"""What the process itself takes: memory, threads, descriptors, processor time."""

from __future__ import annotations

import os
import re
from contextlib import suppress
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
    with suppress(OSError):
        readings["descriptors"] = len(os.listdir(proc / "fd"))
    times = os.times()
    return {**readings, "cpu_s": round(times.user + times.system, 3)}
