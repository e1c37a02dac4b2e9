from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from babelrs import boxes as bx

LOWEST, HIGHEST = np.float32(-math.pi / 2), np.float32(math.pi / 2)
MINUS_QUARTER, THREE_QUARTERS = np.float32(-math.pi / 4), np.float32(3 * math.pi / 4)
NICE_ANGLES = [k * math.pi / 4 for k in range(-8, 9)]


def _float32(lowest: float, highest: float) -> st.SearchStrategy[float]:
    return st.floats(lowest, highest, width=32)


@st.composite
def any_boxes(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Boxes of any sides and angle: squares, thin ones and right angles come up often."""
    rows = draw(st.integers(1, 6))
    side = _float32(0.5, 1024)
    built = []
    for _ in range(rows):
        w = draw(side)
        h = draw(st.one_of(side, st.just(w), st.just(w / 128)))
        theta = draw(st.one_of(st.sampled_from(NICE_ANGLES), _float32(-8, 8)))
        built.append([draw(_float32(-2048, 2048)), draw(_float32(-2048, 2048)), w, h, theta])
    return np.array(built, np.float32)


def assert_same_shapes(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], tolerance_px: float) -> None:
    """Both hold the same rectangles: their corners agree up to which comes first."""
    ours, theirs = bx.to_corners(left), bx.to_corners(right)
    turns = [np.abs(ours - np.roll(theirs, k, axis=1)).max(axis=(1, 2)) for k in range(4)]
    assert np.min(turns, axis=0).max() <= tolerance_px


def assert_le90(boxes: npt.NDArray[np.float32]) -> None:
    assert boxes.dtype == np.float32 and (boxes[:, 2] >= boxes[:, 3]).all()
    assert ((boxes[:, 4] >= LOWEST) & (boxes[:, 4] < HIGHEST)).all()


CONVERSIONS = {
    "le90": lambda boxes: bx.to_le90(boxes),
    "le135": lambda boxes: bx.from_le135(bx.to_le135(boxes)),
    "opencv": lambda boxes: bx.from_opencv(bx.to_opencv(boxes)),
    "corners": lambda boxes: bx.from_corners(bx.to_corners(boxes)),
    "corners as DOTA rows": lambda boxes: bx.from_corners(bx.to_corners(boxes).reshape(-1, 8)),
    "yolo-obb": lambda boxes: bx.from_yolo_obb(bx.to_yolo_obb(boxes, 640, 512), 640, 512),
}


@pytest.mark.parametrize("name", CONVERSIONS)
@given(boxes=any_boxes())
def test_every_conversion_there_and_back_keeps_the_shape(name: str, boxes: npt.NDArray[np.float32]) -> None:
    back = CONVERSIONS[name](boxes)
    assert_le90(back)
    assert_same_shapes(boxes, back, tolerance_px=2e-3)  # float32 at 2048 px and 1024 px long
    assert bx.paired_iou(boxes, back) == pytest.approx(1.0, abs=2e-3)  # 0.5 px thick, 1e-4 px off


@given(boxes=any_boxes())
def test_le90_of_le90_is_itself_bit_for_bit(boxes: npt.NDArray[np.float32]) -> None:
    once = bx.to_le90(boxes)
    np.testing.assert_array_equal(bx.to_le90(once), once)


@given(boxes=any_boxes())
def test_le135_angles_stay_in_their_range(boxes: npt.NDArray[np.float32]) -> None:
    turned = bx.to_le135(boxes)
    assert (turned[:, 2] >= turned[:, 3]).all()
    assert ((turned[:, 4] >= MINUS_QUARTER) & (turned[:, 4] < THREE_QUARTERS)).all()


@pytest.mark.parametrize(
    ("given_box", "expected"),
    [
        ([5, 6, 4, 2, 0], [5, 6, 4, 2, 0]),
        ([5, 6, 2, 4, 0], [5, 6, 4, 2, -math.pi / 2]),
        ([5, 6, 4, 2, math.pi / 2], [5, 6, 4, 2, -math.pi / 2]),
        ([5, 6, 4, 2, -math.pi / 2], [5, 6, 4, 2, -math.pi / 2]),
        ([5, 6, 2, 4, -math.pi / 2], [5, 6, 4, 2, 0]),
        ([5, 6, 4, 2, math.pi], [5, 6, 4, 2, 0]),
        ([5, 6, 4, 2, 3 * math.pi / 4], [5, 6, 4, 2, -math.pi / 4]),
        ([5, 6, 3, 3, 1], [5, 6, 3, 3, 1]),
        ([5, 6, 3, 3, math.pi / 2], [5, 6, 3, 3, -math.pi / 2]),
        ([5, 6, 0, 0, 0.25], [5, 6, 0, 0, 0.25]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_le90_at_the_edges_of_its_range(given_box: list[float], expected: list[float], dtype: npt.DTypeLike) -> None:
    result = bx.to_le90(np.array([given_box], dtype))
    np.testing.assert_allclose(result, [expected], atol=2e-7)  # float32 pi is 9e-8 off pi
    assert_le90(result)


@pytest.mark.parametrize("nudge", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("bound", [LOWEST, HIGHEST])
def test_angles_next_to_the_wrap_keep_their_shape(bound: np.float32, nudge: int) -> None:
    theta = bound
    for _ in range(abs(nudge)):
        theta = np.nextafter(theta, np.float32(math.copysign(9, nudge)))
    box = np.array([[0, 0, 1000, 5, theta]], np.float32)
    assert_le90(bx.to_le90(box))
    assert_same_shapes(bx.to_le90(box), box, tolerance_px=1e-3)


def test_corners_run_clockwise_on_screen_from_the_top_left() -> None:
    corners = bx.to_corners([[10, 20, 4, 2, 0]])
    np.testing.assert_array_equal(corners, [[[8, 19], [12, 19], [12, 21], [8, 21]]])


def test_theta_turns_clockwise_on_screen() -> None:
    corners = bx.to_corners([[0, 0, 4, 2, math.radians(30)]])
    right_end = corners[0, 1:3].mean(axis=0)  # the middle of the side that theta points at
    np.testing.assert_allclose(right_end, [2 * math.cos(math.radians(30)), 2 * math.sin(math.radians(30))])


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("clockwise", [True, False])
def test_corner_order_does_not_matter(first: int, clockwise: bool) -> None:
    box = np.array([[100, 50, 40, 12, -1.2]], np.float32)
    corners = np.roll(bx.to_corners(box), first, axis=1)[:, :: 1 if clockwise else -1]
    np.testing.assert_allclose(bx.from_corners(corners), box, atol=1e-5)


@given(points=hnp.arrays(np.float32, (4, 2), elements=st.integers(-200, 200).map(float)))
def test_four_points_are_enclosed_with_no_more_area_than_opencv_needs(points: npt.NDArray[np.float32]) -> None:
    box = bx.from_corners(points[None])
    along = (points - box[0, :2]) @ np.array([math.cos(box[0, 4]), math.sin(box[0, 4])])
    across = (points - box[0, :2]) @ np.array([-math.sin(box[0, 4]), math.cos(box[0, 4])])
    assert np.abs(along).max() <= box[0, 2] / 2 + 1e-3 and np.abs(across).max() <= box[0, 3] / 2 + 1e-3
    (_, sides, _) = cv2.minAreaRect(points)
    assert box[0, 2] * box[0, 3] <= sides[0] * sides[1] * (1 + 1e-4) + 1e-2


def test_far_away_corners_give_the_box_they_came_from() -> None:
    box = np.array([[100_000.5, 99_999.25, 37.5, 3.25, 0.7]], np.float32)
    np.testing.assert_allclose(bx.from_corners(bx.to_corners(box)), box, rtol=1e-6)


@pytest.mark.parametrize(
    ("corners", "sides"),
    [([[7, 7]] * 4, (0, 0)), ([[0, 0], [1, 1], [2, 2], [3, 3]], (3 * math.sqrt(2), 0)), ([[0, 0], [4, 0]] * 2, (4, 0))],
)
def test_degenerate_corners_give_a_flat_finite_box(corners: list[list[float]], sides: tuple[float, float]) -> None:
    box = bx.from_corners([corners])
    assert np.isfinite(box).all()
    np.testing.assert_allclose(box[0, 2:4], sides, atol=1e-6)


@given(boxes=any_boxes())
def test_opencv_draws_the_box_it_is_given(boxes: npt.NDArray[np.float32]) -> None:
    for row, corners in zip(bx.to_opencv(boxes), bx.to_corners(boxes), strict=True):
        assert 0 < row[4] <= 90
        drawn = cv2.boxPoints(((row[0], row[1]), (row[2], row[3]), row[4]))
        distances = np.linalg.norm(drawn[:, None] - corners[None], axis=-1)  # (4, 4)
        assert distances.min(axis=1).max() < 5e-3


@given(boxes=any_boxes())
def test_opencv_finds_the_box_in_its_corners(boxes: npt.NDArray[np.float32]) -> None:
    for box in boxes[(boxes[:, 2:4] > 4).all(axis=1)]:
        (centre, sides, angle) = cv2.minAreaRect(bx.to_corners(box[None])[0].astype(np.float32))
        found = bx.from_opencv([[*centre, *sides, angle]])
        assert bx.rotated_iou(found, box[None])[0, 0] > 0.999


@pytest.mark.parametrize("angle", [-450, -90, -30, 0, 60, 90, 150, 330])
def test_opencv_angles_of_every_version_are_read_alike(angle: float) -> None:
    drawn = cv2.boxPoints(((50, 40), (30, 10), angle))
    assert_same_shapes(bx.from_opencv([[50, 40, 30, 10, angle]]), bx.from_corners(drawn[None]), tolerance_px=1e-3)


def test_opencv_has_90_degrees_for_an_axis_aligned_box() -> None:
    np.testing.assert_allclose(bx.to_opencv([[0, 0, 8, 2, 0]]), [[0, 0, 2, 8, 90]])
    np.testing.assert_allclose(bx.to_opencv([[0, 0, 8, 2, -math.pi / 2]]), [[0, 0, 8, 2, 90]])


def test_coco_boxes_get_the_angle_of_their_long_edge() -> None:
    read = bx.from_coco([[10, 20, 8, 4], [10, 20, 4, 8], [10, 20, 4, 4]])
    expected = np.array([[14, 22, 8, 4, 0], [12, 24, 8, 4, -math.pi / 2], [12, 22, 4, 4, 0]], np.float32)
    np.testing.assert_array_equal(read, expected)


@given(xywh=hnp.arrays(np.float32, (3, 4), elements=_float32(0.125, 2048)))
def test_coco_boxes_come_back(xywh: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(bx.to_coco(bx.from_coco(xywh)), xywh, atol=1e-3)


def test_coco_box_of_a_turned_box_encloses_it() -> None:
    side = 4 * math.sqrt(0.5) + 2 * math.sqrt(0.5)
    np.testing.assert_allclose(bx.to_coco([[0, 0, 4, 2, math.pi / 4]]), [[-side / 2, -side / 2, side, side]], rtol=1e-6)


def test_yolo_corners_are_fractions_of_each_side() -> None:
    fractions = bx.to_yolo_obb([[32, 16, 32, 16, 0]], image_width=64, image_height=32)
    np.testing.assert_allclose(fractions, [[0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75]])


@pytest.mark.parametrize("convert", [bx.to_le90, bx.to_le135, bx.from_opencv, bx.to_opencv])
def test_no_boxes_stay_no_boxes(convert: object) -> None:
    assert callable(convert) and convert(np.zeros((0, 5))).shape == (0, 5)


def test_no_boxes_have_no_corners() -> None:
    assert bx.to_corners([]).shape == (0, 4, 2) and bx.from_corners([]).shape == (0, 5)
    assert bx.to_coco([]).shape == (0, 4) and bx.from_coco([]).shape == (0, 5)
    assert bx.to_yolo_obb([], 8, 8).shape == (0, 8) and bx.from_yolo_obb([], 8, 8).shape == (0, 5)


def test_conversion_leaves_its_argument_alone() -> None:
    box = np.array([[0, 0, 2, 4, math.pi / 2]])
    before = box.copy()
    bx.to_le90(box), bx.to_opencv(box), bx.from_opencv(box), bx.to_corners(box)
    np.testing.assert_array_equal(box, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
def test_values_float32_cannot_hold_are_refused_with_their_row(bad: float) -> None:
    rows = [[0, 0, 2, 1, 0], [0, bad, 2, 1, 0]]
    with pytest.raises(ValueError, match="boxes row 1 is not finite"):
        bx.to_le90(rows)
    with pytest.raises(ValueError, match="corners row 0 is not finite"):
        bx.from_corners([[0, 0, 1, 0, 1, 1, bad, 1]])


def test_negative_sides_are_refused_with_their_row() -> None:
    with pytest.raises(ValueError, match=r"boxes row 0 has a negative side: \[0.0, 0.0, -2.0, 1.0"):
        bx.to_le90([[0, 0, -2, 1, 0]])
    with pytest.raises(ValueError, match="boxes row 0 has a negative side"):
        bx.from_coco([[0, 0, 2, -1]])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes has shape \(1, 4\); \(N, 5\) expected"):
        bx.to_le90([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"corners has shape \(1, 6\)"):
        bx.from_corners([[0, 0, 1, 1, 2, 2]])
    with pytest.raises(ValueError, match="0 x 10 px"):
        bx.to_yolo_obb([[0, 0, 1, 1, 0]], 0, 10)
