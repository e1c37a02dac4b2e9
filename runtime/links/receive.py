"""``babelrs-receive``: what a link sends, on the ground, as JSON Lines; each message once."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from babelrs.errors import EXIT_DONE, BabelRSError, DeviceError, run_command
from runtime.links.compact import MAGIC, decode, decode_classes
from runtime.links.options import Broker, parse_broker
from runtime.links.session import CLASSES_TOPIC, KEEP_ALIVE_S, STATE_TOPIC, STATUS_TOPIC, new_client

if TYPE_CHECKING:
    from paho.mqtt.client import Client

REMEMBERED_IDS = 100_000
_PAUSE_S = 1.0
_POLL_S = 0.2
_LOGGER = logging.getLogger(__name__)

Record = dict[str, Any]


@dataclass
class Inbox:
    """Reads messages and drops those that came before.

    Attributes:
        dictionaries: Class names by their number.
        num_doubles: Messages that came again.
        num_bad: Messages that could not be read.
    """

    dictionaries: dict[int, tuple[str, ...]] = field(default_factory=dict)
    num_doubles: int = 0
    num_bad: int = 0
    _seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def take(self, topic: str, payload: bytes) -> Record | None:
        """A message as plain values; ``None`` for a double, a dictionary, or what cannot be read.

        Args:
            topic: Without the prefix.
            payload: The message.
        """
        try:
            if topic.startswith(f"{CLASSES_TOPIC}/"):
                found = decode_classes(payload)
                self.dictionaries[found.number] = found.classes
                return None
            if topic in (STATE_TOPIC, STATUS_TOPIC):
                _LOGGER.info("%s: %s", topic, payload.decode(errors="backslashreplace"))
                return None
            return self._once(decode(payload, self.dictionaries) if payload[:1] == bytes((MAGIC,)) else _json(payload))
        except BabelRSError as error:
            self.num_bad += 1
            _LOGGER.warning("%s: %s", topic, error)
            return None

    def _once(self, record: Record) -> Record | None:
        identity = record["id"]
        if identity in self._seen:
            self.num_doubles += 1
            return None
        self._seen[identity] = None
        while len(self._seen) > REMEMBERED_IDS:
            self._seen.popitem(last=False)
        return record


def _json(payload: bytes) -> Record:
    """A JSON message.

    Raises:
        BabelRSError: It is none.
    """
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise BabelRSError("A message is neither JSON with an id nor compact.", "See who else publishes there.")
    return record


def receive(
    broker: Broker, client_id: str, is_durable: bool, take: Callable[[str, bytes], None], is_over: Callable[[], bool]
) -> None:
    """Hand on all messages below the broker's topic until it is over; connects again whenever it must.

    Args:
        broker: Where.
        client_id: This receiver's name.
        is_durable: Whether the broker keeps messages for it while it is away.
        take: Gets each topic, without the prefix, and payload; a message is acknowledged once this returns.
        is_over: Asked a few times a second.

    Raises:
        BabelRSError: The broker refuses, or paho-mqtt is not installed.
    """
    refusals: list[str] = []
    client = _subscriber(broker, client_id, is_durable, take, is_over, refusals)
    is_open = False
    while not is_over():
        cause = "lost"
        try:
            if not is_open:
                client.connect(broker.host, broker.port, keepalive=KEEP_ALIVE_S)
            is_open = client.loop(_POLL_S) == 0
        except OSError as error:
            is_open, cause = False, str(error)
        if refusals:
            raise BabelRSError(f"{broker}: the broker refuses: {refusals[0]}.", "Check user, password and its rules.")
        if not is_open:
            _LOGGER.info("%s: no connection (%s)", broker, cause)
            time.sleep(_PAUSE_S)
    client.disconnect()


def _subscriber(
    broker: Broker,
    client_id: str,
    is_durable: bool,
    take: Callable[[str, bytes], None],
    is_over: Callable[[], bool],
    refusals: list[str],
) -> Client:
    """A client for :func:`receive`; what the broker refuses with is added to ``refusals``."""
    client = new_client(broker, client_id, is_clean=not is_durable)

    def on_connect(client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            refusals.append(str(reason))
        else:
            client.subscribe(f"{broker.prefix}/#", qos=1)

    def on_message(client: Any, userdata: Any, message: Any) -> None:
        if not is_over():  # what comes too late stays with the broker
            take(message.topic[len(broker.prefix) + 1 :], bytes(message.payload))
            client.ack(message.mid, message.qos)

    client.manual_ack_set(True)
    client.on_connect, client.on_message = on_connect, on_message
    return client


def write_record(record: Record, pictures: str | None) -> None:
    """Write one line to standard output; a thumbnail to a file, where there is a folder for them.

    Raises:
        BabelRSError: It cannot be written.
    """
    try:
        if pictures is not None and isinstance(record.get("jpeg"), str):
            name = "".join(sign if sign.isalnum() or sign == "-" else "_" for sign in record["id"][:60])
            picture = base64.b64decode(record["jpeg"])
            record = {**record, "jpeg": f"{name}.jpg"}
            os.makedirs(pictures, exist_ok=True)
            with open(os.path.join(pictures, record["jpeg"]), "wb") as file:
                file.write(picture)
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except (OSError, binascii.Error) as error:
        raise DeviceError(f"A message cannot be written ({error}).", "Free some space.") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``babelrs-receive`` and return its exit code; ``None`` takes the process's arguments."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int:
    given = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level="INFO" if given.verbose else "WARNING")
    broker = parse_broker(given.url, given.mqtt_ca)
    inbox, start, written = Inbox(), time.monotonic(), [0]

    def take(topic: str, payload: bytes) -> None:
        record = inbox.take(topic, payload)
        if record is not None:
            write_record(record, given.pictures)
            written[0] += 1

    def is_over() -> bool:
        late = given.seconds is not None and time.monotonic() - start >= given.seconds
        return late or (given.count is not None and written[0] >= given.count)

    receive(broker, given.name or f"babelrs-receive-{os.urandom(4).hex()}", given.name is not None, take, is_over)
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="babelrs-receive", description="Receive what babelrs-run --mqtt sends; one JSON object a line."
    )
    parser.add_argument("url", metavar="URL", help="mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC")
    parser.add_argument("--mqtt-ca", metavar="FILE", help="authorities of the broker's certificate")
    parser.add_argument("--name", help="of this receiver: the broker keeps messages for it while it is away")
    parser.add_argument(
        "--pictures", metavar="DIR", help="write thumbnails as files here (default: base64 in the lines)"
    )
    parser.add_argument("--count", type=int, metavar="N", help="end after so many messages")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after so long")
    parser.add_argument("--verbose", action="store_true", help="states and statuses on standard error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
