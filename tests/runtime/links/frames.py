"""Results and receivers for tests of the link."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from babelrs.detections import Detections
from babelrs.sensors import Sensor
from benchmarks.mosquitto import Mosquitto
from runtime.geo import Places
from runtime.links.link import LinkSink, open_link_sinks
from runtime.links.options import Broker, LinkOptions
from runtime.links.receive import Inbox
from runtime.links.session import new_client
from runtime.pipeline import FrameResult
from tests.runtime.results import TIME, TIMES_MS

CLASSES = ("ship", "plane", "tank")
PREFIX = "babelrs/drone"


def frame(
    number: int,
    scores: Sequence[float],
    labels: Sequence[int] | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    places: Places | None = None,
    sensor: Sensor = Sensor.IR,
    source: str = "camera",
) -> FrameResult:
    """A frame with detections that lie far from each other, by default all of class 0."""
    count = len(scores)
    spread = [[200.0 * index + 40, 60.0, 30.0, 10.0, 0.25] for index in range(count)] if boxes is None else boxes
    found = Detections(
        np.array(spread, np.float32).reshape(-1, 5),
        np.array(scores, np.float32),
        np.array([0] * count if labels is None else labels, np.int32),
        CLASSES,
        sensor,
    )
    image = np.full((128, 160, sensor.num_channels), 90, np.uint8)
    return FrameResult(
        source, f"{number}", number, TIME, found, image, "toy", "fp32", TIMES_MS, size=(160, 128), places=places
    )


def options_for(port: int, linger_s: float = 10.0, **options: Any) -> LinkOptions:
    """Options of a link to a broker on this machine."""
    return LinkOptions(Broker("127.0.0.1", port, PREFIX), linger_s=linger_s, **options)


def open_sink(folder: Path, options: LinkOptions) -> LinkSink:
    """The sink of an infrared run."""
    return open_link_sinks(folder, {Sensor.IR}, options)[Sensor.IR]


class Listener:
    """Records what a broker publishes.

    Attributes:
        records: Messages, each once, in the order they came.
        raw: Topics without the prefix and payloads of all that came.
        inbox: Reads them.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.raw: list[tuple[str, bytes]] = []
        self.inbox = Inbox()

    def take(self, client: Any, userdata: Any, message: Any) -> None:
        topic = message.topic[len(PREFIX) + 1 :]
        self.raw.append((topic, bytes(message.payload)))
        record = self.inbox.take(topic, bytes(message.payload))
        if record is not None:
            self.records.append(record)

    @property
    def frames(self) -> list[int]:
        return [record["frame"] for record in self.records if "frame" in record]


@contextmanager
def listening(broker: Mosquitto, name: str = "ground") -> Iterator[Listener]:
    """A receiver that has a connection, and connects again by itself."""
    listener, subscribed = Listener(), []
    client = new_client(Broker("127.0.0.1", broker.port, PREFIX), name, is_clean=False)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda client, *_: client.subscribe(f"{PREFIX}/#", qos=1)
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.on_message = listener.take
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    wait_for(lambda: bool(subscribed))
    try:
        yield listener
    finally:
        client.disconnect()
        client.loop_stop()


def wait_for(what: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Wait until it holds; a test fails where it never does."""
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)
