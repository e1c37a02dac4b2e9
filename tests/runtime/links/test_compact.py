"""The compact encoding says what JSON says, within its steps, and nothing else can be read as it."""

from __future__ import annotations

import json
import math
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.geo import Places
from runtime.links.compact import (
    decode,
    decode_classes,
    dictionary_id,
    encode_classes,
    encode_detections,
    encode_thumbnail,
)
from runtime.links.message import Group, MessageId, json_detections, json_thumbnail
from tests.runtime.links.frames import CLASSES, frame

IDENTITY = MessageId(0xDEADBEEF, 123_456)
BOX = st.tuples(
    st.floats(-1e4, 1e5), st.floats(-1e4, 1e5), st.floats(1, 5000), st.floats(1, 5000), st.floats(-math.pi / 2, 1.57)
)
CORNER = st.tuples(st.floats(-180, 180), st.floats(-89, 89))
HIT = st.tuples(BOX, st.floats(0, 1, width=32), st.integers(0, 2), st.none() | CORNER)


def group_of(hits: list[tuple[tuple[float, ...], float, int, tuple[float, float] | None]], sensor: Sensor) -> Group:
    corners = np.full((len(hits), 4, 2), np.nan)
    for index, (*_, corner) in enumerate(hits):
        if corner is not None:
            ring = np.array(corner) + np.array([[0, 0], [1e-3, 0], [1e-3, 1e-3], [0, 1e-3]])
            ring[:, 0] = (ring[:, 0] + 180) % 360 - 180
            corners[index] = ring
    sizes = np.ones(len(hits))
    result = frame(
        7,
        [score for _, score, _, _ in hits],
        [label for _, _, label, _ in hits],
        [box for box, *_ in hits],
        Places(corners, sizes, sizes, sizes),
        sensor,
        "näher/bild.tif",
    )
    return Group(result, 2, 0.5, tuple(range(len(hits))))


@given(st.lists(HIT, max_size=8), st.sampled_from(list(Sensor)))
@example([((10.0, 10.0, 5.0, 4.0, -math.pi / 2), 1.0, 0, (179.99995, 0.0))], Sensor.IR)
def test_what_is_decoded_is_what_json_says_within_half_a_step(
    hits: list[tuple[tuple[float, ...], float, int, tuple[float, float] | None]], sensor: Sensor
) -> None:
    group = group_of(hits, sensor)
    data = encode_detections(group, IDENTITY)
    got = decode(data, {dictionary_id(sensor, CLASSES): CLASSES})
    told = json.loads(json_detections(group, IDENTITY))
    assert {key: got[key] for key in got if key != "detections"} == {
        key: told[key] for key in got if key != "detections"
    }
    for ours, theirs in zip(got["detections"], told["detections"], strict=True):
        assert ours["label"] == theirs["label"]
        assert abs(ours["score"] - theirs["score"]) <= 0.5 / 255 + 2e-6
        assert ours["obb"][:4] == pytest.approx(theirs["obb"][:4], abs=1 / 16 + 2e-3)
        turn = (ours["obb"][4] - theirs["obb"][4] + math.pi / 2) % math.pi - math.pi / 2
        assert abs(turn) <= math.pi / 65_536 / 2 + 2e-6
        assert ("lonlat" in ours) == ("lonlat" in theirs)
        for place, true in zip(ours.get("lonlat", []), theirs.get("lonlat", []), strict=True):
            assert (place[0] - true[0] + 180) % 360 - 180 == pytest.approx(0, abs=1.01e-7)
            assert place[1] == pytest.approx(true[1], abs=1.01e-7)
            assert -180 <= place[0] <= 180


def test_a_detection_takes_less_than_a_fifth_of_its_json() -> None:
    group = group_of([((100.0 * n, 80.0, 30.0, 10.0, 0.2), 0.8, 1, (10.0, 50.0)) for n in range(20)], Sensor.RGB)
    assert len(encode_detections(group, IDENTITY)) < len(json_detections(group, IDENTITY)) / 5


@given(st.lists(st.text(max_size=20), max_size=20), st.sampled_from(list(Sensor)))
def test_a_dictionary_comes_back_under_its_number(classes: list[str], sensor: Sensor) -> None:
    found = decode_classes(encode_classes(sensor, classes))
    assert (found.number, found.sensor, found.classes) == (dictionary_id(sensor, classes), sensor, tuple(classes))


def test_classes_of_an_unknown_dictionary_keep_their_number() -> None:
    data = encode_detections(group_of([((1, 1, 2, 1, 0), 0.5, 2, None)], Sensor.IR), IDENTITY)
    assert decode(data, {})["detections"][0]["label"] == "#2"


def test_a_thumbnail_is_told_as_in_json() -> None:
    of = MessageId(1, 2)
    data = encode_thumbnail(b"\xff\xd8picture", of, IDENTITY)
    assert decode(data, {}) == json.loads(json_thumbnail(b"\xff\xd8picture", of, IDENTITY))


def resealed(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_refused_or_read_and_never_crash(body: bytes, is_dressed: bool) -> None:
    data = resealed(b"\xb5\x01" + body) if is_dressed else body
    for read in (lambda: decode(data, {}), lambda: decode_classes(data)):
        with suppress(BabelRSError):
            json.dumps(read(), default=str)


@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    whole = bytearray(encode_detections(group_of([((1, 1, 2, 1, 0), 0.5, 2, (3, 4))], Sensor.IR), IDENTITY))
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[place // 8] ^= 1 << place % 8
    with pytest.raises(BabelRSError):
        decode(bytes(whole), {})


def test_every_truncation_is_refused() -> None:
    whole = encode_detections(group_of([((1, 1, 2, 1, 0), 0.5, 2, (3, 4))], Sensor.IR), IDENTITY)
    for length in range(len(whole)):
        with pytest.raises(BabelRSError):
            decode(whole[:length], {})
        if 4 <= length < len(whole) - 4:
            with pytest.raises(BabelRSError):
                decode(resealed(whole[:length]), {})


def test_another_version_is_named() -> None:
    data = resealed(b"\xb5\x09\x01rest")
    with pytest.raises(BabelRSError, match="version 9, not 1"):
        decode(data, {})


def test_a_box_with_a_negative_side_is_refused() -> None:
    """Found by fuzzing: the bytes parse and their CRC is right."""
    whole = encode_detections(group_of([((10, 20, 37.5, 4, 0.25), 0.5, 0, None)], Sensor.IR), IDENTITY)
    width, negative = b"\xd8\x04", b"\xd7\x04"  # 300 eighths of a pixel, and -300, as zigzag varints
    assert whole.count(width) == 1
    with pytest.raises(BabelRSError, match="negative side"):
        decode(resealed(whole[:-4].replace(width, negative)), {})


def test_a_number_that_is_not_finite_is_no_message() -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_detections(group_of([((math.nan, 1, 2, 1, 0), 0.5, 2, None)], Sensor.IR), IDENTITY)
