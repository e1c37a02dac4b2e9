from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.instruct.examples import Example
from train.instruct.packing import Held, Packer, make_pack, stack

LENGTH = 20


def example(size: int, number: int, tiles: int = 0) -> Example:
    ids = np.arange(size) + 100 * number
    return Example(ids, np.where(ids % 3 == 0, ids, -100), np.full((tiles, 3, 2, 2), number, np.uint8), f"n{number}")


def test_a_pack_holds_whole_conversations_one_after_another() -> None:
    parts = [example(5, 1, 2), example(7, 2), example(3, 3, 1)]
    pack = make_pack(parts, LENGTH, pad_id=9)
    assert pack.input_ids.tolist() == [*range(100, 105), *range(200, 207), *range(300, 303), *[9] * 5]
    assert pack.labels.tolist() == [*(v for part in parts for v in part.labels), *[-100] * 5]
    assert pack.sample_ids.tolist() == [0] * 5 + [1] * 7 + [2] * 3 + [-1] * 5
    assert pack.tiles[:, 0, 0, 0].tolist() == [1, 1, 3] and pack.names == ("n1", "n2", "n3") and pack.num_tokens == 15


def test_packs_are_stacked_with_all_their_tiles_in_order() -> None:
    batch = stack([make_pack([example(5, 1, 2)], LENGTH, 0), make_pack([example(4, 2), example(4, 3, 1)], LENGTH, 0)])
    assert batch.input_ids.shape == batch.sample_ids.shape == (2, LENGTH)
    assert batch.tiles[:, 0, 0, 0].tolist() == [1, 1, 3] and batch.names == (("n1",), ("n2", "n3"))


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=60), st.integers(1, 5))
def test_every_example_is_given_out_once_and_none_is_cut(sizes: list[int], buffer: int) -> None:
    packer, given_out = Packer(LENGTH, buffer), []
    for number, size in enumerate(sizes):
        given_out.append(packer.add((number,), example(size, number)))
        assert len(packer.bins) <= buffer
    while (rest := packer.flush()) is not None:
        given_out.append(rest)
    packs = [pack for pack in given_out if pack is not None]
    names = [one.name for pack in packs for one in pack]
    assert sorted(names) == sorted(f"n{number}" for number in range(len(sizes)))
    assert all(sum(map(len, pack)) <= LENGTH for pack in packs)


def test_an_example_goes_where_it_leaves_least_room_and_the_fullest_is_given_out() -> None:
    packer = Packer(LENGTH, 2)
    assert packer.add((0,), example(8, 0)) is None and packer.add((1,), example(14, 1)) is None
    assert packer.add((2,), example(6, 2)) is None  # fills 14 to 20
    assert packer.positions == [[(0,)], [(1,), (2,)]]
    given_out = packer.add((3,), example(13, 3))
    assert given_out is not None and [one.name for one in given_out] == ["n1", "n2"]
    assert packer.positions == [[(0,)], [(3,)]]


def test_a_packer_goes_on_from_what_it_held() -> None:
    sizes = np.random.default_rng(3).integers(1, 12, 80).tolist()
    whole = Packer(LENGTH, 3)
    expected = [whole.add((n,), example(size, n)) for n, size in enumerate(sizes)]
    first = Packer(LENGTH, 3)
    for number in range(37):
        first.add((number,), example(sizes[number], number))
    bins = [[Held(p, example(sizes[p[0]], p[0])) for p in held] for held in first.positions]
    second = Packer(LENGTH, 3, bins)
    rest = [second.add((n,), example(sizes[n], n)) for n in range(37, 80)]
    assert [p and [e.name for e in p] for p in rest] == [p and [e.name for e in p] for p in expected[37:]]


def test_an_example_longer_than_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="21 tokens"):
        Packer(LENGTH, 1).add((0,), example(21, 0))
