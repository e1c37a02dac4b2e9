"""What live sources are tested with; tests skip where Debian's packages are missing."""

from __future__ import annotations

import shutil

import pytest

from babelrs.errors import BabelRSError
from benchmarks import rtsp_child


def require_rtsp_server() -> None:
    """Skip the test where no RTSP server can run."""
    try:
        rtsp_child.require_rtsp_server()
    except BabelRSError as error:
        pytest.skip(str(error))


def require_gst_launch() -> None:
    """Skip the test where GStreamer's command line is missing."""
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip(f"no gst-launch-1.0: apt-get install {rtsp_child.PACKAGES}")
