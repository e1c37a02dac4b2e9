"""What the command line says about the link; imports nothing heavy, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from babelrs.errors import BabelRSError
from runtime.links.budget import LEAST_BUDGET

PORTS = {"mqtt": 1883, "mqtts": 8883}
ENCODINGS = ("json", "compact")
PASSWORD_VARIABLE = "BABELRS_MQTT_PASSWORD"
MOST_SPOOL_MIB = 1 << 20
_LONGEST_TOPIC = 200
_REMEDY = "Give mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC."


@dataclass(frozen=True)
class Broker:
    """Where messages go.

    Attributes:
        host: Name or address.
        port: TCP port.
        prefix: What all topics begin with, without a slash at its end.
        is_secure: Whether TLS is used.
        user: Or ``None``.
        password: Or ``None``.
        ca: File of the authorities that may have signed the broker's certificate; ``None``: the system's.
    """

    host: str
    port: int
    prefix: str
    is_secure: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.is_secure else ''}://{host}:{self.port}/{self.prefix}"


@dataclass(frozen=True)
class LinkOptions:
    """How results are sent.

    Attributes:
        broker: Where to.
        budget: Bytes a minute; 0 is no limit.
        spool_mib: What may wait on disk.
        encoding: One of :data:`ENCODINGS`.
        thumbnails: Whether pictures of the best detections are sent when budget is left.
        linger_s: How long the end of a run waits for messages to go.
    """

    broker: Broker
    budget: int = 0
    spool_mib: int = 64
    encoding: str = "json"
    thumbnails: bool = False
    linger_s: float = 10.0


def add_link_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command line."""
    link = parser.add_argument_group("link", "send detections to an MQTT broker, see docs/links.md")
    add = link.add_argument
    add("--mqtt", metavar="URL", help="mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC")
    add("--mqtt-ca", metavar="FILE", help="authorities of the broker's certificate (default: the system's)")
    add("--mqtt-budget", type=int, default=0, metavar="BYTES", help="most bytes a minute (default: 0, no limit)")
    add("--mqtt-spool-mib", type=int, default=64, metavar="N", help="most MiB of waiting messages (default: 64)")
    add("--mqtt-encoding", choices=ENCODINGS, default="json", help="of detections (default: json)")
    add("--mqtt-thumbnails", action="store_true", help="send pictures of the best detections when budget is left")
    add("--mqtt-linger", type=float, default=10.0, metavar="S", help="seconds to send at the end (default: 10)")


def link_options(given: argparse.Namespace) -> LinkOptions | None:
    """The options that were given; ``None`` without ``--mqtt``.

    Raises:
        BabelRSError: A value is out of range, or the address is none.
    """
    if given.mqtt is None:
        return None
    if given.mqtt_budget != 0 and given.mqtt_budget < LEAST_BUDGET:
        raise BabelRSError(f"--mqtt-budget is {given.mqtt_budget}.", f"Give {LEAST_BUDGET} or more, or 0.")
    if not 1 <= given.mqtt_spool_mib <= MOST_SPOOL_MIB:
        raise BabelRSError(f"--mqtt-spool-mib is {given.mqtt_spool_mib}.", f"Give 1 to {MOST_SPOOL_MIB}.")
    if not 0 <= given.mqtt_linger <= 86_400:
        raise BabelRSError(f"--mqtt-linger is {given.mqtt_linger}.", "Give 0 to 86400 seconds.")
    return LinkOptions(
        broker=parse_broker(given.mqtt, given.mqtt_ca),
        budget=given.mqtt_budget,
        spool_mib=given.mqtt_spool_mib,
        encoding=given.mqtt_encoding,
        thumbnails=given.mqtt_thumbnails,
        linger_s=given.mqtt_linger,
    )


def parse_broker(address: str, ca: str | None = None) -> Broker:
    """The broker that an address names; a password may also be in the environment, where no list of processes has it.

    Args:
        address: ``mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC``.
        ca: File of authorities for TLS.

    Raises:
        BabelRSError: It names none, or the file is not there. The password is not in the message.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise BabelRSError("The --mqtt address cannot be read.", _REMEDY) from None
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise BabelRSError(
            f"The --mqtt address names no {'host' if parts.scheme in PORTS else 'MQTT broker'}.", _REMEDY
        )
    if ca is not None and (parts.scheme != "mqtts" or not Path(ca).is_file()):
        raise BabelRSError(f"--mqtt-ca is {ca!r}.", "Name a file that is there, with an address that begins mqtts://.")
    password = os.environ.get(PASSWORD_VARIABLE) if parts.password is None else unquote(parts.password)
    return Broker(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        prefix=_topic(unquote(parts.path)),
        is_secure=parts.scheme == "mqtts",
        user=unquote(parts.username) if parts.username else None,
        password=password if parts.username else None,
        ca=None if ca is None else Path(ca),
    )


def _topic(path: str) -> str:
    topic = path.strip("/")
    if not topic or len(topic) > _LONGEST_TOPIC or any(sign in "+#" or not sign.isprintable() for sign in topic):
        what = f"{topic!r} is no topic to publish under."
        raise BabelRSError(what, f"Give 1 to {_LONGEST_TOPIC} characters without + and #, after the host.")
    return topic
