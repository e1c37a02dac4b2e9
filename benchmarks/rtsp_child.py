"""A local RTSP server as a child process, to be killed, frozen and started again; see :mod:`benchmarks.rtsp_server`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from babelrs.errors import BabelRSError

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGES = "gstreamer1.0-tools gir1.2-gst-rtsp-server-1.0 python3-gi"
"""Debian packages that the server takes; the plugins come with them."""

_REPOSITORY = Path(__file__).resolve().parents[1]
_CHECK = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert Gst.ElementFactory.find('openh264enc') and Gst.ElementFactory.find('rtph264pay')"
)


def require_rtsp_server() -> None:
    """Look whether the server can run.

    Raises:
        BabelRSError: What it takes is not installed.
    """
    remedy = f"Install it with `apt-get install {PACKAGES}`."
    if not Path(SYSTEM_PYTHON).exists():
        raise BabelRSError(f"The RTSP server runs in {SYSTEM_PYTHON}, which is missing.", remedy)
    done = subprocess.run([SYSTEM_PYTHON, "-c", _CHECK], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise BabelRSError(f"The RTSP server cannot run ({why}).", remedy)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RtspServer:
    """A running server, which listens when this returns.

    Args:
        port: Where it listens.
        side_px: Columns and rows of its pictures; a multiple of 8.
        fps: Frames a second.
    """

    def __init__(self, port: int, side_px: int = 160, fps: int = 25) -> None:
        self.url = f"rtsp://127.0.0.1:{port}/live"
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, "-m", "benchmarks.rtsp_server", str(port), str(side_px), str(fps)],
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.kill()
            raise BabelRSError(f"The RTSP server did not start on port {port}.", "See what it says above.")

    def freeze(self) -> None:
        """Have it stand still with its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it without a word to its clients."""
        self._process.kill()
        self._process.wait()
