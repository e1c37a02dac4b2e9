"""``python -m benchmarks.quantization_cost --checkpoint C --data D``: how long quantizing takes, and how much memory.

Runs ``compress.quantize`` for one target in a process of its own, report and all, and writes a JSON file. Exit code 1
says that a stated limit was missed. Run it on an idle machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from benchmarks.experiment import options
from train.cli import load_config

MOST_S, MOST_BYTES = 300.0, 4e9


class CostConfig(BaseModel):
    """Time one call of compress.quantize."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path = Field(description="folder of the checkpoint")
    data: Path = Field(description="folder in the SOI-Det layout")
    target: str = Field("cpu-x86", description="of compress/targets.yaml")
    images: int = Field(100, ge=1, description="calibration images of each sensor")
    more: tuple[str, ...] = Field((), description="options for compress.quantize beside these, as name=value")
    out: Path = Field(Path("benchmarks/results/quantization-cost.json"), description="JSON file to write")


def measure(config: CostConfig) -> dict[str, Any]:
    """Seconds and the most memory that was resident.

    Raises:
        BabelRSError: The command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "compress.quantize", "--checkpoint", str(config.checkpoint), "--target",
            config.target, "--data.root", str(config.data), "--calibration.images_per_sensor", str(config.images),
            "--out", f"{folder}/bundle", *options(config.more),
        ]  # fmt: skip
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begin
    if done.returncode:
        raise BabelRSError(
            f"compress.quantize ended with {done.returncode}: {done.stderr[-1000:]}", "Mend what it says."
        )
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": seconds, "peak_bytes": peak_bytes}


def missed(found: dict[str, Any]) -> list[str]:
    """Which stated limits were missed, in words."""
    faults = []
    if found["seconds"] > MOST_S:
        faults.append(f"{found['seconds']:.0f} s; {MOST_S:.0f}")
    if found["peak_bytes"] > MOST_BYTES:
        faults.append(f"{found['peak_bytes'] / 1e9:.2f} GB; {MOST_BYTES / 1e9}")
    return faults


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(CostConfig, arguments)
    load = os.getloadavg()[0]
    found = measure(config)
    faults = missed(found)
    sys.stdout.write(f"{found['seconds']:.0f} s, {found['peak_bytes'] / 1e9:.2f} GB at the peak\n")
    sys.stdout.write("".join(f"limit missed: {fault}\n" for fault in faults))
    record = {
        "schema": "babelrs.quantization-cost/1",
        "machine": {"cpus": os.cpu_count(), "load_before": load},
        "settings": config.model_dump(mode="json", exclude={"out", "data", "checkpoint"}),
        **found,
        "missed_limits": faults,
    }
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    return EXIT_LIMIT_MISSED if faults else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
