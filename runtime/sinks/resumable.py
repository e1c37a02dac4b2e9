"""What a sink does so that a later run can go on exactly where an earlier one ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

Mark = Mapping[str, Any]
"""Where a sink stands, as plain JSON values: a sink made with it goes on there, whatever was written after it."""


@runtime_checkable
class Resumable(Protocol):
    """A sink whose place is kept in the run's journal; of others, results may be written again by a later run."""

    def mark(self) -> Mark:
        """Where it stands; asked in the thread that writes, after every result."""

    def sync(self) -> None:
        """Bring to the disk itself all that was written before; called in another thread than the writing one.

        Raises:
            BabelRSError: The disk did not take it.
        """
