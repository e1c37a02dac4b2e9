"""Bounded queues between the pipeline's threads: back-pressure, an end, errors that travel, and fair turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from runtime.health.pulses import ROUND_S, beat

T = TypeVar("T")


class Abandoned(Exception):
    """Nobody takes items any more: the thread that puts them can end."""


class Lanes(Generic[T]):
    """Several producers, one consumer that takes from them in turns, so that none starves.

    Each producer has a lane of its own that holds ``capacity`` items; who puts more waits. The consumer's loop ends
    when every lane is closed and empty, and raises what a producer failed with once the items before it are taken.

    Args:
        num_lanes: Producers.
        capacity: Items of a lane.
    """

    def __init__(self, num_lanes: int, capacity: int) -> None:
        self._items: list[deque[T]] = [deque() for _ in range(num_lanes)]
        self._open = [True] * num_lanes
        self._capacity = capacity
        self._next = 0
        self._error: BaseException | None = None
        self._abandoned = False
        self._changed = threading.Condition()

    def put(self, item: T, lane: int = 0) -> None:
        """Hand on an item, waiting while the lane is full.

        Raises:
            Abandoned: The consumer is gone.
        """
        with self._changed:
            self._wait(lambda: self._abandoned or len(self._items[lane]) < self._capacity)
            if self._abandoned:
                raise Abandoned
            self._items[lane].append(item)
            self._changed.notify_all()

    def close(self, lane: int = 0, error: BaseException | None = None) -> None:
        """End a lane; with an error, it is raised where items are taken."""
        with self._changed:
            self._open[lane] = False
            self._error = self._error or error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Take nothing more: producers get :class:`Abandoned`."""
        with self._changed:
            self._abandoned = True
            for items in self._items:
                items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._wait(lambda: any(self._items) or not any(self._open) or self._abandoned)
                if not any(self._items):
                    if self._error is not None:
                        raise self._error
                    return
                item = self._take()
                self._changed.notify_all()
            yield item

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait for others, which is no fault: the thread answers meanwhile."""
        beat()
        while not self._changed.wait_for(ready, ROUND_S):
            beat()

    def _take(self) -> T:
        count = len(self._items)
        lane = next(lane % count for lane in range(self._next, self._next + count) if self._items[lane % count])
        self._next = (lane + 1) % count
        return self._items[lane].popleft()

    @property
    def depths(self) -> list[int]:
        """Items that wait, by lane."""
        with self._changed:
            return [len(items) for items in self._items]
