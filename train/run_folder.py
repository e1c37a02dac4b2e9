"""One folder per run: settings, environment, metrics, checkpoints; whatever is in it is whole.

``checkpoints/step-N`` are written aside and renamed; ``last``, ``best``, ``final`` and ``stopped`` are links to them.
Checkpoints that no link names are removed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import train
from babelrs.errors import BabelRSError
from train.processes import rank, wait_for_all
from train.training_state import check_unchanged

LAST, BEST, FINAL, STOPPED = "last", "best", "final", "stopped"
_PACKAGES = ("babelrs", "torch", "torchvision", "timm", "accelerate", "transformers", "numpy", "opencv-python-headless")


class RunFolder:
    """Where one run keeps everything.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics, self.checkpoints = path / "metrics.jsonl", path / "checkpoints"

    def check_free(self) -> None:
        """Refuse a folder that exists.

        Raises:
            BabelRSError: It does.
        """
        if self.path.exists():
            raise BabelRSError(
                f"The run folder {self.path} exists already.", "Continue it with --resume, name another, or remove it."
            )

    def create(self, settings: dict[str, Any], device: torch.device) -> None:
        """Make the folder with ``config.json`` and ``environment.json``.

        Raises:
            BabelRSError: It exists already.
        """
        self.check_free()
        self.checkpoints.mkdir(parents=True)
        _write_json(self.path / "config.json", settings)
        _write_json(self.path / "environment.json", environment(device))

    def begin(self, settings: dict[str, Any], resume: bool, free: Collection[str], device: torch.device) -> None:
        """Make the folder, or check that the run in it can go on; every process must call this.

        Args:
            settings: Of this command.
            resume: Whether the run goes on.
            free: Settings that it may change (see :func:`train.training_state.check_unchanged`).
            device: Where it runs.

        Raises:
            BabelRSError: The folder exists already, or the run cannot go on.
        """
        if resume:
            check_unchanged(self.settings(), settings, free)
            self.last()
        elif rank() == 0:
            self.create(settings, device)
        wait_for_all()

    def settings(self) -> dict[str, Any]:
        """The settings that the run began with.

        Raises:
            BabelRSError: The folder holds no run.
        """
        file = self.path / "config.json"
        try:
            settings = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise BabelRSError(
                f"{self.path} holds no run to continue: {error}.", "Start it without --resume."
            ) from None
        if not isinstance(settings, dict):
            raise BabelRSError(f"{file} holds a {type(settings).__name__}.", "Restore the file.")
        return settings

    def last(self) -> Path:
        """The newest checkpoint.

        Raises:
            BabelRSError: There is none.
        """
        folder = self.path / LAST
        if not folder.is_dir():
            raise BabelRSError(f"{self.path} holds no checkpoint yet.", "Remove the folder and start anew.")
        return folder.resolve()

    def add_checkpoint(self, step: int, write: Callable[[Path], None], links: tuple[str, ...]) -> Path:
        """Point ``links`` at the checkpoint of ``step``: the one there is, or what ``write`` puts into a folder."""
        folder = self.checkpoints / f"step-{step:07d}"
        if not folder.exists():
            aside = self.checkpoints / f".{folder.name}.part"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            write(aside)
            os.replace(aside, folder)
        for link in links:
            self._point(link, folder)
        self._remove_unnamed()
        return folder

    def append_metrics(self, line: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that are run again."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.metrics.read_text().splitlines() if _step_of(line) <= step]
        aside = self.metrics.with_suffix(".part")
        aside.write_text("".join(line + "\n" for line in kept))
        os.replace(aside, self.metrics)

    def _point(self, link: str, folder: Path) -> None:
        aside = self.path / f".{link}.part"
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder.relative_to(self.path), target_is_directory=True)
        os.replace(aside, self.path / link)

    def _remove_unnamed(self) -> None:
        named = {
            (self.path / link).resolve() for link in (LAST, BEST, FINAL, STOPPED) if (self.path / link).is_symlink()
        }
        for folder in self.checkpoints.iterdir():
            if folder.resolve() not in named:
                shutil.rmtree(folder, ignore_errors=True)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off by a kill


def _write_json(file: Path, value: Any) -> None:
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(aside, file)


def environment(device: torch.device) -> dict[str, Any]:
    """What the run ran with: versions, device, and the commit of the code where it lies in a git checkout."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that this code lies in, with ``+changes`` where it was changed since."""
    folder = Path(train.__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")
