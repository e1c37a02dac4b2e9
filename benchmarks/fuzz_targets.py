"""What is fuzzed: functions that take a stranger's bytes, and valid examples that mutations begin with.

A target may raise :class:`babelrs.errors.BabelRSError`; any other exception is a finding.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from babelrs.bundle import MANIFEST_NAME, SelfTest, open_bundle, read_selftest, write_selftest
from babelrs.detections import Detections
from babelrs.images import decode_frame
from babelrs.sensors import Sensor
from runtime.arguments import parse_run
from runtime.engines.graph_check import check_model
from runtime.engines.owned_weights import FASTEST_FOLDER
from runtime.links.compact import (
    CLASSES,
    decode,
    decode_classes,
    encode_classes,
    encode_detections,
    encode_thumbnail,
)
from runtime.links.message import MessageId, grouped
from runtime.pipeline import FrameResult
from runtime.rasters import open_raster
from runtime.sources.concatenated import frames
from runtime.sources.opening import parse_source
from runtime.sources.pipe import LookAhead

DEMO = Path(__file__).resolve().parents[1] / "runtime" / "demo"

Files = dict[str, bytes]


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        run: Takes arbitrary bytes and an empty folder of its own.
        examples: Valid inputs.
        most_bytes: Longest input that is tried.
    """

    run: Callable[[bytes, Path], object]
    examples: Callable[[], list[bytes]]
    most_bytes: int = 4096


def _manifest(data: bytes, folder: Path) -> object:
    """A folder whose manifest is these bytes."""
    (folder / MANIFEST_NAME).write_bytes(data)
    return open_bundle(folder)


