"""Messages to systemd: ready, alive, stopping. The protocol is a datagram of lines on an ``AF_UNIX`` socket."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

_LOGGER = logging.getLogger(__name__)


class Notifier:
    """Tells a service manager how the service fares; nothing where there is none.

    Args:
        address: Path of its socket; ``@`` at the beginning: an abstract one; ``None``: there is no manager.
    """

    def __init__(self, address: str | None) -> None:
        self._address = "" if address is None else _socket_address(address)
        self._socket: socket.socket | None = None
        self._fault = ""

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def tell(self, **fields: object) -> bool:
        """Send fields, as in ``tell(READY=1, STATUS="...")``; whether the manager's socket took them.

        A socket that takes nothing is logged once for each cause, and never waited for.
        """
        if not self._address:
            return False
        text = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in fields.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto(text.encode(errors="replace"), self._address)
        except OSError as error:
            if self._fault != str(error):
                self._fault = str(error)
                _LOGGER.warning("the service manager cannot be told: %s", error.strerror)
            return False
        self._fault = ""
        return True

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def notifier_of(environment: Mapping[str, str] = os.environ) -> Notifier:
    """The manager that started this process, by ``NOTIFY_SOCKET``."""
    address = environment.get("NOTIFY_SOCKET", "")
    return Notifier(address if address[:1] in ("/", "@") and len(address) > 1 else None)


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """``WatchdogSec`` of the unit, where the manager wants this process to say that it is alive."""
    text, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdecimal() and int(text)) or owner not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6


def _socket_address(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
