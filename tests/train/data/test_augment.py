from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from babelrs.boxes import from_coco, rotated_iou, to_corners
from babelrs.sensors import Sensor
from train.config import AugmentConfig
from train.data.augment import MIN_SIDE_PX, Crop, Similarity, augment, change_light

angles = st.floats(-7, 7)


def settings(**changes: object) -> AugmentConfig:
    fields: dict[str, object] = {
        "crop_px": 128, "scale_min": 0.7, "scale_max": 1.5, "flip": True, "rotate": True, "rotate_free": 0.5,
        "brightness": 0.0, "contrast": 0.0, "min_visible": 0.4,
    }  # fmt: skip
    return AugmentConfig.model_validate({**fields, **changes})


def farthest_corner(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Largest corner distance in the best pairing, either way round."""
    orders = [np.roll(each, shift, axis=0) for each in (b, b[::-1]) for shift in range(4)]
    return float(min(np.linalg.norm(a - order, axis=1).max() for order in orders))


@given(
    zoom=st.floats(0.3, 3),
    turn=angles,
    mirror=st.booleans(),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    box=st.tuples(
        st.floats(0, 800), st.floats(0, 800), st.floats(1, 300), st.floats(1, 300), st.floats(-1.5707, 1.5707)
    ),
)
@example(zoom=1.0, turn=math.pi / 2, mirror=True, shift=(0.0, 0.0), box=(10.0, 20.0, 30.0, 5.0, -1.5707963))
@example(zoom=1.0, turn=math.pi, mirror=False, shift=(0.0, 0.0), box=(10.0, 20.0, 30.0, 5.0, 0.0))
@example(zoom=2.0, turn=0.4, mirror=True, shift=(0.0, 0.0), box=(10.0, 20.0, 30.0, 30.0, 0.7))
def test_boxes_move_as_their_corners_do(
    zoom: float, turn: float, mirror: bool, shift: tuple[float, float], box: tuple[float, float, float, float, float]
) -> None:
    cx, cy, a, b, theta = box
    boxes = np.array([[cx, cy, max(a, b), min(a, b), theta]], np.float32)
    similarity = Similarity(zoom, turn, mirror, *shift)
    matrix = similarity.matrix()
    moved = to_corners(boxes)[0] @ matrix[:, :2].T + matrix[:, 2]
    found = similarity.boxes(boxes)
    assert found.dtype == np.float32 and found[0, 2] >= found[0, 3]
    assert farthest_corner(to_corners(found)[0], moved) < 5e-3


@given(zoom=st.floats(0.3, 3), turn=angles, mirror=st.booleans())
def test_the_matrix_is_the_documented_similarity(zoom: float, turn: float, mirror: bool) -> None:
    matrix = Similarity(zoom, turn, mirror, 3.0, 4.0).matrix()
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    np.testing.assert_allclose(matrix[:, :2], zoom * rotation @ np.diag([-1.0 if mirror else 1.0, 1.0]), atol=1e-12)
    assert matrix[:, 2].tolist() == [3.0, 4.0]


def drawn(box: npt.NDArray[np.float32], height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """A bright rectangle on black, anti-aliased by area: pixel i covers ``[i, i + 1)``."""
    fine = 8
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    cv2.fillPoly(canvas, [np.rint(to_corners(box[None])[0] * fine - 0.5).astype(np.int32)], (250,))
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.repeat(small[..., None], channels, axis=2)


def crop_with_one_object(seed: int, sensor: Sensor) -> Crop:
    rng = np.random.default_rng(seed)
    if sensor is Sensor.SAR:
        x, y, w, h = rng.uniform([90, 70, 20, 20], [130, 100, 50, 50])
        boxes = from_coco(np.array([[x, y, w, h]], np.float32))
    else:
        boxes = np.array([[*rng.uniform([90, 70], [150, 130]), 44, 18, rng.uniform(-1.5, 1.5)]], np.float32)
    pixels = drawn(boxes[0], 200, 240, sensor.num_channels)
    return augment(pixels, boxes, np.zeros(1, bool), sensor, settings(crop_px=256), rng)


@pytest.mark.parametrize("sensor", list(Sensor))
def test_pixels_and_boxes_move_together(sensor: Sensor) -> None:
    checked, offsets = 0, []
    for seed in range(60):
        crop = crop_with_one_object(seed, sensor)
        assert crop.pixels.shape == (256, 256, sensor.num_channels) and crop.pixels.dtype == np.uint8
        if not len(crop.boxes) or to_corners(crop.boxes).min() < 2 or to_corners(crop.boxes).max() > 254:
            continue
        checked += 1
        mask = (crop.pixels[..., 0] > 125).astype(np.uint8)
        rows, columns = np.nonzero(mask)
        (cx, cy), (w, h), _ = cv2.minAreaRect(np.column_stack([columns, rows]).astype(np.float32))
        box = crop.boxes[0]
        # pixel centres lie half a pixel inside the area they cover, on every side
        assert abs(cx + 0.5 - box[0]) < 1 and abs(cy + 0.5 - box[1]) < 1, seed
        np.testing.assert_allclose(sorted([w + 1, h + 1]), sorted(box[2:4]), atol=1.6, err_msg=str(seed))
        weight = crop.pixels[..., 0].astype(np.float64)
        y, x = np.mgrid[:256, :256] + 0.5
        offsets.append([(weight * x).sum() / weight.sum() - box[0], (weight * y).sum() / weight.sum() - box[1]])
        outline = np.rint(to_corners(crop.boxes)[0] - 0.5).astype(np.int32)
        filled = cv2.fillPoly(np.zeros((256, 256), np.uint8), [outline], (1,))
        assert np.logical_and(filled, mask).sum() / np.logical_or(filled, mask).sum() > 0.85, seed
    assert checked >= 25
    assert np.abs(offsets).max() < 0.15, "the centre of the bright pixels drifts from the box"


def test_sar_boxes_stay_horizontal() -> None:
    for seed in range(60):
        crop = crop_with_one_object(seed, Sensor.SAR)
        for box in np.concatenate([crop.boxes, crop.ignore_boxes]):
            distance = np.abs(np.sin(2 * float(box[4])))
            assert distance < 1e-5, (seed, box)


def test_oriented_sensors_take_free_angles_and_sar_only_quarter_turns() -> None:
    base = np.array([[64, 64, 40, 10, 0]], np.float32)
    found: dict[Sensor, set[float]] = {sensor: set() for sensor in Sensor}
    for sensor, angles_seen in found.items():
        for seed in range(60):
            pixels = np.zeros((128, 128, sensor.num_channels), np.uint8)
            crop = augment(pixels, base, np.zeros(1, bool), sensor, settings(), np.random.default_rng(seed))
            angles_seen.update(round(abs(float(theta)), 3) for theta in crop.boxes[:, 4])
    assert found[Sensor.SAR] == {0.0, round(math.pi / 2, 3)}
    assert len(found[Sensor.RGB]) > 10 and len(found[Sensor.IR]) > 10


def find_similarity(seed: int, pixels: npt.NDArray[np.uint8], config: AugmentConfig) -> npt.NDArray[np.float32]:
    """Where four probe boxes, too small ever to be dropped as cut, end up: names the crop's transform."""
    probes = np.array([[20, 30, 8, 4, 0.3], [100, 60, 8, 4, 0.3], [50, 90, 8, 4, 0.3]], np.float32)
    return augment(pixels, probes, np.zeros(3, bool), Sensor.RGB, config, np.random.default_rng(seed)).boxes


@pytest.mark.parametrize("min_visible", [0.0, 0.3, 0.7])
def test_objects_are_learned_by_their_visible_share(min_visible: float) -> None:
    """Every object of the sample is learned, ignored or out of view; shapely says which."""
    rng = np.random.default_rng(7)
    counts = np.zeros(3, int)
    for seed in range(60):
        sides = np.sort(rng.uniform(2, 90, (12, 2)))[:, ::-1]
        boxes = np.column_stack([rng.uniform(0, 220, (12, 2)), sides, rng.uniform(-1.5, 1.5, 12)]).astype(np.float32)
        ignore = rng.random(12) < 0.2
        config = settings(min_visible=min_visible, crop_px=96, rotate_free=1.0)
        pixels = np.zeros((220, 220, 1), np.uint8)
        crop = augment(pixels, boxes, ignore, Sensor.IR, config, np.random.default_rng(seed))
        # the same draw with every object wanted gives all the boxes that are seen at all
        everything = augment(
            pixels, boxes, np.zeros(12, bool), Sensor.IR, config.model_copy(update={"min_visible": 0.0}),
            np.random.default_rng(seed),
        )  # fmt: skip
        frame = shapely.box(0, 0, 96, 96)
        moved = dict(zip(everything.kept.tolist(), everything.boxes, strict=True))
        learned = {}
        for index, box in moved.items():
            outline = shapely.Polygon(to_corners(box[None])[0])
            share = outline.intersection(frame).area / outline.area
            learned[index] = share >= min_visible and not ignore[index]
            if abs(share - min_visible) < 1e-4:
                learned.pop(index)  # rounding decides
            counts[0 if learned.get(index) else 1] += 1
        for index, wanted in learned.items():
            assert (index in crop.kept) == wanted, (seed, index)
        np.testing.assert_allclose(
            crop.boxes, np.array([moved[index] for index in crop.kept]).reshape(-1, 5), atol=1e-5
        )
        for box in crop.ignore_boxes:
            outline = shapely.Polygon(to_corners(box[None])[0])
            assert outline.intersects(frame)
        counts[2] += len(crop.ignore_boxes)
    assert (counts[[0]] > 20).all() and counts[2] > 20


def test_objects_too_small_to_be_seen_are_ignored() -> None:
    boxes = np.array([[64, 64, MIN_SIDE_PX * 0.9, 2, 0], [64, 64, MIN_SIDE_PX * 1.1, 2, 0]], np.float32)
    config = settings(scale_min=1.0, scale_max=1.0)
    for seed in range(20):
        crop = augment(
            np.zeros((128, 128, 1), np.uint8), boxes, np.zeros(2, bool), Sensor.IR, config, np.random.default_rng(seed)
        )
        assert 0 not in crop.kept
        assert len(crop.ignore_boxes) == len(crop.kept)  # both in view or both out of it


def test_difficult_objects_are_ignored_not_dropped() -> None:
    boxes = np.array([[64, 64, 30, 20, 0.1]], np.float32)
    config = settings(scale_min=1.0, scale_max=1.0, rotate_free=0.0)
    for seed in range(20):
        arguments = (np.zeros((128, 128, 3), np.uint8), boxes)
        plain = augment(*arguments, np.array([False]), Sensor.RGB, config, np.random.default_rng(seed))
        difficult = augment(*arguments, np.array([True]), Sensor.RGB, config, np.random.default_rng(seed))
        assert not len(difficult.boxes)
        if len(plain.boxes):
            np.testing.assert_array_equal(difficult.ignore_boxes, plain.boxes)


def test_the_same_generator_gives_the_same_crop_and_another_gives_another() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (150, 170, 3), dtype=np.uint8)
    boxes = np.array([[60, 70, 40, 20, 0.5], [120, 50, 30, 8, -1.2]], np.float32)
    config = settings(brightness=0.3, contrast=0.3)

    def crop(seed: int) -> Crop:
        return augment(pixels, boxes, np.zeros(2, bool), Sensor.RGB, config, np.random.default_rng(seed))

    for name in ("pixels", "boxes", "kept", "ignore_boxes"):
        np.testing.assert_array_equal(getattr(crop(5), name), getattr(crop(5), name))
    assert not np.array_equal(crop(5).pixels, crop(6).pixels)


