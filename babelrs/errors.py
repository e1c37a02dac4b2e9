"""Errors the user can mend, and the exit codes every command shares.

A :class:`BabelRSError` states what is wrong, with the value, and what to do about it. Any other exception is a defect
of the program and keeps its traceback, but on board, where :mod:`runtime.unforeseen` ends the run safely.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

EXIT_DONE = 0
EXIT_LIMIT_MISSED = 1
EXIT_USER_INPUT = 2
EXIT_DEVICE = 3
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""What shells call the end by Ctrl-C."""


class BabelRSError(Exception):
    """Something the user can mend.

    Args:
        what: What is wrong and where, with the offending value.
        remedy: What to do about it; one imperative sentence.
    """

    exit_code = EXIT_USER_INPUT

    def __init__(self, what: str, remedy: str = "") -> None:
        separator = "\n" if "\n" in what else " "
        super().__init__(f"{what}{separator}{remedy}".strip())
        self.what = what
        self.remedy = remedy


class DeviceError(BabelRSError):
    """The device or the inference engine failed; the input was fine."""

    exit_code = EXIT_DEVICE


class LimitMissedError(BabelRSError):
    """The command ran, but a stated limit (self-test tolerance, H-mAP drop) was missed."""

    exit_code = EXIT_LIMIT_MISSED


def collected(what: str, faults: Sequence[str], remedy: str, shown: int = 50) -> BabelRSError:
    """One error out of many faults, listed a line each (the first ``shown`` of them)."""
    lines = [f"  - {fault}" for fault in faults[:shown]]
    if len(faults) > shown:
        lines.append(f"  ... and {len(faults) - shown} more")
    return BabelRSError("\n".join([f"{what} ({len(faults)}):", *lines]), remedy)


def run_command(main: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command-line ``main`` and turn a :class:`BabelRSError` into one message and its exit code.

    Args:
        main: Takes the arguments without the program's name and returns an exit code.
        argv: The arguments; ``None`` takes those of the process.
    """
    _open_missing_streams()
    try:
        return main(list(sys.argv[1:] if argv is None else argv))
    except BabelRSError as error:
        say(f"error: {error}\n", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted\n", sys.stderr)
        return EXIT_INTERRUPTED


def say(text: str, stream: TextIO) -> None:
    """Write a message to standard output or error; one that nobody can take any more is no reason to fail."""
    try:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
        stream.flush()
    except OSError:  # a full disk, or the other end of the pipe is gone; what is buffered would fail again at exit
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _open_missing_streams() -> None:
    """Let standard output and error exist where the caller closed them, so that no result file becomes one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
