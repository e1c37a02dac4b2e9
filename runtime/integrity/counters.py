"""What the checks of a run did, for whoever reports on its health."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Counts since the engine was opened.

    Attributes:
        passes: Complete passes of the CRC over all weights.
        selftests: Self-tests that were run, that before the first frame included.
        mismatches: Slices of weights whose CRC was another.
        faults: Engine errors, outputs that cannot be, and self-tests that missed.
        reloads: Engines that were opened again from verified files, and passed their self-test.
    """

    passes: int = 0
    selftests: int = 0
    mismatches: int = 0
    faults: int = 0
    reloads: int = 0
