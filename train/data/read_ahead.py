"""Reading ahead: decoding and tiling of the next images go on while the model works on these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READERS = 4
"""Threads that read."""

Given = TypeVar("Given")
Read = TypeVar("Read")


def ahead(read: Callable[[Given], Read], items: Iterable[Given], threads: int = READERS) -> Iterator[Read]:
    """What ``read`` gives for each item, in order, with at most ``2 * threads`` of them read before they are wanted."""
    with ThreadPoolExecutor(threads) as readers:
        pending: deque[Future[Read]] = deque()
        for item in items:
            pending.append(readers.submit(read, item))
            if len(pending) == 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
