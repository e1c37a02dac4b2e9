"""The link of a run and the sinks that feed it, one for each sensor."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from babelrs.sensors import Sensor
from runtime.links.budget import Budget
from runtime.links.compact import dictionary_id, encode_classes, encode_detections, encode_thumbnail
from runtime.links.message import Encode, Message, MessageId, grouped, json_detections, json_thumbnail, pieces
from runtime.links.options import LinkOptions
from runtime.links.publisher import Publisher, classes_topic
from runtime.links.session import connect, new_client, opening_bytes
from runtime.links.spool import Spool
from runtime.links.thumbnail import thumbnail
from runtime.links.value import THUMBNAIL, Valuer
from runtime.pipeline import FrameResult

SPOOL_NAME = "mqtt.spool"
PICTURED = 2
"""Of the priorities below this the best detection of each message has a thumbnail."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoding:
    """How messages become bytes."""

    detections: Encode
    thumbnail: Callable[[bytes, MessageId, MessageId], bytes]


ENCODERS = {
    "json": Encoding(json_detections, json_thumbnail),
    "compact": Encoding(encode_detections, encode_thumbnail),
}


class Link:
    """Values what was found, keeps it on disk, and has it published.

    Args:
        folder: Where the spool lies.
        options: How results are sent.
        num_sinks: The link ends when so many sinks are closed.

    Raises:
        BabelRSError: paho-mqtt is not installed, or the spool cannot be used. A broker that is not there is no error.
    """

    def __init__(self, folder: Path, options: LinkOptions, num_sinks: int) -> None:
        broker = options.broker
        new_client(broker, "")  # says at once what a connection would say later
        self._options, self._num_open = options, num_sinks
        self._path = folder / SPOOL_NAME
        self.spool = Spool(self._path, options.spool_mib << 20)
        client_id = f"babelrs-{self.spool.origin:08x}"
        budget = Budget(options.budget, time.monotonic)
        self.publisher = Publisher(
            str(broker),
            broker.prefix,
            self.spool,
            budget,
            partial(connect, broker, client_id),
            opening_bytes(broker, client_id),
        )
        self._announced: set[int] = set()
        self._num_messages = 0
        self._last: dict[str, Any] = {}
        self._encoding = ENCODERS[options.encoding]
        self.publisher.start()

    def send(self, result: FrameResult, valuer: Valuer) -> None:
        """Have a frame's detections sent in time; returns once they are on disk.

        Raises:
            BabelRSError: They cannot be kept on disk.
        """
        if self.publisher.failure is not None:
            raise self.publisher.failure
        self._announce(result)
        messages: list[Message] = []
        worths = [(one.priority, one.value) for one in valuer.judge(result)]
        for group in grouped(result, worths):
            for part, identity, payload in pieces(group, self._encoding.detections, self._identify):
                value = worths[part.indices[0]][1]
                topic = f"{result.sensor}/detections"
                messages.append(Message(identity.sequence, part.priority, value, topic, payload))
                if self._options.thumbnails and part.priority < PICTURED:
                    messages += self._pictured(result, part.indices[0], identity, value)
        if messages:
            self._num_messages += len(messages)
            self._say(self.spool.add(messages))

    def status(self) -> dict[str, Any]:
        """What the publisher's status says, and how many messages were made; after the end, what it was then."""
        if self._num_open:
            self._last = {**self.publisher.status(), "messages": self._num_messages}
        return self._last

    def sink_closed(self) -> None:
        """A sink takes no more; with the last, the link ends."""
        if self._num_open > 1:
            self._num_open -= 1
            return
        self.publisher.close(self._options.linger_s)
        self.status()
        self._num_open = 0
        left = sum(self.spool.waiting().values())
        self.spool.close()
        if left:
            what = "%d messages wait in %s; the next run with this --out and --mqtt sends them"
            _LOGGER.warning(what, left, self._path)

    def _identify(self) -> MessageId:
        return MessageId(self.spool.origin, self.spool.next_sequence())

    def _announce(self, result: FrameResult) -> None:
        classes = result.detections.classes
        number = dictionary_id(result.sensor, classes)
        if self._options.encoding == "compact" and number not in self._announced:
            self._announced.add(number)
            self.publisher.announce(classes_topic(number), encode_classes(result.sensor, classes))

    def _pictured(self, result: FrameResult, index: int, of: MessageId, value: float) -> list[Message]:
        jpeg = thumbnail(result, index)
        if jpeg is None:
            return []
        identity = self._identify()
        payload = self._encoding.thumbnail(jpeg, of, identity)
        return [Message(identity.sequence, THUMBNAIL, value, f"{result.sensor}/thumbnails", payload)]

    def _say(self, dropped: dict[int, int]) -> None:
        """The first loss of each priority, and then ever fewer: the 2nd, the 4th, ... of all so far."""
        for priority, count in dropped.items():
            total = self.spool.dropped[priority]
            if total.bit_length() == (total - count).bit_length():
                continue
            kind = "thumbnails" if priority == THUMBNAIL else f"messages of priority {priority}"
            level = logging.ERROR if priority == 0 else logging.WARNING
            _LOGGER.log(level, "%s is full: %d %s were dropped so far", self._path.name, total, kind)


class LinkSink:
    """Hands the results of one sensor to the link.

    Args:
        link: Shared by all sensors.
    """

    def __init__(self, link: Link) -> None:
        self._link, self._valuer = link, Valuer()

    def write(self, result: FrameResult) -> None:
        """See :meth:`Link.send`."""
        self._link.send(result, self._valuer)

    def status(self) -> dict[str, Any]:
        """See :meth:`Link.status`."""
        return self._link.status()

    def close(self) -> None:
        """See :meth:`Link.sink_closed`."""
        self._link.sink_closed()


def open_link_sinks(folder: Path, sensors: set[Sensor], options: LinkOptions) -> dict[Sensor, LinkSink]:
    """A sink for each sensor, all on one link with one budget.

    Raises:
        BabelRSError: As for :class:`Link`.
    """
    link = Link(folder, options, len(sensors))
    return {sensor: LinkSink(link) for sensor in sensors}
