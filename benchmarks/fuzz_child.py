"""One fuzzed target in a process of its own: ``python -m benchmarks.fuzz_child TARGET CORPUS [libFuzzer options]``.

libFuzzer ends it at the first finding: an exception that is no user's error, a crash, a hang, too much memory. What it
leaves is the input and a report on standard error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType

import atheris

from babelrs.errors import BabelRSError
from benchmarks.fuzz_targets import TARGETS, own_folder

PACKAGES = ("babelrs.", "runtime.")
"""What tells which of its branches were taken, so that mutations reach further."""


def main(name: str, corpus: str, options: list[str]) -> None:
    """Fuzz a target of :data:`benchmarks.fuzz_targets.TARGETS`; never returns."""
    target = TARGETS[name]
    for module in [module for key, module in sys.modules.items() if key.startswith(PACKAGES)]:
        for function in functions_of(module):
            atheris.instrument_func(function)
    logging.disable(logging.CRITICAL)
    with own_folder() as folder:

        def one(data: bytes) -> None:
            try:
                target.run(data, folder)
            except BabelRSError as error:
                assert str(error), "an error without a message"

        atheris.Setup([sys.argv[0], f"-max_len={target.most_bytes}", *options, corpus], one)
        atheris.Fuzz()


def functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """The functions that a module defines, those of its classes included."""
    for value in list(vars(module).values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for member in members:
            function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
