"""Experiments of several arms and seeds: runs that go on where they were stopped, results that are kept as they come.

Every part that is finished is taken as it is, so that an experiment's command can be called again at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError
from benchmarks.launching import command, environment
from benchmarks.seeds import Record
from train.checkpoint import RECORD_FILE

log = logging.getLogger("benchmarks.experiment")


@dataclass(frozen=True)
class Arm:
    """One arm with one seed."""

    name: str
    seed: int

    @property
    def folder(self) -> str:
        """Name of its folders."""
        return f"{self.name.replace(', ', '-').replace(' ', '')}.{self.seed}"


@dataclass(frozen=True)
class Results:
    """The file that finished arms and seeds are kept in, with a picture beside it.

    Attributes:
        out: Results go to ``OUT.json`` and ``OUT.png``.
        schema: Of the file.
        settings: Hash of what decides a result.
        arms: All names, in the order that records are kept in.
        summarise: What the records say together.
        plot: Draws them.
        beside: More that the file says.
    """

    out: Path
    schema: str
    settings: str
    arms: Sequence[str]
    summarise: Callable[[Sequence[Record]], dict[str, Any]]
    plot: Callable[[Sequence[Record], Path], None]
    beside: Mapping[str, Any] = field(default_factory=dict)

    def known(self) -> list[Record]:
        """Records of earlier calls.

        Raises:
            BabelRSError: They were made with other settings.
        """
        file = self.out.with_suffix(".json")
        if not file.exists():
            return []
        content = json.loads(file.read_text())
        if content["settings"] != self.settings:
            raise BabelRSError(f"{file} holds results of other settings.", "Remove it, or give another --out.")
        return list(content["records"])

    def write(self, records: Sequence[Record]) -> None:
        """Write both files."""
        ordered = sorted(records, key=lambda record: (list(self.arms).index(record["arm"]), record["seed"]))
        head = {"schema": self.schema, "settings": self.settings, **self.beside}
        content = {**head, "summary": self.summarise(ordered), "records": ordered}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
        self.plot(ordered, self.out.with_suffix(".png"))

    def collect(self, wanted: Sequence[Arm], work: Callable[[Arm], Record], jobs: int) -> list[Record]:
        """Run what is not known yet, ``jobs`` at a time, and write the files whenever one more is there."""
        records = {(record["arm"], record["seed"]): record for record in self.known()}
        missing = [arm for arm in wanted if (arm.name, arm.seed) not in records]
        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(work, arm) for arm in missing]):
                record = done.result()
                records[record["arm"], record["seed"]] = record
                self.write(list(records.values()))
        if records and not missing:
            self.write(list(records.values()))  # what they say together may be told in other words by now
        return list(records.values())


def settings_hash(*texts: str) -> str:
    """SHA-256 of everything that decides a result."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def once(result: Path, logs: Path, module: str, *given: object) -> None:
    """Run a command on one thread, unless its result is there.

    Raises:
        BabelRSError: It failed; the end of what it wrote into ``logs`` is shown.
    """
    if not result.exists():
        call(logs, module, *given)


def to_the_end(run: Path, module: str, *given: object) -> None:
    """A training run to its end: as it is where it is finished, from its last checkpoint where it was stopped.

    Raises:
        BabelRSError: It failed, or was stopped before its first checkpoint.
    """
    if (run / "final").exists():
        return
    if run.exists() and not (run / "last").exists():
        raise BabelRSError(f"{run} was stopped before its first checkpoint.", "Remove it and start again.")
    call(run.parent / f"{run.name}.log", module, *given, *(["--resume"] if run.exists() else []))


def with_end(run: Path, data: Path, lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of a detection run's ``metrics.jsonl``, and its end, measured where the run did not do so itself.

    Args:
        run: A finished run's folder.
        data: What it learnt from and is measured on.
        lines: Of the run.

    Raises:
        BabelRSError: It cannot be measured.
    """
    final = run / "final"
    step = json.loads((final / RECORD_FILE).read_text())["training"]["step"]
    if any(line["step"] == step and line.get("h_map") is not None for line in lines):
        return list(lines)
    result = final / "evaluation.eval" / "evaluation.json"
    once(
        result, run.parent / f"{run.name}.log", "train.evaluate", "--checkpoint", final, "--data.root", data,
        "--threads", 1, "--examples", 0, "--plots", "false", "--result_files", "false",
    )  # fmt: skip
    found = json.loads(result.read_text())
    return [*lines, {"step": step, "h_map": found["h_map"], "evaluation": found}]


def options(pairs: Sequence[str]) -> list[str]:
    """``name=value`` as a command takes it."""
    return [part for each in pairs for part in (f"--{each.partition('=')[0]}", each.partition("=")[2])]


def call(file: Path, module: str, *given: object) -> None:
    """Run a command on one thread; what it writes goes to ``file``.

    Raises:
        BabelRSError: It failed.
    """
    log.info("%s %s", module, file.stem)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as output:
        done = subprocess.run(
            command([str(each) for each in given], module=module), env=environment(), stdout=output, stderr=output
        )
    if done.returncode:
        raise BabelRSError(f"{module} failed; the end of {file}:\n{file.read_text()[-2000:]}", "Mend what it says.")
