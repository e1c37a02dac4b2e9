"""Real training processes: started by the launcher, killed by the system, read back from their run folders."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.run_plots import read_metrics

REPOSITORY = Path(__file__).parents[1]


def environment(threads: int = 1) -> dict[str, str]:
    """A fixed number of threads, so that sums are added up in the same order."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}


def command(arguments: Sequence[str], processes: int = 1, module: str = "train.finetune") -> list[str]:
    """A training command in so many processes on this machine's CPU."""
    if processes == 1:
        return [sys.executable, "-m", module, *arguments]
    rendezvous = ["--nproc-per-node", str(processes), "--master-port", str(_free_port())]
    return [sys.executable, "-m", "torch.distributed.run", *rendezvous, "-m", module, *arguments]


def train(
    arguments: Sequence[str], processes: int = 1, threads: int = 1, module: str = "train.finetune"
) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command(arguments, processes, module),
        cwd=REPOSITORY,
        env=environment(threads),
        capture_output=True,
        text=True,
        timeout=1800,
    )


def start(arguments: Sequence[str], module: str = "train.finetune") -> subprocess.Popen[str]:
    """Begin a run and go on."""
    return subprocess.Popen(
        command(arguments, module=module),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_after(process: subprocess.Popen[str], run: Path, step: int, how: signal.Signals) -> None:
    """Send ``how`` once the run has logged ``step``, and wait for its end."""
    deadline = time.monotonic() + 900
    while not (lines := metrics(run)) or lines[-1]["step"] < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(timeout=120)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of ``metrics.jsonl``."""
    file = run / "metrics.jsonl"
    return read_metrics(file) if file.exists() else []


def losses(run: Path) -> dict[int, list[float]]:
    """Total loss of rgb, sar and ir by step."""
    return {
        line["step"]: [line[sensor]["total"] for sensor in ("rgb", "sar", "ir")]
        for line in metrics(run)
        if "rgb" in line
    }


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
