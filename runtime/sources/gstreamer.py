"""Cameras through GStreamer: a pipeline runs as a child process and hands its frames over a pipe.

The OpenCV of the package registries has no GStreamer, and a child can be killed when a driver hangs. Frames cross as
Netpbm or PNG images, which keep 8- and 16-bit gray and colour as they are and tell their size one by one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import IO

from babelrs.errors import BabelRSError
from babelrs.images import Frame, ImageError
from runtime.sources.clock import Clock
from runtime.sources.concatenated import frames
from runtime.sources.live import Patience, Received, StreamFault
from runtime.sources.naming import hidden, redacted
from runtime.sources.pipe import LookAhead, Stalled, Stopped

_LAUNCH, _INSPECT = "gst-launch-1.0", "gst-inspect-1.0"
_PACKAGES = " ".join(["gstreamer1.0-tools", *(f"gstreamer1.0-plugins-{kind}" for kind in ("base", "good", "bad"))])
# A queue of one keeps the newest frame where this process is slower than the camera.
_QUEUE = "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
# Encoders and the formats they keep, best first: pnmenc is of plugins-bad, pngenc of plugins-good. Given GRAY16_BE,
# pnmenc 1.22 swaps its bytes.
_ENCODERS = {
    "pnmenc": "video/x-raw,format={GRAY8,GRAY16_LE,RGB} ! pnmenc",
    "pngenc": "video/x-raw,format={GRAY8,GRAY16_BE,RGB} ! pngenc compression-level=0",
}
_APPSINK = re.compile(r"\s*!\s*appsink\b[^!]*$")  # how pipelines for OpenCV end
_NEVER = "erroneous pipeline"  # what gst-launch says of a syntax error or an unknown element
_PIPE_BYTES = 1 << 20  # Linux' limit for users; the two processes take turns less often
_TAIL_LINES = 40
_EXIT_S = 0.5


class GStreamerStream:
    """A running GStreamer pipeline.

    Args:
        pipeline: As for ``gst-launch-1.0``, up to the element that gives raw video, as in
            ``v4l2src device=/dev/video0 ! video/x-raw,format=GRAY16_LE``.
        patience: When to give up.
        stop: Ends waiting.
        clock: Tells the time.

    Raises:
        BabelRSError: GStreamer is not installed.
    """

    def __init__(self, pipeline: str, patience: Patience, stop: threading.Event, clock: Clock | None = None) -> None:
        self._pipeline = pipeline
        self._patience = patience
        self._stop = stop
        self._clock = clock or Clock()
        self._reading, writing = os.pipe()
        try:
            with suppress(OSError):
                fcntl.fcntl(self._reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._process = _start(launch_command(pipeline, writing), writing)
        except BaseException:
            os.close(self._reading)
            raise
        finally:
            os.close(writing)
        assert self._process.stdout is not None
        self._messages = _Tail(self._process.stdout)
        self._ahead = LookAhead(self._reading, stop, patience.open_s)
        self._images = frames(self._ahead, redacted(f"gst:{pipeline}"))

    def receive(self) -> Received:
        """See :meth:`Stream.receive`.

        Raises:
            BabelRSError: The pipeline can never run.
        """
        begin = self._clock.monotonic()
        while self._clock.monotonic() - begin <= self._patience.stall_s:
            start, waited_s = self._clock.monotonic(), self._ahead.waited_s
            item = self._next_item()
            if isinstance(item, Frame):
                self._ahead.stall_s = self._patience.stall_s
                read_ms = self._clock.ms_since(start) - 1e3 * (self._ahead.waited_s - waited_s)
                return Received(item, max(0.0, read_ms))
        raise StreamFault(f"data comes, but no picture for {self._patience.stall_s:g} s")

    def close(self) -> None:
        """See :meth:`Stream.close`."""
        self._process.terminate()
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a child that hangs in a driver goes when the driver lets it
                self._process.wait(_EXIT_S)
        os.close(self._reading)

    def _next_item(self) -> Frame | ImageError:
        try:
            return next(self._images)
        except Stalled:
            raise StreamFault(f"no picture for {self._ahead.stall_s:g} s{self._why()}") from None
        except Stopped:
            raise StreamFault("stopped") from None
        except StopIteration:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_S)
            self._messages.join(_EXIT_S)
        why = self._why()
        if _NEVER in why:
            remedy = f"Try it with `{_LAUNCH} PIPELINE ! fakesink`."
            raise BabelRSError(f"{redacted(f'gst:{self._pipeline}')}: GStreamer refuses it{why}.", remedy)
        raise StreamFault(f"the pipeline ended{why}")

    def _why(self) -> str:
        line = self._messages.cause()
        return f": {hidden(line, self._pipeline)}" if line else ""


class _Tail(threading.Thread):
    """The last lines of a child's messages; reading them all keeps it from waiting."""

    def __init__(self, messages: IO[bytes]) -> None:
        super().__init__(name="gstreamer messages", daemon=True)
        self._messages = messages
        self._first: str | None = None
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self.start()

    def run(self) -> None:
        with self._messages:
            while line := self._messages.readline(4096):
                text = line.decode(errors="replace").strip()
                if self._first is None and (text.startswith("ERROR:") or _NEVER in text):
                    self._first = text
                if text:
                    self._lines.append(text)

    def cause(self) -> str:
        """The first error, else the last line."""
        lines = tuple(self._lines)
        return self._first or (lines[-1] if lines else "")


def launch_command(pipeline: str, descriptor: int) -> list[str]:
    """The child's command line, which writes images to ``descriptor``.

    Raises:
        BabelRSError: GStreamer is not installed, or the pipeline is none.
    """
    if shutil.which(_LAUNCH) is None:
        raise BabelRSError(f"GStreamer cameras need {_LAUNCH}.", f"Install it with `apt-get install {_PACKAGES}`.")
    encode = next((caps for name, caps in _ENCODERS.items() if _exists(name)), None)
    if encode is None:
        what = f"GStreamer has none of the elements {', '.join(_ENCODERS)}."
        raise BabelRSError(what, f"Install them with `apt-get install {_PACKAGES}`.")
    shown = redacted(f"gst:{pipeline}")
    try:
        words = shlex.split(_APPSINK.sub("", pipeline))
    except ValueError as error:
        raise BabelRSError(f"{shown}: no pipeline ({error}).", "Check its quotes.") from None
    if not words:
        raise BabelRSError(f"{shown}: an empty pipeline.", "Write it as in `gst:v4l2src device=/dev/video0`.")
    tail = f"! {_QUEUE} ! videoconvert ! {encode} ! fdsink sync=false fd={descriptor}"
    # setpriv has the kernel end the child with this process, however that ends
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    return [*guard, _LAUNCH, "-q", *words, *tail.split()]


def _exists(element: str) -> bool:
    done = subprocess.run(
        [_INSPECT, "--exists", element], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0


def _start(command: list[str], descriptor: int) -> subprocess.Popen[bytes]:
    """Messages in English; drivers that print on standard output (NVIDIA's do) are messages too."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(descriptor,),
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,  # a Ctrl+C in the terminal is ours to act on
    )
