"""``python -m benchmarks.fuzz``: strangers' bytes into everything that reads them, guided by coverage.

A process for every target of :mod:`benchmarks.fuzz_targets`, by Atheris (libFuzzer), from a few valid examples. A
finding is any exception but a user's error, a crash, an input that takes over five seconds, or more than 1 GiB of
memory; its bytes are kept in the result. Writes a table and a JSON file. Exit code 1 says that something was found.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, run_command
from benchmarks.fuzz_targets import TARGETS
from train.cli import load_config

LONGEST_S, MOST_MIB = 5, 1024
"""What an input may take."""
SHARES = {"image": 4, "manifest": 2, "stream": 2, "graph": 2, "message": 4, "command-line": 0.5}
"""Of the executions, how many parts a target gets; 1 where it is not named. What is fast gets more."""
_STATISTICS = {
    "executions": re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.MULTILINE),
    "peak_mib": re.compile(r"^stat::peak_rss_mb:\s*(\d+)", re.MULTILINE),
    "branches": re.compile(r"cov: (\d+)"),
}


class FuzzConfig(BaseModel):
    """Fuzz what reads bundles, images, streams and command lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: tuple[str, ...] = Field(tuple(TARGETS), min_length=1, description=f"of: {', '.join(TARGETS)}")
    executions: int = Field(1_000_000, ge=1, description="inputs of all targets together")
    jobs: int = Field(2, ge=1, description="targets at a time")
    seed: int = Field(1, ge=1, description="of the mutations")
    out: Path = Field(Path("benchmarks/results/fuzz.json"), description="JSON file to write")


def shared_out(targets: Sequence[str], executions: int) -> dict[str, int]:
    """Executions of every target, at least as many as asked for in all."""
    parts = {name: SHARES.get(name, 1.0) for name in targets}
    return {name: int(executions * part / sum(parts.values())) + 1 for name, part in parts.items()}


def fuzz(
    name: str, executions: int, seed: int, child: Sequence[str] = ("-m", "benchmarks.fuzz_child")
) -> dict[str, Any]:
    """Fuzz one target; what came of it.

    Args:
        name: Of the target.
        executions: Inputs to try.
        seed: Of the mutations.
        child: What Python runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        corpus, findings = Path(folder) / "corpus", Path(folder) / "findings"
        for each in (corpus, findings):
            each.mkdir()
        for number, example in enumerate(TARGETS[name].examples()):
            (corpus / f"example-{number}").write_bytes(example)
        options = [
            f"-runs={executions}", f"-seed={seed}", f"-timeout={LONGEST_S}", f"-rss_limit_mb={MOST_MIB}",
            "-print_final_stats=1", f"-artifact_prefix={findings}/",
        ]  # fmt: skip
        command = [sys.executable, *child, name, str(corpus), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "OFF"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        found = {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(findings.iterdir())}
        size = sum(path.stat().st_size for path in corpus.iterdir())
    return {**statistics_of(done.stdout), "corpus_bytes": size, "findings": found, **_end(done, bool(found))}


def statistics_of(text: str) -> dict[str, int]:
    """The last of each number that libFuzzer printed."""
    found = {name: pattern.findall(text) for name, pattern in _STATISTICS.items()}
    return {name: int(values[-1]) if values else 0 for name, values in found.items()}


def _end(done: subprocess.CompletedProcess[str], found: bool) -> dict[str, Any]:
    if done.returncode == 0 and not found:
        return {"exit_code": 0}
    return {"exit_code": done.returncode, "report": done.stdout[-3000:]}


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a target, and the sum."""
    lines = [f"{'':<14}{'executions':>12}{'branches':>10}{'peak MiB':>10}{'findings':>10}"]
    for name, row in rows.items():
        counts = f"{row['executions']:>12,}{row['branches']:>10}{row['peak_mib']:>10}{len(row['findings']):>10}"
        lines.append(f"{name:<14}{counts}" + (f"  exit code {row['exit_code']}" if row["exit_code"] else ""))
    lines.append(f"{'all':<14}{sum(row['executions'] for row in rows.values()):>12,}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    config = load_config(FuzzConfig, arguments)
    if unknown := [name for name in config.targets if name not in TARGETS]:
        raise BabelRSError(f"targets: {', '.join(unknown)} is none of {', '.join(TARGETS)}.", "See --help.")
    if importlib.util.find_spec("atheris") is None:
        raise BabelRSError("Atheris is not installed.", "Install it with: pip install atheris")
    executions = shared_out(config.targets, config.executions)
    with ThreadPoolExecutor(config.jobs) as pool:
        found = pool.map(lambda name: fuzz(name, executions[name], config.seed), config.targets)
        rows = dict(zip(config.targets, found, strict=True))
    sys.stdout.write(format_table(rows))
    record = {
        "schema": "babelrs.fuzz/1", "settings": config.model_dump(mode="json", exclude={"out", "jobs"}),
        "limits": {"seconds": LONGEST_S, "mib": MOST_MIB}, "targets": rows,
    }  # fmt: skip
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in rows.items():
        if "report" in row:
            sys.stderr.write(f"{name}:\n{row['report']}\n")
    return EXIT_LIMIT_MISSED if any(row["exit_code"] or row["findings"] for row in rows.values()) else EXIT_DONE


if __name__ == "__main__":
    sys.exit(run_command(main))
