"""The rule of worth, and what it remembers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.geo import Places
from runtime.links.value import FLOORS, HALF_LIFE, REACH_M, PlacesSeen, Shares, Valuer, worth
from tests.runtime.links.frames import frame

UNIT = st.floats(0, 1)


@pytest.mark.parametrize(
    ("score", "share", "distance", "value", "priority"),
    [
        (1.0, 0.0, math.inf, 1.0, 0),  # certain, never seen, a new place
        (0.9, 0.9, math.inf, 0.9 * 0.73, 0),  # a common class at a new place
        (0.9, 0.5, 0.0, 0.9 * 0.55, 1),  # where it was before
        (0.9, 1.0, 0.0, 0.36, 2),  # the only class, where it was before
        (0.35, 1.0, 0.0, 0.14, 3),
        (0.0, 0.0, math.inf, 0.0, 3),
    ],
)
def test_the_rule_gives_the_stated_values(
    score: float, share: float, distance: float, value: float, priority: int
) -> None:
    judged = worth(score, share, distance)
    assert judged.value == pytest.approx(value) and judged.priority == priority


@given(UNIT, UNIT, UNIT, UNIT, st.floats(0, 3))
def test_more_score_rarity_or_novelty_is_never_worth_less(
    score: float, other: float, share: float, common: float, distance: float
) -> None:
    low, high = sorted((score, other))
    rare, frequent = sorted((share, common))
    assert worth(low, frequent, distance).value <= worth(high, rare, distance + 0.5).value
    judged = worth(score, share, distance)
    assert 0 <= judged.value <= 1 and judged.value >= FLOORS[judged.priority]


def test_a_class_that_was_common_long_ago_becomes_rare_again() -> None:
    shares = Shares()
    for _ in range(100):
        shares.add("ship")
    assert shares.share("ship") == 1.0 and shares.share("plane") == 0.0
    for _ in range(HALF_LIFE):
        shares.add("plane")
    older = sum(0.5 ** ((HALF_LIFE + age) / HALF_LIFE) for age in range(100))
    newer = sum(0.5 ** (age / HALF_LIFE) for age in range(HALF_LIFE))
    assert shares.share("ship") == pytest.approx(older / (older + newer))


def test_shares_hold_for_millions_of_detections() -> None:
    shares = Shares()
    shares._weight = 1e99  # as after some three hundred thousand
    for number in range(10_000):
        shares.add("ship" if number % 4 else "plane")
    assert shares.share("plane") == pytest.approx(0.25, abs=0.01)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=20), st.floats(-3, 3))
def test_a_place_is_as_near_as_the_nearest_report_of_its_cell(seen: list[tuple[float, float]], x: float) -> None:
    places, last = PlacesSeen(), {}
    for at in seen:
        places.add("ship", "earth", (*at, 0.0))
        last[math.floor(at[0]), math.floor(at[1])] = at  # a cell holds its latest report
    nearest = min(math.dist(at, (x, 0.5)) for at in last.values())
    expected = nearest if nearest < 1 else math.inf
    assert places.distance("ship", "earth", (x, 0.5, 0.0)) == pytest.approx(expected)
    assert places.distance("plane", "earth", (x, 0.5, 0.0)) == math.inf
    assert places.distance("ship", "camera", (x, 0.5, 0.0)) == math.inf


def test_the_memory_of_places_is_bounded_and_forgets_the_oldest() -> None:
    places = PlacesSeen(most=10)
    for number in range(50):
        places.add("ship", "earth", (2.0 * number, 0.0, 0.0))
    assert len(places) == 10
    assert places.distance("ship", "earth", (0.0, 0.0, 0.0)) == math.inf
    assert places.distance("ship", "earth", (98.0, 0.0, 0.0)) == 0


def test_a_thing_that_stays_where_it_is_loses_its_novelty_and_one_that_moves_does_not() -> None:
    valuer = Valuer()
    values = [valuer.judge(frame(number, [0.9]))[0].value for number in range(3)]
    assert values[0] > values[1] == values[2]
    moved = valuer.judge(frame(3, [0.9], boxes=[[5000, 5000, 30, 10, 0]]))[0].value
    assert moved == pytest.approx(values[1] + 0.9 * 0.3)


def square(lon: float, lat: float) -> Places:
    corners = np.array([[[lon, lat], [lon + 1e-4, lat], [lon + 1e-4, lat + 1e-4], [lon, lat + 1e-4]]])
    return Places(corners, np.ones(1), np.ones(1), np.ones(1))


@pytest.mark.parametrize("lon", [10.0, 179.9999, -180.0])
def test_places_on_earth_are_compared_in_metres_also_at_the_date_line(lon: float) -> None:
    valuer = Valuer()
    valuer.judge(frame(0, [0.9], places=square(lon, 50.0), source="a"))
    east = (REACH_M / 2) / (111_195 * math.cos(math.radians(50)))
    near = valuer.judge(frame(1, [0.9], places=square((lon + east + 180) % 360 - 180, 50.0), source="b"))[0].value
    assert near == pytest.approx(0.9 * (0.4 + 0.3 * 0.5), abs=0.02)
