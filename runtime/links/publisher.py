"""Takes messages from the spool to the broker, in a thread of its own: the best first, within the budget."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.links.budget import Budget, Window, packet_bytes
from runtime.links.message import Message
from runtime.links.session import (
    CLASSES_TOPIC,
    OFFLINE,
    ONLINE,
    STATE_TOPIC,
    STATUS_TOPIC,
    LinkFault,
    Session,
    status_payload,
)
from runtime.links.spool import Spool
from runtime.sources.clock import Clock, utc_text
from runtime.sources.supervised import Supervision

STATUS_S = 60.0
PAUSES = Supervision(first_wait_s=0.5, factor=2.0, longest_wait_s=30.0)
MOST_UNDER_WAY = 64
GOODBYE_S = 1.0
_POLL_S = 0.05
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnderWay:
    """A message that the broker has not acknowledged; without one, a state, a status or a dictionary."""

    message: Message | None
    num_bytes: int
    since_s: float


@dataclass(frozen=True)
class Control:
    """Something small that goes before all messages, and is retained by the broker."""

    topic: str
    payload: bytes


class Publisher:
    """Publishes until it is closed; without a broker it tries again with growing pauses and says each cause once.

    Args:
        name: The broker's, without credentials.
        prefix: What all topics begin with.
        spool: Where messages come from; they stay in it until the broker acknowledges them.
        budget: What may go out.
        connect: Opens a connection; raises :class:`LinkFault`.
        opening_bytes: What that costs.
        clock: Tells the time and waits.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        spool: Spool,
        budget: Budget,
        connect: Callable[[], Session],
        opening_bytes: int,
        clock: Clock | None = None,
    ) -> None:
        self._name, self._prefix, self._spool, self._budget, self._connect = name, prefix, spool, budget, connect
        self._clock, self._opening_bytes = clock or Clock(), opening_bytes
        self.sent: Counter[int] = Counter()
        self.failure: BaseException | None = None
        self._closing = threading.Event()
        self._deadline_s: float | None = None
        self._announced: deque[Control] = deque()  # filled by any thread
        # Of the thread alone:
        self._control: deque[Control] = deque()
        self._under_way: dict[int, UnderWay] = {}
        self._window = Window()
        self._attempts = 0
        self._said: set[str] = set()
        self._status_due_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def announce(self, topic: str, payload: bytes) -> None:
        """Have something retained by the broker, now and on every connection; it goes before later messages."""
        self._spool.keep_retained(topic, payload)
        self._announced.append(Control(topic, payload))

    def close(self, linger_s: float) -> None:
        """Send what waits for so many seconds while there is a connection, then end."""
        self._deadline_s = self._clock.monotonic() + linger_s
        self._closing.set()
        self._thread.join()

    def status(self) -> dict[str, Any]:
        """Counts since the start: by priority, messages that wait, were sent and were dropped; bytes of a minute."""
        spool = self._spool
        return {
            "time": utc_text(self._clock.now()),
            "spooled": _by_name(spool.waiting()),
            "spool_bytes": spool.num_bytes,
            "sent": _by_name(self.sent),
            "dropped": _by_name(spool.dropped),
            "damaged": spool.damaged,
            "bytes_last_minute": self._budget.last_minute,
            "budget": self._budget.per_minute,
        }

    def _run(self) -> None:
        try:
            while True:
                self._connection()
                if self._closing.is_set():
                    return
                wait_s = PAUSES.wait_s(max(1, self._attempts), random.random())
                self._clock.wait(self._closing, wait_s)
        except BaseException as failure:  # a full disk or a defect: either belongs to who writes results
            self.failure = failure

    def _connection(self) -> None:
        """One connection, from opening it to its end."""
        if not self._budget.allows(0, self._opening_bytes):
            return
        session: Session | None = None
        politely = False
        self._attempts += 1
        try:
            session = self._open()
            self._greet()
            while not self._is_done():
                self._step(session)
            politely = self._say_goodbye(session)
        except LinkFault as fault:
            self._report(str(fault))
        finally:
            for entry in self._under_way.values():
                self._budget.end(entry.num_bytes)
            self._under_way.clear()
            self._spool.release()
            if session is not None:
                session.close(politely)

    def _open(self) -> Session:
        self._budget.begin(self._opening_bytes)
        try:
            return self._connect()
        finally:
            self._budget.end(self._opening_bytes)

    def _greet(self) -> None:
        self._announced.clear()  # they are in the spool
        self._control = deque([Control(STATE_TOPIC, ONLINE)])
        self._control += [Control(topic, payload) for topic, payload in self._spool.retained().items()]
        self._status_due_s = self._clock.monotonic()

    def _is_done(self) -> bool:
        if not self._closing.is_set():
            return False
        assert self._deadline_s is not None  # set before the event
        nothing_left = not (self._under_way or self._control or self._announced or self._spool.best())
        return nothing_left or self._clock.monotonic() >= self._deadline_s

    def _step(self, session: Session) -> None:
        if self._clock.monotonic() >= self._status_due_s:
            self._status_due_s = self._clock.monotonic() + STATUS_S
            if not any(control.topic == STATUS_TOPIC for control in self._control):
                self._control.append(Control(STATUS_TOPIC, status_payload(self.status())))
        while self._send_next(session):
            pass
        self._take(session.poll(_POLL_S))

    def _take(self, answered: list[int]) -> None:
        entries = [self._under_way.pop(number) for number in answered if number in self._under_way]
        for entry in entries:
            self._budget.end(entry.num_bytes)
            self._window.answered(self._clock.monotonic() - entry.since_s, entry.num_bytes)
        messages = [entry.message for entry in entries if entry.message is not None]
        if messages:
            self._spool.remove([message.sequence for message in messages])
            self.sent.update(message.priority for message in messages)
        if entries and self._attempts:
            if self._said:
                _LOGGER.warning("%s: back at attempt %d", self._name, self._attempts)
            self._attempts = 0
            self._said.clear()

    def _send_next(self, session: Session) -> bool:
        """Send what is next, if it may go now; whether it did, or was given up."""
        sequences = [entry.message.sequence for entry in self._under_way.values() if entry.message is not None]
        message = self._spool.best(sequences)
        while self._announced:  # looked at after the spool: what was announced before a message goes before it
            self._control.append(self._announced.popleft())
        if self._control:
            return self._send_control(session)
        if message is None:
            return False
        topic = f"{self._prefix}/{message.topic}"
        size = packet_bytes(topic, message.payload)
        most = self._budget.most(message.priority)
        if most is not None and size > most:
            _LOGGER.warning("%s: a message of %d bytes is given up, as the budget has no room for it", self._name, size)
            self._spool.drop(message)
            return True
        if not (self._has_room(size) and self._budget.allows(message.priority, size)):
            return False
        if self._spool.hold(message.sequence):
            self._publish(session, topic, message.payload, message)
        return True

    def _send_control(self, session: Session) -> bool:
        control = self._control[0]
        topic = f"{self._prefix}/{control.topic}"
        size, most = packet_bytes(topic, control.payload), self._budget.most(0)
        if most is not None and size > most:
            _LOGGER.warning("%s: %s is %d bytes and is not sent: more than the budget", self._name, control.topic, size)
            self._control.popleft()
            return True
        if not (self._has_room(size) and self._budget.allows(0, size)):
            return False
        self._control.popleft()
        self._publish(session, topic, control.payload)
        return True

    def _has_room(self, size: int) -> bool:
        under_way = sum(entry.num_bytes for entry in self._under_way.values())
        few = len(self._under_way) < MOST_UNDER_WAY
        return not self._under_way or (few and under_way + size <= self._window.num_bytes)

    def _publish(self, session: Session, topic: str, payload: bytes, message: Message | None = None) -> None:
        size = packet_bytes(topic, payload)
        self._budget.begin(size)
        try:
            number = session.publish(topic, payload, retain=message is None)
        except LinkFault:
            self._budget.end(size)
            raise
        self._under_way[number] = UnderWay(message, size, self._clock.monotonic())

    def _say_goodbye(self, session: Session) -> bool:
        """Say that this end is offline; not where the budget is used up, as the broker's will says it too."""
        self._control = deque([Control(STATUS_TOPIC, status_payload(self.status())), Control(STATE_TOPIC, OFFLINE)])
        until_s = self._clock.monotonic() + GOODBYE_S
        while self._control or self._under_way:
            while self._control and self._send_control(session):
                pass
            if self._clock.monotonic() >= until_s:
                return False
            self._take(session.poll(_POLL_S))
        return True

    def _report(self, cause: str) -> None:
        if cause not in self._said:
            self._said.add(cause)
            _LOGGER.warning("%s: %s; messages wait on disk until it is back", self._name, cause)


def classes_topic(number: int) -> str:
    """Where a dictionary of the compact encoding is retained."""
    return f"{CLASSES_TOPIC}/{number:08x}"


def _by_name(counts: Counter[int]) -> dict[str, int]:
    return {str(priority): count for priority, count in sorted(counts.items())}
