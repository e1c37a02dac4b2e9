"""A Mosquitto broker of one's own, and a thin link to it: for tests and :mod:`benchmarks.links`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from babelrs.errors import BabelRSError
from benchmarks.rtsp_child import free_port

_READY_S = 15.0
_POLL_S = 0.02


def mosquitto_program() -> str:
    """Where Mosquitto is.

    Raises:
        BabelRSError: It is not installed.
    """
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BabelRSError("There is no Mosquitto.", "apt-get install mosquitto mosquitto-clients")
    return found


@dataclass
class Mosquitto:
    """A broker on a free port of this machine.

    Attributes:
        folder: For its files.
        settings: Lines of its configuration after the listener's.
        persistent: Whether it keeps sessions and retained messages over a restart.
        port: Its port.
    """

    folder: Path
    settings: Mapping[str, str] = field(default_factory=lambda: {"allow_anonymous": "true"})
    persistent: bool = False
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            BabelRSError: It is not installed, or does not come up.
        """
        program = mosquitto_program()
        kept = {"persistence": "true", "persistence_location": f"{self.folder}/", "autosave_interval": "1"}
        lines = {"listener": f"{self.port} 127.0.0.1", **self.settings, **(kept if self.persistent else {})}
        lines["max_queued_messages"] = "0"  # no limit: a receiver that is away loses nothing
        lines["user"] = "root"
        config = self.folder / "mosquitto.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(_POLL_S)
        raise BabelRSError("Mosquitto does not come up.", (self.folder / "mosquitto.log").read_text()[-500:])

    def stop(self, hard: bool = False) -> None:
        """End it: with a SIGKILL where ``hard``."""
        if self._process is not None:
            (self._process.kill if hard else self._process.terminate)()
            self._process.wait()
            self._process = None


class ThinLink:
    """A TCP proxy that lets so many bytes a second through, each way, and counts those that go up.

    Args:
        target_port: Of the broker, on this machine.
        bytes_per_s: Each way.
    """

    def __init__(self, target_port: int, bytes_per_s: float) -> None:
        self._target_port, self._rate = target_port, bytes_per_s
        self.up: list[tuple[float, int]] = []
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # queues belong to the sender
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections; new ones may come."""
        while self._sockets:
            with suppress(OSError):
                self._sockets.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            for source, target, is_up in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(source, target, is_up), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_up: bool) -> None:
        step = max(1, min(65_536, int(self._rate / 20)))
        with suppress(OSError):
            while data := source.recv(step):
                time.sleep(len(data) / self._rate)
                target.sendall(data)
                if is_up:
                    self.up.append((time.monotonic(), len(data)))
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
