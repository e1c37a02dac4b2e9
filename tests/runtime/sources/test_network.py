"""Streams over the network come with little delay, end in words when they break, and come back."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.errors import BabelRSError
from babelrs.images import Frame
from babelrs.sensors import Sensor
from benchmarks.rtsp_child import RtspServer, free_port
from benchmarks.stamps import read, unpack
from runtime.sources import Capture, network
from runtime.sources.libav import frame_of
from runtime.sources.live import Patience, StreamFault
from runtime.sources.network import NetworkStream
from runtime.sources.opening import Opening, open_source
from runtime.sources.supervised import SupervisedSource, Supervision
from tests.runtime.sources.builders import usable
from tests.runtime.sources.rtsp import require_rtsp_server

pytest.importorskip("av", reason="streams are read with PyAV, the video extra")

QUICK = Patience(open_s=2.0, stall_s=1.0)
PATIENT_S = 60
_PIECE, _PAUSE_S = 1880, 0.005  # what a server sends at once, and how long until the next: as live as 3 Mbit/s


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    require_rtsp_server()
    running = RtspServer(free_port())
    yield running
    running.kill()


@contextmanager
def tcp_server(answer: bytes | None, repeat: bool = False) -> Iterator[int]:
    """Takes connections and sends ``answer``, over and over or once; ``None``: sends nothing and keeps them open."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)

        def serve() -> None:
            held = []
            while not done.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                connection.settimeout(0.2)
                held.append(connection)
                with suppress(OSError):
                    while answer is not None and not done.is_set():
                        for at in range(0, len(answer) or 1, _PIECE):
                            connection.sendall(answer[at : at + _PIECE])
                            done.wait(_PAUSE_S)
                        if not repeat:
                            connection.close()
                            break
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            done.set()
            thread.join()


