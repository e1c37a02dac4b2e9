"""What a live sensor gives its supervisor: one connection at a time, frame by frame."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from babelrs.images import Frame


class StreamFault(Exception):
    """The connection is of no use any more; a new one may be.

    The message is the cause alone, without address or credentials, and the same words each time: faults are logged
    once for each cause.
    """


@dataclass(frozen=True)
class Received:
    """A frame that has just come.

    Attributes:
        frame: Its raw counts.
        read_ms: Milliseconds that receiving and decoding it took, waiting left out.
    """

    frame: Frame
    read_ms: float


class Stream(Protocol):
    """An open connection to a live sensor; used by one thread."""

    def receive(self) -> Received:
        """The next frame that can be used; older frames that wait in buffers come first.

        Raises:
            StreamFault: The connection ended, or gave no usable frame in the time it had.
        """

    def close(self) -> None:
        """Let go of it; called once, also after a fault."""


@dataclass(frozen=True)
class Patience:
    """How long a live sensor may take.

    Attributes:
        open_s: Seconds until a connection stands.
        stall_s: Seconds from one usable frame to the next.
    """

    open_s: float = 5.0
    stall_s: float = 5.0


Connect = Callable[[threading.Event], Stream]
"""Opens a connection; gives up soon after the event is set. Raises :class:`StreamFault` where another attempt may
succeed, :class:`BabelRSError` where none can."""
