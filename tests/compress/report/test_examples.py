"""Pictures show what both models found, and point at what only one of them did."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from babelrs.detections import Detections
from babelrs.sensors import Sensor
from compress.report.examples import Example
from tests.compress.report.builders import sample_examples

CLASSES = ("ship", "car")
BOX = (60.0, 40.0, 24.0, 12.0, 0.0)


def detections(boxes: Sequence[tuple[float, ...]], labels: list[int], scores: list[float] | None = None) -> Detections:
    values = np.array(boxes, np.float32).reshape(-1, 5)
    given = np.linspace(0.9, 0.5, len(boxes)) if scores is None else np.array(scores)
    return Detections(values, given.astype(np.float32), np.array(labels, np.int32), CLASSES, Sensor.IR)


def example(before: Detections, after: Detections, size: tuple[int, int] = (120, 160)) -> Example:
    return Example("0001.png", np.full((*size, 1), 90, np.uint8), before, after)


def decoded(address: str) -> npt.NDArray[np.uint8]:
    head, _, data = address.partition(",")
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture.astype(np.uint8)


def shifted(dx: float, box: tuple[float, ...] = BOX) -> tuple[float, ...]:
    return (box[0] + dx, *box[1:])


@pytest.mark.parametrize(("dx", "same"), [(0.0, True), (7.9, True), (8.1, False)])  # IoU (24 - dx) / (24 + dx)
def test_the_same_object_overlaps_by_half(dx: float, same: bool) -> None:
    before, after = example(detections([BOX], [0]), detections([shifted(dx)], [0])).same()
    assert before.tolist() == after.tolist() == [same]


def test_another_class_is_another_object() -> None:
    before, after = example(detections([BOX], [0]), detections([BOX], [1])).same()
    assert not before.any() and not after.any()


def test_one_detection_is_the_same_as_one_only_and_the_surest_chooses_first() -> None:
    floats = detections([shifted(5.0), BOX], [0, 0], [0.5, 0.9])
    before, after = example(floats, detections([shifted(2.0)], [0])).same()
    assert before.tolist() == [False, True] and after.tolist() == [True]
    second = detections([shifted(2.0), shifted(6.0)], [0, 0])
    assert all(side.all() for side in example(floats, second).same())


def test_nothing_found_is_nothing_the_same() -> None:
    nothing, one = detections([], []), detections([BOX], [0])
    for left, right in ((nothing, one), (one, nothing), (nothing, nothing)):
        before, after = example(left, right).same()
        assert before.shape == (len(left),) and after.shape == (len(right),) and not before.any() and not after.any()


@pytest.mark.parametrize(
    ("size", "shape"),
    [((120, 160), (480, 640)), ((1500, 3000), (320, 640)), ((3000, 300), (640, 64)), ((50, 60), (200, 240))],
)
def test_pictures_fit_the_page(size: tuple[int, int], shape: tuple[int, int]) -> None:
    for address in example(detections([BOX], [0]), detections([], []), size).pictures():
        assert decoded(address).shape == (*shape, 3)


def test_what_one_alone_found_has_a_white_frame_around_its_box() -> None:
    both, alone = (30.0, 90.0, 24.0, 12.0, 0.0), (120.0, 30.0, 24.0, 12.0, 0.0)
    pictures = example(detections([both, alone], [0, 0]), detections([both], [0])).pictures()
    left, right = (decoded(picture) for picture in pictures)
    assert left.shape == right.shape == (480, 640, 3)
    white = (left.astype(int) > 200).all(axis=2)  # 4 times the size; the boxes and captions are coloured
    rows, columns = np.nonzero(white)
    assert (columns.min(), columns.max()) == pytest.approx((4 * 108 - 6, 4 * 132 + 6), abs=4)
    assert rows.max() == pytest.approx(4 * 36 + 6, abs=4)
    assert not (right.astype(int) > 200).all(axis=2).any()


def test_boxes_lie_where_the_objects_are_drawn() -> None:
    shown = decoded(example(detections([BOX], [0]), detections([BOX], [0])).pictures()[0]).astype(int)
    coloured = np.ptp(shown, axis=2) > 60  # the image is gray
    rows, columns = np.nonzero(coloured)
    assert rows.max() == pytest.approx(4 * 46, abs=4) and columns.min() == pytest.approx(4 * 48, abs=4)


def test_crowded_pictures_have_boxes_but_no_captions() -> None:
    few = [(10.0 + 20 * n, 60.0, 8.0, 8.0, 0.0) for n in range(7)]
    crowd = [(10.0 + 20 * (n % 7), 20.0 + 40 * (n // 7), 8.0, 8.0, 0.0) for n in range(21)]
    inked = []
    for boxes in (few, crowd):
        shown = decoded(example(detections(boxes, [0] * len(boxes)), detections(boxes, [0] * len(boxes))).pictures()[0])
        inked.append(int((np.ptp(shown.astype(int), axis=2) > 60).sum()) / len(boxes))
    assert inked[1] < 0.6 * inked[0]


def test_the_legend_counts_both_sides_of_every_class() -> None:
    one = example(detections([BOX, shifted(40.0)], [0, 0]), detections([BOX], [1]))
    assert [(name, before, after) for name, _, before, after in one.legend()] == [("ship", 2, 0), ("car", 0, 1)]
    assert len({colour for _, colour, _, _ in one.legend()}) == 2


def test_the_record_has_every_detection() -> None:
    record = example(detections([BOX], [1], [0.75]), detections([], [])).record()
    (found,) = record.float32
    assert (found.label, found.score, found.obb) == ("car", 0.75, BOX) and record.int8 == ()


def test_what_cannot_be_compared_is_refused() -> None:
    left = detections([BOX], [0])
    with pytest.raises(ValueError, match="cannot be compared"):
        example(left, Detections.empty(CLASSES, Sensor.SAR))
    with pytest.raises(ValueError, match="uint8 expected"):
        Example("a", np.zeros((4, 4), np.uint8), left, left)


def test_equal_examples_have_equal_pictures() -> None:
    assert [one.pictures() for one in sample_examples()] == [one.pictures() for one in sample_examples()]