def test_frames_of_a_real_server_come_in_order_and_whole(server: RtspServer) -> None:
    stream = NetworkStream(server.url, Sensor.IR, Patience())
    frames = [stream.receive().frame for _ in range(20)]
    stream.close()
    assert all(frame.pixels.shape == (160, 160) and frame.pixels.dtype == np.uint8 for frame in frames)
    numbers = [unpack(read(frame.pixels, 160))[0] for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    colour = NetworkStream(server.url, Sensor.RGB, Patience())
    assert colour.receive().frame.pixels.shape == (160, 160, 3)
    colour.close()


def test_decoding_that_is_too_slow_leaves_frames_out_up_to_a_key_frame(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(picture: Any, sensor: Sensor, source: str) -> Frame:
        threading.Event().wait(0.1)  # 10 frames a second of 25
        return frame_of(picture, sensor, source)

    monkeypatch.setattr(network, "frame_of", slow)
    stream = NetworkStream(server.url, Sensor.IR, Patience())
    numbers = [unpack(read(stream.receive().frame.pixels, 160))[0] for _ in range(40)]
    stream.close()
    gaps = [after for before, after in pairwise(numbers) if after != before + 1]
    assert gaps and all(number % 25 == 0 for number in gaps)  # the server makes a key frame of every 25th


def test_it_comes_back_after_every_kill_with_the_size_the_stream_has_then(caplog: pytest.LogCaptureFixture) -> None:
    require_rtsp_server()
    port = free_port()
    sizes = [160, 320, 160, 80]
    server = RtspServer(port, sizes[0])
    address = server.url.replace("rtsp://", "rtsp://pilot:s3cr3t-word@")
    opening = Opening(patience=QUICK, supervision=Supervision(0.05, longest_wait_s=0.2, steady_s=0.1))
    live = open_source(address, Sensor.IR, opening)
    assert isinstance(live, SupervisedSource)
    seen: list[int] = []
    stop = threading.Event()
    timer = threading.Timer(PATIENT_S, stop.set)
    timer.start()
    items: list[Capture] = []
    with caplog.at_level(logging.INFO):
        for item in live.captures(stop):
            (capture,) = usable([item])
            items.append(capture)
            number_here = sum(1 for _ in items) - sum(seen)
            if number_here == 10:
                assert capture.raster.width == sizes[len(seen)]
                seen.append(10)
                server.kill()
                if len(seen) == len(sizes):
                    break
                server = RtspServer(port, sizes[len(seen)])
        live.close()
    timer.cancel()
    server.kill()
    assert len(seen) == 4 and live.health.connections == 4
    texts = [record.getMessage() for record in caplog.records]
    assert sum("back after" in text for text in texts) == 3 and len(texts) <= 12
    shown = [*texts, live.name, str(live.health), *(item.source + item.name for item in items)]
    assert not any("s3cr3t" in text or "pilot" in text for text in shown)
    assert items[-1].source == f"rtsp://***@127.0.0.1:{port}/live"
    assert len({item.name for item in items}) == len(items)


def test_a_server_that_freezes_is_a_stall() -> None:
    require_rtsp_server()
    server = RtspServer(free_port())
    try:
        stream = NetworkStream(server.url, Sensor.IR, QUICK)
        stream.receive()
        server.freeze()
        with pytest.raises(StreamFault, match="no answer within 1 s"):
            for _ in range(10_000):
                stream.receive()
        stream.close()
        with pytest.raises(StreamFault, match="cannot connect: no answer within 2 s"):
            NetworkStream(server.url, Sensor.IR, QUICK)
    finally:
        server.kill()


def test_a_path_that_the_server_lacks_is_named_by_its_status(server: RtspServer) -> None:
    with pytest.raises(StreamFault, match="404"):
        NetworkStream(server.url.replace("/live", "/none"), Sensor.IR, QUICK)


def test_a_server_that_is_silent_or_sends_garbage_is_a_fault() -> None:
    with tcp_server(None) as port, pytest.raises(StreamFault, match="no answer within 2 s"):
        NetworkStream(f"rtsp://127.0.0.1:{port}/x", Sensor.IR, QUICK)
    garbage = np.random.default_rng(3).bytes(4096)
    for scheme in ("rtsp", "http", "tcp"):
        with tcp_server(garbage, repeat=True) as port, pytest.raises(StreamFault):
            stream = NetworkStream(f"{scheme}://127.0.0.1:{port}/x", Sensor.IR, QUICK)
            for _ in range(10_000):
                stream.receive()
    with tcp_server(b"") as port, pytest.raises(StreamFault):
        NetworkStream(f"rtsp://127.0.0.1:{port}/x", Sensor.IR, QUICK)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("rtsp://127.0.0.1:1/x", "refused"),
        ("rtsp://no-such-host.invalid/x", "cannot connect"),
        ("udp://127.0.0.1:0", "no answer"),
    ],
)
def test_a_host_that_does_not_answer_is_a_fault(address: str, word: str) -> None:
    with pytest.raises(StreamFault, match=word):
        NetworkStream(address, Sensor.IR, QUICK)


def test_a_protocol_pyav_does_not_know_is_the_users_to_mend() -> None:
    with pytest.raises(BabelRSError, match="does not know this protocol") as caught:
        NetworkStream("gopher2://a:secret@host/x", Sensor.IR, QUICK)
    assert "secret" not in str(caught.value)


def test_libav_says_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StreamFault):
        NetworkStream("rtsp://a:secret@127.0.0.1:1/x", Sensor.IR, QUICK)
    assert capfd.readouterr() == ("", "")


def test_a_broken_picture_is_left_out_and_only_broken_ones_are_a_stall(tmp_path: Path) -> None:
    from tests.runtime.sources.videos import noise, write_video

    path = write_video(tmp_path / "v.ts", noise(30, 64, 64), "gray", "libx264", "yuv420p", container_format="mpegts")
    data = bytearray(path.read_bytes())
    with tcp_server(bytes(data)) as port:
        assert _count(f"tcp://127.0.0.1:{port}") > 20
    for at in range(2000, len(data), 188):
        data[at + 20 : at + 160] = bytes(140)
    with tcp_server(bytes(data), repeat=True) as port, pytest.raises(StreamFault):
        stream = NetworkStream(f"tcp://127.0.0.1:{port}", Sensor.IR, QUICK)
        for _ in range(10_000):
            stream.receive()


def _count(address: str) -> int:
    stream, count = NetworkStream(address, Sensor.IR, QUICK), 0
    with pytest.raises(StreamFault, match="the stream ended"):
        while True:
            stream.receive()
            count += 1
    return count


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BabelRSError, match=r"pip install 'babelrs\[video\]'"):
        open_source("rtsp://host/x", Sensor.RGB, Opening())
