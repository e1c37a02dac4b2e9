"""Network streams (RTSP, RTMP, HTTP, UDP ...) through libav, with little latency and never without an end in sight."""

from __future__ import annotations

import errno
from typing import Any

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.sources.clock import Clock
from runtime.sources.libav import frame_of, reason, require_av
from runtime.sources.live import Patience, Received, StreamFault
from runtime.sources.naming import hidden, redacted

URL_SCHEMES = ("rtsp", "rtsps", "rtsp+udp", "rtmp", "rtmps", "http", "https", "udp", "rtp", "tcp", "srt")

_WAITED_S = 0.001  # a packet that took longer was waited for; one that took less had been there
_BEHIND_S = 1.0  # busy for so long without waiting once: decoding is slower than the stream
# libav's "nobuffer" is left out: it throws the first key frame away, and the next one may be seconds off.
_OPTIONS = {
    "analyzeduration": "1000000",  # microseconds
    "fpsprobesize": "0",  # frames; the rate is of no use here, and measuring it takes a second
    "max_delay": "100000",  # microseconds that packets out of order are waited for
}


class NetworkStream:
    """A connection to a stream that libav can open. Damaged pictures are left out, and old ones from before it stood.

    Where decoding is slower than the stream, pictures up to the next key frame are left out too, so that latency stays
    bounded: only key frames are decoded until the stream has been caught up with.

    Args:
        address: A URL of :data:`URL_SCHEMES`. RTSP goes over TCP, ``rtsp+udp://`` over UDP.
        sensor: What takes the images.
        patience: When to give up.
        clock: Tells the time.

    Raises:
        StreamFault: No connection can be had now.
        BabelRSError: PyAV is not installed, or does not know the protocol.
    """

    def __init__(self, address: str, sensor: Sensor, patience: Patience, clock: Clock | None = None) -> None:
        self._av = require_av()
        self._address = address
        self._sensor = sensor
        self._patience = patience
        self._clock = clock or Clock()
        self._container = self._open()
        self._packets = self._container.demux(self._choose_video())
        self._pictures: list[Any] = []
        self._last_good = self._last_waited = self._clock.monotonic()
        self._decode_ms = 0.0
        self._caught_up = False
        self._skipping = False

    def receive(self) -> Received:
        """See :meth:`Stream.receive`."""
        while True:
            start = self._clock.monotonic()
            if self._pictures:
                return self._received(self._pictures.pop(0), start)
            if start - self._last_good > self._patience.stall_s:
                raise StreamFault(f"data comes, but no picture for {self._patience.stall_s:g} s")
            self._decode(self._next_packet())

    def close(self) -> None:
        """See :meth:`Stream.close`."""
        self._container.close()

    def _open(self) -> Any:
        url, options = self._address, dict(_OPTIONS)
        if url.startswith("rtsp"):
            options["rtsp_transport"] = "udp" if url.startswith("rtsp+udp:") else "tcp"
            url = url.replace("rtsp+udp:", "rtsp:", 1)
        start = self._clock.monotonic()
        try:
            return self._av.open(url, options=options, timeout=(self._patience.open_s, self._patience.stall_s))
        except self._av.error.ProtocolNotFoundError:
            what = f"{redacted(self._address)}: the installed PyAV does not know this protocol."
            raise BabelRSError(what, "Use RTSP over TCP, or a GStreamer pipeline (gst:...).") from None
        except (OSError, ValueError, self._av.FFmpegError) as error:
            raise self._fault("cannot connect", error, start, self._patience.open_s) from None

    def _choose_video(self) -> Any:
        if not self._container.streams.video:
            self._container.close()
            raise StreamFault("connected, but the stream holds no video")
        stream = self._container.streams.video[0]
        stream.thread_type = "SLICE"  # threads by frame would each hold one back
        stream.codec_context.options = {"flags": "low_delay"}
        return stream

    def _next_packet(self) -> Any:
        start = self._clock.monotonic()
        try:
            packet = next(self._packets)
        except StopIteration:
            raise StreamFault("the stream ended") from None
        except (OSError, self._av.FFmpegError) as error:
            raise self._fault("the connection broke", error, start, self._patience.stall_s) from None
        now = self._clock.monotonic()
        if now - start > _WAITED_S:
            self._last_waited, self._caught_up = now, True
        return packet

    def _decode(self, packet: Any) -> None:
        start = self._clock.monotonic()
        behind = start - self._last_waited > _BEHIND_S
        self._caught_up = self._caught_up or behind
        if packet.is_keyframe:
            self._skipping = False
        elif behind:
            self._skipping = True
        if self._skipping:
            self._last_good = start  # the next key frame may be far: no stall
            return
        try:
            pictures = packet.decode()
        except self._av.FFmpegError:
            return  # the next key frame mends it, or the stall is noticed
        if self._caught_up:
            self._pictures += [picture for picture in pictures if not picture.is_corrupt]
        self._decode_ms = self._clock.ms_since(start)

    def _received(self, picture: Any, start: float) -> Received:
        frame = frame_of(picture, self._sensor, redacted(self._address))
        self._last_good = self._clock.monotonic()
        return Received(frame, self._decode_ms + self._clock.ms_since(start))

    def _fault(self, what: str, error: Exception, start: float, most_s: float) -> StreamFault:
        if self._clock.monotonic() - start >= 0.95 * most_s:  # interrupted; not every protocol calls that by its name
            return StreamFault(f"{what}: no answer within {most_s:g} s")
        why = hidden(reason(error), self._address)
        hint = " (is the host's name right?)" if isinstance(error, OSError) and error.errno == errno.EIO else ""
        return StreamFault(f"{what}: {why}{hint}")
