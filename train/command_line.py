"""The parser of commands that take plain arguments and no settings file."""

from __future__ import annotations

import argparse
from typing import NoReturn

from babelrs.errors import BabelRSError


class CommandParser(argparse.ArgumentParser):
    """Its complaints are the user's to mend."""

    def error(self, message: str) -> NoReturn:
        """See :class:`argparse.ArgumentParser`.

        Raises:
            BabelRSError: Always.
        """
        raise BabelRSError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")
