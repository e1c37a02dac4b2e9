"""Runs of ``babelrs-run`` that are killed or run out of space, and are then resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from babelrs.errors import BabelRSError
from runtime.journal import boot_id, read_journal
from runtime.recorder import NAME
from runtime.standing import standing_after

LONGEST_S = 600.0
_GLANCE_S = 0.02


@dataclass(frozen=True)
class Command:
    """A run.

    Attributes:
        arguments: Of ``babelrs-run``, but for the output folder.
        out: That folder.
    """

    arguments: tuple[str, ...]
    out: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on where one began."""
        command = [sys.executable, "-m", "runtime.cli", *self.arguments, "--out", str(self.out), "--resume"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self) -> tuple[int, str]:
        """Run to the end; its exit code and what it said on standard error.

        Raises:
            BabelRSError: It does not end.
        """
        running = self.start()
        try:
            _, said = running.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            raise BabelRSError(f"A run took over {LONGEST_S:.0f} s.", "Look what it waits for.") from None
        return running.returncode, said.decode(errors="replace")

    def complete(self) -> None:
        """Run to the end, which must be a good one.

        Raises:
            BabelRSError: It is not.
        """
        code, said = self.finish()
        if code:
            raise BabelRSError(f"A run ended with {code}:\n{said}", "Mend what it says.")

    def kill_after(self, seconds: float, from_image: bool) -> bool:
        """Start it and kill it; whether it still ran.

        Args:
            seconds: When.
            from_image: Whether they count from the first image that it records, else from the start of the process.

        Raises:
            BabelRSError: It ended before, with an error.
        """
        before, running = images_done(self.out), self.start()
        while from_image and running.poll() is None and images_done(self.out) == before:
            time.sleep(_GLANCE_S)
        try:
            _, said = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.communicate()
            return running.returncode == -signal.SIGKILL
        if running.returncode:
            raise BabelRSError(f"A run ended with {running.returncode}:\n{said.decode()}", "Mend what it says.")
        return False


def images_done(out: Path) -> int:
    """Images that the journal of a folder counts, whatever start of the system wrote it."""
    found = read_journal(out / NAME, boot_id())
    standing = None if found is None else standing_after(found.records)
    return 0 if standing is None else standing.num_images


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """A disk of a limited size in a folder, in memory.

    Raises:
        BabelRSError: This process may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def resize(folder: Path, num_bytes: int) -> None:
    """Give a small disk another size."""
    _mount("-o", f"remount,size={num_bytes}", str(folder))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BabelRSError(f"No disk can be mounted ({done.stderr.strip()}).", "Run it as root.")
