"""The self-test in flight: to the bit what the same engine gave when it was opened.

The tolerances of a bundle's self-test are those of other engines' rounding. One engine that is given one input again
and again in a batch of the same size rounds always the same way, so that a single bit that differs says that its
weights, or what computes with them, are no longer what they were. That holds for this engine alone: another one, also
of the same files, another number of threads and another size of batch may round otherwise.
"""

from __future__ import annotations

from babelrs.bundle import SelfTest
from runtime.engines import Engine, Outputs
from runtime.selftest import SelfTestResult, judged

OPENING_RUNS = 3
"""Runs of the self-test by which an engine shows that it repeats itself to the bit."""
MISSED = "the self-test missed its tolerance"
DIFFERS = "the self-test is no longer to the bit what it was when the engine was opened"

Bits = tuple[tuple[str, tuple[int, ...], bytes], ...]


def bits_of(outputs: Outputs) -> Bits:
    """Type, shape and bytes of every output."""
    return tuple((each.dtype.str, each.shape, each.tobytes()) for each in outputs)


class Canary:
    """Runs the self-test of one engine, which was just opened, and later again.

    Args:
        engine: The engine; it runs the self-test :data:`OPENING_RUNS` times.
        selftest: A known input and what it must give.

    Attributes:
        opening: What the tolerances say of its first run.
        repeats: Whether all of these runs were alike to the bit. Where not, the tolerances judge the later ones.

    Raises:
        DeviceError: The engine failed.
    """

    def __init__(self, engine: Engine, selftest: SelfTest) -> None:
        self._engine, self._selftest = engine, selftest
        outputs = engine.infer(selftest.pixels)
        self.opening: SelfTestResult = judged(outputs, selftest)
        self._bits = bits_of(outputs)  # of now: an engine may give the same memory again
        others = [bits_of(engine.infer(selftest.pixels)) for _ in range(OPENING_RUNS - 1)]
        self.repeats = all(each == self._bits for each in others)

    def fault(self) -> str:
        """Run it again; what is wrong, in words, and empty where nothing is.

        Raises:
            DeviceError: The engine failed.
        """
        outputs = self._engine.infer(self._selftest.pixels)
        if self.repeats and bits_of(outputs) == self._bits and self.opening.passed:
            return ""
        if not judged(outputs, self._selftest).passed:
            return MISSED
        return DIFFERS if self.repeats else ""