@pytest.mark.parametrize("shape", [(40, 300, 1), (300, 40, 1), (20, 20, 1), (600, 600, 1)])
def test_images_smaller_and_larger_than_the_crop_fill_it_or_fit_in_it(shape: tuple[int, int, int]) -> None:
    config = settings(scale_min=1.0, scale_max=1.0, rotate_free=0.0)
    for seed in range(20):
        crop = augment(
            np.full(shape, 200, np.uint8), np.zeros((0, 5), np.float32), np.zeros(0, bool), Sensor.IR, config,
            np.random.default_rng(seed),
        )  # fmt: skip
        seen = int((crop.pixels > 100).sum())
        wanted = min(shape[0], 128) * min(shape[1], 128)
        assert abs(seen - wanted) <= 2 * (128 + 128), (seed, seen, wanted)


def test_light_changes_by_the_formula_and_not_at_all_at_zero() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(change_light(pixels, settings(), np.random.default_rng(0)), pixels)
    for seed in range(20):
        changed = change_light(pixels, settings(brightness=0.2, contrast=0.3), np.random.default_rng(seed)).astype(int)
        assert (np.diff(changed.ravel()) >= 0).all()
        inner = changed[(changed > 0) & (changed < 255)]
        assert 0.68 <= (inner[-1] - inner[0]) / max(1, len(inner) - 1) <= 1.32
    constant = np.full((4, 4, 1), 127, np.uint8)
    shifts = [
        int(change_light(constant, settings(brightness=0.2), np.random.default_rng(s))[0, 0, 0]) - 127
        for s in range(50)
    ]
    assert min(shifts) < -20 and max(shifts) > 20 and max(map(abs, shifts)) <= 52


def test_iou_of_moved_boxes_is_kept() -> None:
    rng = np.random.default_rng(3)
    boxes = np.column_stack(
        [rng.uniform(0, 80, (20, 2)), rng.uniform(20, 60, 20), rng.uniform(5, 20, 20), rng.uniform(-1.5, 1.5, 20)]
    )
    similarity = Similarity(1.3, 2.2, True, 17.0, -40.0)
    before = rotated_iou(boxes.astype(np.float32), boxes.astype(np.float32))
    moved = similarity.boxes(boxes.astype(np.float32))
    np.testing.assert_allclose(rotated_iou(moved, moved), before, atol=1e-4)
