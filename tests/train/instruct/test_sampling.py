from __future__ import annotations

from collections import Counter

import pytest

from babelrs.errors import BabelRSError
from train.instruct.sampling import Mixture

SIZES, COUNTS = (10, 4, 7), (3, 10, 7)  # rates 0.3, 2.5 and 1


def epoch(number: int, seed: int = 1) -> list[tuple[int, int]]:
    mixture = Mixture(SIZES, COUNTS, seed)
    draws = [mixture.draw(number * 20 + place) for place in range(20)]
    assert {draw.epoch for draw in draws} == {number}
    return [(draw.dataset, draw.row) for draw in draws]


@pytest.mark.parametrize("number", range(5))
def test_every_epoch_takes_the_asked_number_of_rows_of_each_set(number: int) -> None:
    assert Counter(dataset for dataset, _ in epoch(number)) == {0: 3, 1: 10, 2: 7}


def test_a_whole_number_of_passes_sees_every_row_equally_often() -> None:
    seen = Counter(pair for number in range(10) for pair in epoch(number))
    for dataset, (size, count) in enumerate(zip(SIZES, COUNTS, strict=True)):
        assert [seen[dataset, row] for row in range(size)] == [10 * count // size] * size


def test_a_fraction_above_one_is_full_passes_and_a_part_of_the_next() -> None:
    for number in range(2):
        times = Counter(row for dataset, row in epoch(number) if dataset == 1)
        assert sorted(times.values()) == [2, 2, 3, 3]
    both = Counter(row for number in range(2) for dataset, row in epoch(number) if dataset == 1)
    assert set(both.values()) == {5}


def test_a_share_takes_rows_that_differ_until_all_were_seen() -> None:
    rows = [row for number in range(3) for dataset, row in epoch(number) if dataset == 0]
    assert len(set(rows)) == 9


def test_the_seed_and_the_epoch_change_the_order_and_nothing_else_does() -> None:
    assert epoch(1) == epoch(1) != epoch(1, seed=2)
    assert [d for d, _ in epoch(0)] != [d for d, _ in epoch(1)]
    assert sorted(row for d, row in epoch(0) if d == 2) == sorted(row for d, row in epoch(1) if d == 2)


def test_sets_without_rows_are_passed_over_and_no_row_at_all_is_refused() -> None:
    mixture = Mixture((0, 5), (0, 5), 0)
    assert {mixture.draw(place).dataset for place in range(5)} == {1}
    with pytest.raises(BabelRSError, match="no rows"):
        Mixture((5, 3), (0, 0), 0)
