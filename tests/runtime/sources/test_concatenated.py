"""Images in a stream of bytes are cut apart as they were put together, and found again after what is broken."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs.images import Frame, ImageError
from runtime.sources.concatenated import frames
from runtime.sources.pipe import LookAhead, Stalled, Stopped

Counts = npt.NDArray[np.generic]


def picture(kind: str, seed: int, width: int = 13, height: int = 9) -> Counts:
    random = np.random.default_rng(seed)
    bands = {"ppm": (3,), "ppm16": (3,), "pam4": (4,), "pam2x16": (2,), "jpeg": (3,)}.get(kind, ())
    wide = kind.endswith("16")
    counts: Counts = random.integers(
        0, 65536 if wide else 256, (height, width, *bands), np.uint16 if wide else np.uint8
    )
    return counts


def encoded(kind: str, counts: Counts) -> bytes:
    """As OpenCV or the Netpbm format says, not as the code under test does."""
    height, width = counts.shape[:2]
    if kind in ("png", "png16", "jpeg"):
        suffix = ".jpg" if kind == "jpeg" else ".png"
        ordered = counts[..., ::-1] if counts.ndim == 3 else counts
        return bytes(cv2.imencode(suffix, ordered)[1])
    most = 65535 if counts.dtype == np.uint16 else 255
    pixels = counts.astype(">u2" if most > 255 else "u1").tobytes()
    if kind.startswith("pam"):
        tuples = {2: "GRAYSCALE_ALPHA", 4: "RGB_ALPHA"}[counts.shape[2]]
        head = f"P7\n# made by a test\nWIDTH {width}\nHEIGHT {height}\nDEPTH {counts.shape[2]}\nMAXVAL {most}\n"
        return f"{head}TUPLTYPE {tuples}\nENDHDR\n".encode() + pixels
    comment = "# a camera\n" if width % 2 else ""
    return f"P{6 if counts.ndim == 3 else 5}\n{comment}{width} {height}\n{most}\n".encode() + pixels


KINDS = ("png", "png16", "jpeg", "pgm", "pgm16", "ppm", "ppm16", "pam4", "pam2x16")


@contextmanager
def piped(chunks: list[bytes], keep_open: bool = False, stall_s: float | None = 20.0) -> Iterator[LookAhead]:
    reading, writing = os.pipe()

    def write() -> None:
        for chunk in chunks:
            os.write(writing, chunk)
        if not keep_open:
            os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield LookAhead(reading, threading.Event(), stall_s)
    finally:
        writer.join()
        os.close(reading)
        if keep_open:
            os.close(writing)


def split(data: bytes, most_bytes: int = 1 << 20) -> list[Frame | ImageError]:
    with piped([data[at : at + 4096] for at in range(0, len(data), 4096)]) as ahead:
        return list(frames(ahead, "pipe", most_bytes))


def assert_same(item: Frame | ImageError, kind: str, counts: Counts) -> None:
    assert isinstance(item, Frame), item
    assert item.pixels.dtype == counts.dtype and item.pixels.shape == counts.shape
    if kind == "jpeg":  # lossy: as OpenCV decodes it
        decoded = cv2.imdecode(np.frombuffer(encoded(kind, counts), np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        counts = decoded[..., ::-1]
    assert np.array_equal(item.pixels, counts)
    assert item.has_alpha == kind.startswith("pam")


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(0, 999), st.integers(1, 40), st.integers(1, 40)), max_size=6
    ),
    st.lists(st.integers(1, 300), min_size=1),
    st.sampled_from([b"", b"\n", b"\r\n \n"]),
)
def test_any_series_of_images_in_any_pieces_comes_as_it_was(
    images: list[tuple[str, int, int, int]], sizes: list[int], between: bytes
) -> None:
    pictures = [(kind, picture(kind, seed, width, height)) for kind, seed, width, height in images]
    data = b"".join(encoded(kind, counts) + between for kind, counts in pictures)
    chunks, at = [], 0
    while at < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
    with piped(chunks) as ahead:
        items = list(frames(ahead, "pipe"))
    assert len(items) == len(pictures)
    for item, (kind, counts) in zip(items, pictures, strict=True):
        assert_same(item, kind, counts)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_comes_as_soon_as_it_is_whole(kind: str) -> None:
    counts = picture(kind, 1)
    with piped([encoded(kind, counts)], keep_open=True) as ahead:  # waiting for more would stall, and raise
        assert_same(next(frames(ahead, "pipe")), kind, counts)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_is_cut_by_the_end_is_reported(kind: str) -> None:
    whole = encoded(kind, picture(kind, 1))
    good, broken = split(whole + whole[:-5])
    assert isinstance(good, Frame) and isinstance(broken, ImageError)
    assert broken.cause == "truncated" and "pipe, frame 1" in str(broken) and str(len(whole) - 5) in str(broken)


@pytest.mark.parametrize("kind", ["png", "png16", "jpeg"])
@pytest.mark.parametrize("next_kind", KINDS)
def test_an_image_that_is_cut_by_the_next_costs_only_itself(kind: str, next_kind: str) -> None:
    counts, after = picture(kind, 1, 60, 60), picture(next_kind, 2)
    whole = encoded(kind, counts)
    items = split(whole + whole[:-20] + encoded(next_kind, after) + encoded("pgm", after_gray := picture("pgm", 3)))
    assert_same(items[0], kind, counts)
    assert isinstance(items[1], ImageError)
    if kind != "jpeg" or next_kind == "jpeg":  # a cut JPEG ends where the next begins: other formats look like its data
        assert_same(items[2], next_kind, after)
    assert_same(items[-1], "pgm", after_gray)


def test_a_png_with_a_wrong_checksum_costs_only_itself() -> None:
    first, second = picture("png", 1), picture("png", 2)
    damaged = bytearray(encoded("png", first))
    damaged[45] ^= 1
    broken, good = split(bytes(damaged) + encoded("png", second))
    assert isinstance(broken, ImageError) and broken.cause == "damaged" and "checksum" in str(broken)
    assert_same(good, "png", second)


@pytest.mark.parametrize(
    ("noise", "word"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", "HTTP"),
        (bytes(range(1, 32)) * 2000, "not PNG"),
        (b"P5\nwide high\n255\n", "another word"),
        (b"P5\n0 4\n255\n", "0x4 px"),
        (b"P6\n4 4\n70000\n", "70000"),
        (b"P5\n99999 99999\n255\n", "99999x99999 px of 9999800001 bytes"),
        (b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 9\nMAXVAL 255\nENDHDR\n", "9 bands"),
        (b"P7\nWIDTH 4\nENDHDR\n", "without width, height"),
        (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xff1234", "no chunk"),
        (b"\x89PNG\r\n\x1a\n\x7f\xff\xff\xffIDAT", "at most"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"GIF89a", "GIF89a"),
    ],
)
def test_noise_before_an_image_is_reported_once_and_left_out(noise: bytes, word: str) -> None:
    counts = picture("pgm16", 4)
    broken, good = split(noise + encoded("pgm16", counts))
    assert isinstance(broken, ImageError) and word in str(broken) and str(broken).endswith(".")
    assert_same(good, "pgm16", counts)


def test_a_jpeg_with_a_thumbnail_is_one_image() -> None:
    counts = picture("jpeg", 5, 64, 64)
    outer, thumbnail = encoded("jpeg", counts), encoded("jpeg", picture("jpeg", 6, 8, 8))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (item,) = split(outer[:2] + segment + outer[2:])
    assert_same(item, "jpeg", counts)


@given(st.binary(max_size=400))
@settings(max_examples=80)
def test_any_bytes_come_to_an_end(data: bytes) -> None:
    good = encoded("ppm", picture("ppm", 7))
    items = split(good + data)
    assert_same(items[0], "ppm", picture("ppm", 7))


def test_waiting_ends_when_it_is_told_to_and_when_nothing_comes() -> None:
    with piped([b"P5\n"], keep_open=True, stall_s=0.0) as ahead, pytest.raises(Stalled):
        next(frames(ahead, "pipe"))
    reading, writing = os.pipe()
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Stopped):
        next(frames(LookAhead(reading, stop), "pipe"))
    os.close(reading)
    os.close(writing)
