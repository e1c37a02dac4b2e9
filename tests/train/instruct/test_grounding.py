from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.boxes import to_corners
from train.instruct.grounding import boxes_text, grounded_text, hulls, parse_grounded, to_scale

SIDES = st.integers(1, 20_000)
SHARES = st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=6)


@given(SHARES, SIDES, SIDES, st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=12))
def test_boxes_come_back_within_half_a_step_of_the_scale(
    shares: list[tuple[float, ...]], width: int, height: int, name: str
) -> None:
    corners = np.array(shares).reshape(-1, 2, 2) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    (found,) = parse_grounded(f"see {grounded_text(name, to_scale(boxes, width, height))}.", width, height)
    assert found.name == name.strip()
    off = np.abs(found.boxes - boxes) / np.array([width, height, width, height])
    assert (off <= 0.5 / 1000 + 1e-9).all()


def test_the_text_is_as_published() -> None:
    scaled = to_scale([[40.0, 10.0, 80.0, 100.0]], 800, 200)
    assert grounded_text("ship", scaled) == "<ref>ship</ref><box>[[50, 50, 100, 500]]</box>"
    assert boxes_text([[1, 2, 3, 4], [5, 6, 7, 8]]) == "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>"


def test_boxes_are_clipped_to_the_image() -> None:
    assert to_scale([[-30, 5, 90, 400]], 60, 100).tolist() == [[0, 50, 1000, 1000]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<box>[[1, 2, 3, 4]]</box>", [("", [[1, 2, 3, 4]])]),
        ("<ref>a</ref> <box>[[1,2,3,4],[5,6,7,8]]</box>", [("a", [[1, 2, 3, 4], [5, 6, 7, 8]])]),
        (
            "<ref>a</ref><box>[[1, 2, 3, 4]]</box> and <ref> b </ref><box>[[0, 0, 9, 9]]</box>",
            [("a", [[1, 2, 3, 4]]), ("b", [[0, 0, 9, 9]])],
        ),
        ("<box>[[30, 40, 10, 20]]</box>", [("", [[10, 20, 30, 40]])]),
        ("<box>[[-5, 0, 2000, 10.5]]</box>", [("", [[0, 0, 1000, 10.5]])]),
        ("<box>[[1, 2, 3]]</box>", []),
        ("<ref>a</ref><box>[[1, 2, 3, 4]", []),
        ("<box>[[a, b, c, d], [1, 2, 3, 4]]</box>", [("", [[1, 2, 3, 4]])]),
        ("none", []),
    ],
)
def test_what_a_model_may_write_is_read_without_an_error(
    text: str, expected: list[tuple[str, list[list[float]]]]
) -> None:
    found = parse_grounded(text, 1000, 1000)
    assert [(item.name, item.boxes.tolist()) for item in found] == expected


def test_hulls_hold_every_corner_and_touch_each_side() -> None:
    rng = np.random.default_rng(4)
    boxes = np.column_stack([rng.uniform(0, 90, (50, 2)), rng.uniform(1, 30, (50, 2)), rng.uniform(-1.5, 1.5, 50)])
    for hull, corners in zip(hulls(boxes), to_corners(boxes), strict=True):
        assert hull.tolist() == [*corners.min(axis=0), *corners.max(axis=0)]