def _archive(data: bytes, folder: Path) -> object:
    """A ``.babelrs`` file of these bytes."""
    path, cache = folder / "x.babelrs", folder / "cache"
    path.write_bytes(data)
    try:
        return open_bundle(path, cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _selftest(data: bytes, folder: Path) -> object:
    """The demo bundle with these bytes as a self-test."""
    if not (folder / MANIFEST_NAME).exists():
        shutil.copy(DEMO / MANIFEST_NAME, folder)
    bundle = open_bundle(folder)
    (folder / bundle.manifest.entry(Sensor.SAR).selftest).write_bytes(data)
    return read_selftest(bundle, Sensor.SAR)


def _image(data: bytes, folder: Path) -> object:
    """The bytes of an image file."""
    return decode_frame(data, "image")


def _raster(data: bytes, folder: Path) -> object:
    """An image file, opened as scenes are: a window and an overview of it are read."""
    path = folder / "scene.tif"
    path.write_bytes(data)
    raster = open_raster(path)
    try:
        raster.overview(1 << 12)
        return raster.read(0, 0, min(64, raster.width), min(64, raster.height))
    finally:
        raster.close()


def _stream(data: bytes, folder: Path) -> object:
    """Images one after the other on a pipe."""
    path = folder / "stream"
    path.write_bytes(data)
    with path.open("rb") as file:
        return list(frames(LookAhead(file.fileno(), threading.Event()), "stream"))


def _command_line(data: bytes, folder: Path) -> object:
    """Arguments of ``babelrs-run``, separated by line breaks, and the sources among them."""
    arguments = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = parse_run(arguments)
    except SystemExit as end:
        if end.code not in (0, 2):
            raise RuntimeError(f"exit code {end.code}") from end
        return None
    return [parse_source(source) for source in options.sources]


def _graph(data: bytes, folder: Path) -> object:
    """An ONNX file, looked through before an engine sees it."""
    check_model(data, ["weights.bin"], Path("model.onnx"))
    return None


def _message(data: bytes, folder: Path) -> object:
    """A message of a link, with a CRC that is right: else nothing behind it would be read."""
    framed = data + zlib.crc32(data).to_bytes(4, "little")
    return decode_classes(framed) if data[2:3] == bytes([CLASSES]) else decode(framed, {})


def _manifests() -> list[bytes]:
    return [(DEMO / MANIFEST_NAME).read_bytes(), b"{}", b'{"schema": "babelrs.bundle/1"}']


def _archives() -> list[bytes]:
    return [_tar({MANIFEST_NAME: _manifests()[0], "weights.bin": b"\0" * 600}), _tar({"a": b"x"}), _tar({})]


def _tar(files: Files) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()[:-8192]  # of the padding, a little is enough


def _selftests() -> list[bytes]:
    entry = open_bundle(DEMO).manifest.entry(Sensor.SAR)
    pixels = np.zeros((1, entry.input_height, entry.input_width, entry.channels), np.uint8)
    count = entry.max_detections
    boxes, scores = np.zeros((1, count, 5), np.float32), np.zeros((1, count), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "selftest.npz"
        write_selftest(path, SelfTest(pixels, boxes, scores, np.zeros((1, count), np.int32), 0.1, 1.0))
        return [path.read_bytes()]


def _images() -> list[bytes]:
    rng = np.random.default_rng(0)
    gray, colour = rng.integers(0, 256, (9, 7), np.uint8), rng.integers(0, 256, (5, 6, 3), np.uint8)
    arrays: list[tuple[str, Any]] = [
        (".png", gray), (".png", colour), (".png", rng.integers(0, 65536, (4, 4), np.uint16)),
        (".png", rng.integers(0, 256, (3, 3, 4), np.uint8)), (".jpg", gray), (".jpg", colour),
        (".tif", gray), (".tif", colour), (".tif", rng.normal(size=(6, 5)).astype(np.float32)),
        (".tif", rng.integers(0, 65536, (5, 5, 3), np.uint16)),
    ]  # fmt: skip
    return [cv2.imencode(suffix, pixels)[1].tobytes() for suffix, pixels in arrays]


def _streams() -> list[bytes]:
    netpbm = [b"P5\n3 2\n255\n" + bytes(6), b"P6 2 2 65535\n" + bytes(24)]
    pam = b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + bytes(16)
    images = _images()
    return [*netpbm, pam, images[0] + images[5], netpbm[0] + b"noise" + images[1]]


def _graphs() -> list[bytes]:
    """A model with an initializer whose bytes are elsewhere, and without."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([8 * number + 2, len(value)]) + value

    location = field(1, b"location") + field(2, b"weights.bin")
    tensor = field(8, b"w") + bytes([8 * 13 + 2, len(location)]) + location
    node = field(1, b"w") + field(2, b"y") + field(4, b"Relu")
    return [field(7, field(1, node) + field(5, tensor)), field(7, field(1, node)), b""]


def _messages() -> list[bytes]:
    classes = ("ship", "car")
    boxes = np.array([[10.0, 20.0, 8.0, 4.0, 0.3], [300.5, 2.0, 60.0, 6.0, -1.5]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([1, 0], np.int32), classes, Sensor.RGB)
    time = "2030-01-02T03:04:05.678+00:00"
    result = FrameResult("a.tif", "a", 7, time, found, None, "onnxruntime", "int8", {}, (640, 512))
    identity = MessageId(0x12345678, 99)
    group = next(iter(grouped(result, [(0, 0.9), (0, 0.7)])))
    whole = (
        encode_detections(group, identity), encode_classes(Sensor.RGB, classes),
        encode_thumbnail(b"\xff\xd8jpeg\xff\xd9", identity, MessageId(1, 2)),
    )  # fmt: skip
    return [data[:-4] for data in whole]


def _command_lines() -> list[bytes]:
    return [
        b"--sensor\nir\nflight7\n--out\nresults\n--format\njsonl,dota,coco\n--score\n0.3",
        b"--source\nir=rtsp://user:secret@camera/stream\n--source\nrgb=/dev/video0\n--batch\n2\n--threads\n1",
        b"--source\nsar=spool:incoming\n--save-images\n--save-video\n--quiet\n--engine\nauto",
        b"gst:videotestsrc ! appsink\n--sensor\nrgb\n--verbose\n-",
    ]


TARGETS = {
    "manifest": Target(_manifest, _manifests, 16384),
    "archive": Target(_archive, _archives, 16384),
    "selftest": Target(_selftest, _selftests),
    "image": Target(_image, _images),
    "raster": Target(_raster, _images),
    "stream": Target(_stream, _streams),
    "graph": Target(_graph, _graphs),
    "message": Target(_message, _messages, 1024),
    "command-line": Target(_command_line, _command_lines, 512),
}
"""By name."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for a target's files, in memory where the system has such a place."""
    place = FASTEST_FOLDER if FASTEST_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix="babelrs-fuzz-") as name:
        yield Path(name)
