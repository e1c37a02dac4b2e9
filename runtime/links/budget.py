"""How many bytes may go out, and how many may be under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60.0
SHARES = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Part of the budget that each priority may use up, thumbnails last: what is urgent always finds some left."""
LEAST_BUDGET = 4096
"""Bytes a minute: below this a message of one detection and its like would not fit."""
PINGS_BYTES = 16
"""Of a minute's budget: keep-alive packets both ways, and the last one."""
PUBACK_BYTES = 4


def packet_bytes(topic: str, payload: bytes) -> int:
    """MQTT bytes of a PUBLISH with QoS 1 and the PUBACK that answers it; TLS, TCP and IP come on top."""
    rest = 2 + len(topic.encode()) + 2 + len(payload)
    length_bytes = 1 + (rest >= 1 << 7) + (rest >= 1 << 14) + (rest >= 1 << 21)
    return 1 + length_bytes + rest + PUBACK_BYTES


@dataclass
class Budget:
    """At most so many bytes in any minute, counted over a window that slides: no two bursts meet.

    A message leaves at some time between being handed over and being answered; it is counted for a minute after that.

    Attributes:
        per_minute: Bytes; 0 is no limit.
        clock: Seconds that never jump.
    """

    per_minute: int
    clock: Callable[[], float]
    _spent: deque[tuple[float, int]] = field(default_factory=deque)
    _sum: int = 0
    _under_way: int = 0

    @property
    def last_minute(self) -> int:
        """Bytes that may have gone in the minute before now."""
        begin = self.clock() - WINDOW_S
        while self._spent and self._spent[0][0] <= begin:
            self._sum -= self._spent.popleft()[1]
        return self._sum + self._under_way

    def most(self, priority: int) -> int | None:
        """Bytes of the largest message of a priority that can ever go; ``None`` for any."""
        return int(SHARES[priority] * (self.per_minute - PINGS_BYTES)) if self.per_minute else None

    def allows(self, priority: int, num_bytes: int) -> bool:
        """Whether so many bytes of a priority may go now."""
        most = self.most(priority)
        return most is None or self.last_minute + num_bytes <= most

    def begin(self, num_bytes: int) -> None:
        """Count bytes that go from now on."""
        self._under_way += num_bytes

    def end(self, num_bytes: int) -> None:
        """They have gone."""
        self._under_way -= num_bytes
        self._spent.append((self.clock(), num_bytes))
        self._sum += num_bytes


@dataclass
class Window:
    """Bytes that may be under way unanswered: few on a slow link, so that what is urgent need not queue behind them.

    Grows by what is answered fast, halves with each slow answer.
    """

    num_bytes: int = 2048

    LEAST, MOST = 2048, 1 << 18
    FAST_S, SLOW_S = 0.7, 2.0

    def answered(self, after_s: float, num_bytes: int) -> None:
        """An answer came so many seconds after its message of so many bytes."""
        if after_s < self.FAST_S:
            self.num_bytes = min(self.MOST, self.num_bytes + num_bytes)
        elif after_s > self.SLOW_S:
            self.num_bytes = max(self.LEAST, self.num_bytes // 2)
