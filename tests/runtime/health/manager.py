"""A service manager for tests: the socket that systemd would listen on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

PATIENT_S = 60.0


class Manager:
    """Receives notifications.

    Args:
        address: As ``NOTIFY_SOCKET`` has it: a path, or a name after ``@``.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
        """Receive until a message is as wanted; all that came, that one at the end."""
        came: list[dict[str, str]] = []
        end = time.monotonic() + PATIENT_S
        while not (came and wanted(came[-1])):
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            came.append(dict(line.partition("=")[::2] for line in self._socket.recv(65536).decode().splitlines()))
        self.messages += came
        return came

    def close(self) -> None:
        self._socket.close()
