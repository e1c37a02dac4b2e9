"""A real RTSP server as a child process, to be killed, frozen and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
_SYSTEM_PYTHON = "/usr/bin/python3"
_PACKAGES = "gstreamer1.0-tools gir1.2-gst-rtsp-server-1.0 python3-gi"
_CHECK = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert Gst.ElementFactory.find('openh264enc') and Gst.ElementFactory.find('rtph264pay')"
)


def require_rtsp_server() -> None:
    """Skip the test where Debian's packages are missing."""
    if not Path(_SYSTEM_PYTHON).exists():
        pytest.skip(f"the RTSP server runs in {_SYSTEM_PYTHON}, which is missing")
    done = subprocess.run([_SYSTEM_PYTHON, "-c", _CHECK], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["?"])[-1]
        pytest.skip(f"no RTSP server ({why}): apt-get install {_PACKAGES}")


def require_gst_launch() -> None:
    """Skip the test where Debian's packages are missing."""
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip(f"no gst-launch-1.0: apt-get install {_PACKAGES}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RtspServer:
    """Serves stamped pictures, see ``benchmarks.rtsp_server``."""

    def __init__(self, port: int, side_px: int = 160, fps: int = 25) -> None:
        self.url = f"rtsp://127.0.0.1:{port}/live"
        self._process = subprocess.Popen(
            [_SYSTEM_PYTHON, "-m", "benchmarks.rtsp_server", str(port), str(side_px), str(fps)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.kill()
            raise RuntimeError("the RTSP server did not start")

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
