"""One connection to an MQTT broker; a new one for each, so that nothing is sent again behind the spool's back."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from babelrs.errors import BabelRSError
from runtime.links.options import Broker

if TYPE_CHECKING:
    from paho.mqtt.client import Client

KEEP_ALIVE_S = 30
CONNECT_S = 10.0
STATE_TOPIC, STATUS_TOPIC, CLASSES_TOPIC = "state", "status", "classes"
ONLINE, OFFLINE = b"online", b"offline"
_MOST_UNDER_WAY = 1000


class LinkFault(Exception):
    """The connection is of no use; a new one may be. The message is the cause, the same words each time."""


@dataclass
class Session:
    """An open connection; used by one thread.

    Attributes:
        client: The connection.
        answered: Packet numbers that the broker acknowledged and nobody has taken yet.
    """

    client: Client
    answered: list[int] = field(default_factory=list)
    _is_open: bool = False
    _refusal: str | None = None

    def poll(self, seconds: float) -> list[int]:
        """Send and receive for so long, or until something came; packet numbers that the broker acknowledged.

        Raises:
            LinkFault: The connection is gone.
        """
        code = self.client.loop(seconds)
        if self._refusal is not None:
            raise LinkFault(self._refusal)
        answered, self.answered = self.answered, []
        if code != 0 and not answered:
            raise LinkFault("the connection was lost")
        return answered

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int:
        """Hand over a message with QoS 1; its packet number.

        Raises:
            LinkFault: The connection is gone.
        """
        info = self.client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != 0:
            raise LinkFault("the connection was lost")
        return int(info.mid)

    def close(self, politely: bool = True) -> None:
        """End the connection, without waiting; the broker publishes the will unless it is told politely."""
        if politely:
            self.client.disconnect()
            self.client.loop(0.05)
        sock = self.client.socket()
        if sock is not None:
            sock.close()


def connect(broker: Broker, client_id: str, with_will: bool = True) -> Session:
    """Open a connection.

    Args:
        broker: Where.
        client_id: What the broker calls this end; a second one of the same name would end the first.
        with_will: Whether the broker is to say that this end is offline once it is.

    Raises:
        LinkFault: There is no broker, or it refuses.
        BabelRSError: paho-mqtt is not installed, or the file of authorities is none.
    """
    client = new_client(broker, client_id)
    if with_will:
        client.will_set(f"{broker.prefix}/{STATE_TOPIC}", OFFLINE, qos=1, retain=True)
    session = Session(client)
    client.on_connect = lambda client, userdata, flags, reason, properties: _connected(session, reason)
    client.on_publish = lambda client, userdata, number, reason, properties: session.answered.append(number)
    try:
        client.connect(broker.host, broker.port, keepalive=KEEP_ALIVE_S)
        deadline = time.monotonic() + CONNECT_S
        while not session._is_open:
            session.poll(0.2)
            if time.monotonic() > deadline:
                raise LinkFault("the broker does not answer")
    except (OSError, ValueError) as error:
        raise LinkFault(_cause(error)) from None
    except LinkFault:
        session.close()
        raise
    return session


def opening_bytes(broker: Broker, client_id: str) -> int:
    """MQTT bytes of the CONNECT and CONNACK of :func:`connect`."""
    will = f"{broker.prefix}/{STATE_TOPIC}".encode() + OFFLINE
    texts = [client_id.encode(), will, (broker.user or "").encode(), (broker.password or "").encode()]
    head, lengths, connack = 3 + 10, 5 * 2, 4
    return head + lengths + sum(map(len, texts)) + connack


def new_client(broker: Broker, client_id: str, is_clean: bool = True) -> Client:
    """A client that is not connected yet; the broker keeps nothing for a clean one while it is away.

    Raises:
        BabelRSError: paho-mqtt is not installed, or the file of authorities is none.
    """
    mqtt = paho()
    version = mqtt.CallbackAPIVersion.VERSION2
    client: Client = mqtt.Client(version, client_id, clean_session=is_clean, protocol=mqtt.MQTTv311)
    client.max_inflight_messages_set(_MOST_UNDER_WAY)
    client.connect_timeout = CONNECT_S
    if broker.user is not None:
        client.username_pw_set(broker.user, broker.password)
    if broker.is_secure:
        try:
            client.tls_set(None if broker.ca is None else str(broker.ca))
        except (OSError, ValueError) as error:
            what = f"--mqtt-ca {broker.ca} holds no certificates ({error})."
            raise BabelRSError(what, "Name a PEM file.") from None
    return client


def paho() -> Any:
    """The module ``paho.mqtt.client``.

    Raises:
        BabelRSError: It is not installed, or too old.
    """
    try:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: F401  # since 2
    except ImportError:
        raise BabelRSError("--mqtt needs paho-mqtt 2 or later.", "pip install 'babelrs[mqtt]'") from None
    return mqtt


def status_payload(status: Mapping[str, Any]) -> bytes:
    """Schema ``babelrs.link-status/1``."""
    return json.dumps({"schema": "babelrs.link-status/1", **status}, separators=(",", ":")).encode()


def _connected(session: Session, reason: Any) -> None:
    if reason.is_failure:
        session._refusal = f"the broker refuses: {reason}"
    else:
        session._is_open = True


def _cause(error: Exception) -> str:
    """Without numbers that differ from one attempt to the next."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return f"no connection: {error.strerror}"
    return f"no connection: {error}"
