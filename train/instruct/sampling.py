"""Which row comes when: a pure function of seed and position, so that nothing but a number is needed to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError

_ORDER, _ROWS, _SHARDS = 1, 2, 3  # separate random streams of one seed


@dataclass(frozen=True)
class Draw:
    """One drawn row.

    Attributes:
        dataset: Which set.
        row: Which of its rows.
        epoch: In which epoch.
    """

    dataset: int
    row: int
    epoch: int


class Mixture:
    """An endless sequence of rows of several sets.

    An epoch holds ``counts[k]`` rows of set k in random order. Each set's rows are drawn without replacement, and the
    next epoch goes on where the last one ended: a set of which an epoch takes a tenth is seen whole after ten epochs,
    and one that is taken 2.5 times gives two full passes and half of a third, whose other half comes next.

    Args:
        sizes: Number of rows of each set.
        counts: Rows that an epoch takes of each.
        seed: Of all draws.

    Raises:
        BabelRSError: An epoch holds no row.
    """

    def __init__(self, sizes: Sequence[int], counts: Sequence[int], seed: int) -> None:
        self.sizes, self.counts, self.seed = tuple(sizes), tuple(counts), seed
        self._ends = np.cumsum(self.counts)
        self.epoch_size = int(self._ends[-1]) if len(self._ends) else 0
        if self.epoch_size == 0:
            raise BabelRSError("The instruction sets give no rows.", "Check their files and repeat_time.")

    def draw(self, position: int) -> Draw:
        """The row at ``position``, counted from 0 through all epochs."""
        epoch, place = divmod(position, self.epoch_size)
        slot = int(permutation(self.epoch_size, (self.seed, _ORDER, epoch))[place])
        chosen = int(np.searchsorted(self._ends, slot, side="right"))
        within = slot - int(self._ends[chosen]) + self.counts[chosen]
        turn, at = divmod(epoch * self.counts[chosen] + within, self.sizes[chosen])
        return Draw(chosen, int(permutation(self.sizes[chosen], (self.seed, _ROWS, chosen, turn))[at]), epoch)


def shard_order(shards: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]:
    """The order of an epoch's shards, ``(shards,)``."""
    return permutation(shards, (seed, _SHARDS, epoch))


@lru_cache(maxsize=96)
def permutation(size: int, seed: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    """A random order of ``0..size-1``; 4 bytes a row, kept for the sets and epochs in use."""
    return np.random.default_rng(seed).permutation(size).astype(np.uint32)
