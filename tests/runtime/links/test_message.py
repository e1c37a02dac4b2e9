"""A frame is cut into messages of one priority each that a thin link can carry, and nothing of it is lost."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.links.message import MESSAGE_BYTES, SOURCE_CHARACTERS, MessageId, grouped, json_detections, pieces
from runtime.links.thumbnail import MOST_BYTES, SIDE_PX, thumbnail
from tests.runtime.links.frames import frame

WORTHS = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), max_size=60)


@given(WORTHS)
def test_every_detection_is_in_one_message_of_its_priority_the_best_first(worths: list[tuple[int, float]]) -> None:
    result = frame(3, [0.5] * len(worths))
    numbers = itertools.count(1)
    records = [
        json.loads(data)
        for group in grouped(result, worths)
        for _, _, data in pieces(group, json_detections, lambda: MessageId(1, next(numbers)))
    ]
    place = {float(box[0]): index for index, box in enumerate(result.detections.boxes)}
    told = [(record["priority"], place[hit["obb"][0]]) for record in records for hit in record["detections"]]
    assert sorted(index for _, index in told) == list(range(len(worths)))
    assert all(worths[index][0] == priority for priority, index in told)
    assert [(priority, -worths[index][1]) for priority, index in told] == sorted(
        (priority, -value) for priority, value in worths
    )
    assert len({record["id"] for record in records}) == len(records)


def test_messages_stay_small_but_for_single_detections() -> None:
    result = frame(0, [0.9] * 200, source="x" * 5000 + "end")
    (group,) = grouped(result, [(0, 0.9)] * 200)
    numbers = itertools.count()
    parts = list(pieces(group, json_detections, lambda: MessageId(1, next(numbers))))
    assert all(len(data) <= MESSAGE_BYTES for _, _, data in parts) and len(parts) > 10
    source = json.loads(parts[0][2])["source"]
    assert len(source) == SOURCE_CHARACTERS and source.endswith("end")


@pytest.mark.parametrize(
    "box", [[-500, 60, 30, 10, 0], [80, 64, 5000, 4000, 0.3], [80, 64, 1, 1, 0], [159, 127, 9, 9, 1]]
)
def test_a_thumbnail_is_small_or_none_wherever_the_box_lies(box: list[float]) -> None:
    result = frame(0, [0.9], boxes=[box])
    noise = np.random.default_rng(0).integers(0, 255, result.image.shape).astype(np.uint8)  # type: ignore[union-attr]
    object.__setattr__(result, "image", noise)
    data = thumbnail(result, 0)
    assert data is None or (len(data) <= MOST_BYTES and data.startswith(b"\xff\xd8"))
    assert (data is None) == (box[0] < -100), (len(data or b""), SIDE_PX)
