"""What an earlier run took of a source, and how the numbers of its images go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Past:
    """What was taken of one source, with a result or counted as unusable.

    Attributes:
        counts: Images by :attr:`runtime.sources.Capture.key`; the key of the last image is the last.
        stems: What names of files about them begin with, by key, where there is such a thing.
        next_sequence: The number in its source that no image has yet.
        num_images: Images that have a result.
        num_skipped: Images that could not be used.
        is_over: Whether the source came to its end.
    """

    counts: dict[str, int] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    next_sequence: int = 0
    num_images: int = 0
    num_skipped: int = 0
    is_over: bool = False

    @property
    def last_key(self) -> str:
        """The key of the last image; empty where there is none."""
        return next(reversed(self.counts), "")

    def add(self, key: str, stem: str, sequence: int, is_used: bool) -> None:
        """Count an image."""
        self.counts[key] = self.counts.pop(key, 0) + 1
        if stem:
            self.stems[key] = stem
        self.next_sequence = max(self.next_sequence, sequence + 1)
        self.num_images += is_used
        self.num_skipped += not is_used


@dataclass
class Numbers:
    """The numbers of a sensor's images: each is given once, also where images end in another order than they began.

    Attributes:
        next: The first of those that nobody has had.
        missing: Smaller ones whose images had not ended when the run did.
    """

    next: int = 0
    missing: set[int] = field(default_factory=set)

    def add(self, number: int) -> None:
        """An image of this number ended."""
        self.missing.discard(number)
        self.missing.update(range(self.next, number))
        self.next = max(self.next, number + 1)

    def free(self) -> Iterator[int]:
        """Numbers for a run that goes on."""
        return itertools.chain(sorted(self.missing), itertools.count(self.next))


def unlike(stem: str, taken: set[str], end: str = "") -> str:
    """``stem``, or with a number before its ``end`` what is not in ``taken``; it is taken afterwards."""
    found, count = stem, 1
    while found in taken:
        count += 1
        found = f"{stem.removesuffix(end)}-{count}{end}"
    taken.add(found)
    return found
