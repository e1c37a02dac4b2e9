"""A local RTSP server whose pictures tell their number and when they were made; run by a Python that has ``gi``.

    /usr/bin/python3 -m benchmarks.rtsp_server PORT [SIDE_PX [FPS]]

Serves ``rtsp://127.0.0.1:PORT/live`` as H.264 and prints ``ready`` once it listens. On Debian it takes the packages
gir1.2-gst-rtsp-server-1.0 and python3-gi.
"""

from __future__ import annotations

import sys
import time
from itertools import zip_longest
from typing import Any

import gi

from benchmarks.stamps import draw, pack

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

_LAUNCH = (
    "( appsrc name=camera is-live=true format=time do-timestamp=true"
    " caps=video/x-raw,format=GRAY8,width={side},height={side},framerate={fps}/1"
    " ! videoconvert ! openh264enc complexity=low gop-size={fps} ! h264parse config-interval=-1"
    " ! rtph264pay name=pay0 pt=96 )"
)


class Camera:
    """Pushes stamped frames into a stream's ``appsrc`` at the frame rate."""

    def __init__(self, media: Any, side_px: int, fps: int) -> None:
        self._source = media.get_element().get_child_by_name("camera")
        self._side_px = side_px
        self._sequence = 0
        self._timer = GLib.timeout_add(round(1000 / fps), self._push)
        media.connect("unprepared", self._end)

    def _push(self) -> bool:
        number = pack(self._sequence, time.monotonic_ns() // 1000)
        self._sequence += 1
        self._source.emit("push-buffer", Gst.Buffer.new_wrapped(draw(number, self._side_px)))
        return True

    def _end(self, media: Any) -> None:
        GLib.source_remove(self._timer)


def main(arguments: list[str]) -> None:
    """Serve until killed."""
    port, side_px, fps = (int(given or default) for given, default in zip_longest(arguments, ("8554", "320", "25")))
    Gst.init(None)
    server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
    server.set_service(str(port))
    factory.set_launch(_LAUNCH.format(side=side_px, fps=fps))
    factory.set_shared(True)
    cameras: list[Camera] = []
    factory.connect("media-configure", lambda _, media: cameras.append(Camera(media, side_px, fps)))
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(sys.argv[1:])
