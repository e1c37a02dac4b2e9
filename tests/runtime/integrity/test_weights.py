"""The CRC of weights: every bit, once an interval, in slices that no frame waits for."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.integrity.weights import SLICE_BYTES, Region, WeightCheck, slices_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def regions(*sizes: int) -> list[Region]:
    rng = np.random.default_rng(5)
    return [
        Region(f"tensor{number}", rng.integers(0, 256, size, dtype=np.uint8), "uint8")
        for number, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 16), st.data())
def test_any_single_bit_makes_exactly_its_slice_differ(sizes: list[int], most: int, data: st.DataObject) -> None:
    held = regions(*sizes)
    slices = slices_of(held, most)
    assert b"".join(each.content.tobytes() for each in slices) == b"".join(each.content.tobytes() for each in held)
    which = data.draw(st.integers(0, len(held) - 1))
    byte, bit = data.draw(st.integers(0, sizes[which] - 1)), data.draw(st.integers(0, 7))
    held[which].content[byte] ^= 1 << bit
    assert [each.name for each in slices if not each.is_intact()] == [f"tensor{which}"]
    held[which].content[byte] ^= 1 << bit
    assert all(each.is_intact() for each in slices)


def test_a_pass_over_all_bytes_takes_one_interval_of_small_steps() -> None:
    clock, held = Clock(), regions(3 * SLICE_BYTES, 100, SLICE_BYTES + 1)
    check = WeightCheck(held, 10.0, clock)
    for step in range(1, 101):
        clock.now = step * 0.1
        assert check.step() is None
    assert check.passes == 1


def test_a_flip_anywhere_is_found_within_one_interval_wherever_the_pass_stands() -> None:
    for place in (0, SLICE_BYTES - 1, 2 * SLICE_BYTES, 3 * SLICE_BYTES - 1):
        for begun in (0.0, 3.3, 9.9):
            clock, held = Clock(), regions(3 * SLICE_BYTES)
            check = WeightCheck(held, 10.0, clock)
            clock.now = begun
            assert check.step() is None
            held[0].content[place] ^= 0x10
            found = []
            for _ in range(101):  # one interval, and the batch at its end
                clock.now += 0.1
                found.append(check.step())
            assert any(found), f"byte {place}, begun at {begun} s"


def test_after_a_long_pause_one_whole_pass_comes_first_and_no_more() -> None:
    clock, held = Clock(), regions(4 * SLICE_BYTES)
    check = WeightCheck(held, 10.0, clock)
    clock.now = 1e6
    assert check.step() is None and check.passes == 1
    held[0].content[0] ^= 1
    clock.now = 2e6
    found = check.step()
    assert found is not None and found.name == "tensor0"


def test_the_crcs_are_those_of_zlib() -> None:
    (only,) = slices_of(regions(17))
    assert only.crc == zlib.crc32(only.content.tobytes())
