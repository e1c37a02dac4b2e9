"""Serves a run's health over HTTP: ``/metrics`` for Prometheus, ``/healthz`` for whoever asks only whether it lives."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn
from typing import Any

from babelrs.errors import BabelRSError
from runtime.health.exposition import CONTENT_TYPE, exposition

AT_ONCE = 4
"""Requests that are answered at a time; of more, the connection is closed: clients cannot make threads without end."""
PATIENCE_S = 5.0
"""How long a client may take for a part of its request."""
_POLL_S = 0.1
"""What stopping may wait."""
_LOGGER = logging.getLogger(__name__)


class HealthServer:
    """An HTTP server in threads of its own.

    Args:
        host: Address to listen on.
        port: Port; 0: any that is free.
        snapshot: Gives the report.

    Raises:
        BabelRSError: The address cannot be listened on.
    """

    def __init__(self, host: str, port: int, snapshot: Callable[[], dict[str, Any]]) -> None:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._server = _Server(family, (host, port), _handler_of(snapshot))
        except OSError as error:
            what = f"--prometheus: {host}:{port} cannot be listened on ({error.strerror})."
            raise BabelRSError(what, "Give another port, or an address of this device.") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="prometheus", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, TCPServer):
    """Unlike ``http.server.ThreadingHTTPServer`` it asks no name server for its name, and makes few threads."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # a client that takes its time must not hold the run's end up

    def __init__(self, family: int, address: tuple[str, int], handler: type[BaseRequestHandler]) -> None:
        self.address_family = family
        self._free = threading.Semaphore(AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, where one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        _LOGGER.info("a request of %s was not answered", client_address[0], exc_info=True)


def _handler_of(snapshot: Callable[[], dict[str, Any]]) -> type[BaseRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S
        server_version, sys_version = "babelrs", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE, exposition(snapshot()))
            elif path == "/healthz":
                report = snapshot()
                self._answer(200 if report["healthy"] else 503, "application/json", json.dumps(report) + "\n")
            else:
                self._answer(404, "text/plain; charset=utf-8", "There are /metrics and /healthz.\n")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            _LOGGER.debug(format, *args)

        def _answer(self, code: int, kind: str, text: str) -> None:
            body = text.encode(errors="replace")  # file names need not be UTF-8
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
