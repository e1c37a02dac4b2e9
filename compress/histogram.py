"""How an activation's magnitudes are distributed, and where INT8 should clip them.

A symmetric INT8 quantizer clips at a threshold ``T``: values beyond it are lost, values within it are rounded to steps
of ``T / 127``. The calibrators choose ``T`` from a histogram of ``|x|``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

NUM_BINS = 2048
LEVELS = 127
"""Steps of a symmetric INT8 quantizer on either side of zero."""
MAX_SAMPLES = 1 << 16
"""Values of one tensor that are binned; its extremes are taken of all."""
PERCENTILE = 0.9999
_ENTROPY_LEVELS = 128

Counts = npt.NDArray[np.float64]


@dataclass
class Histogram:
    """Magnitudes in :data:`NUM_BINS` equal bins from zero to ``limit``, a power of two that grows with the data.

    Attributes:
        limit: Upper edge of the last bin.
        counts: ``(NUM_BINS,)`` values in each bin.
        low: Least value seen (signed), at most 0.
        high: Greatest value seen (signed), at least 0.
    """

    limit: float = 2.0**-20
    counts: Counts = field(default_factory=lambda: np.zeros(NUM_BINS))
    low: float = 0.0
    high: float = 0.0

    @property
    def amax(self) -> float:
        """Greatest magnitude seen."""
        return max(-self.low, self.high)

    @property
    def centres(self) -> Counts:
        """Magnitudes at the middle of each bin, ``(NUM_BINS,)``."""
        return np.linspace(0.5, NUM_BINS - 0.5, NUM_BINS) * (self.limit / NUM_BINS)

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count a tensor of any shape; of a large one every k-th value, besides its extremes.

        Raises:
            ValueError: It holds NaN or infinity.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise ValueError("NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(self.amax)
        stride = flat.size // MAX_SAMPLES | 1  # odd: does not stay in step with channels
        place = np.abs(flat[::stride]) * np.float32(NUM_BINS / self.limit)
        self.counts += np.bincount(np.minimum(place.astype(np.int64), NUM_BINS - 1), minlength=NUM_BINS)

    def merge(self, other: Histogram) -> None:
        """Count what another histogram counted."""
        part = Histogram(other.limit, other.counts, other.low, other.high)
        part._grow(self.limit)
        self._grow(part.limit)
        self.counts = self.counts + part.counts
        self.low, self.high = min(self.low, part.low), max(self.high, part.high)

    def _grow(self, magnitude: float) -> None:
        """Double the range until it holds ``magnitude``: each two bins become one."""
        while self.limit < magnitude:
            joined = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([joined, np.zeros(NUM_BINS // 2)])
            self.limit *= 2.0


def pooled(histograms: Sequence[Histogram]) -> Histogram:
    """One histogram in which each of the given ones weighs the same, however many values it counted."""
    total = Histogram()
    for each in histograms:
        total.merge(Histogram(each.limit, each.counts / max(1.0, each.counts.sum()), each.low, each.high))
    return total


def max_threshold(histogram: Histogram) -> float:
    """The greatest magnitude: nothing is clipped."""
    return histogram.amax


def percentile_threshold(histogram: Histogram) -> float:
    """The magnitude that :data:`PERCENTILE` of all values do not exceed."""
    total = np.cumsum(histogram.counts)
    if not total[-1]:
        return histogram.amax
    index = int(np.searchsorted(total, PERCENTILE * total[-1]))
    return min(histogram.amax, (index + 1) * histogram.limit / NUM_BINS)


def squared_errors(histogram: Histogram, thresholds: Counts) -> Counts:
    """Mean squared error of quantizing with each threshold.

    Within the threshold rounding errs by ``step^2 / 12`` on average (uniform over a step), beyond it by the distance.

    Args:
        histogram: Of the values.
        thresholds: ``(K,)``.

    Returns:
        ``(K,)``.
    """
    mass = histogram.counts / max(1.0, histogram.counts.sum())
    beyond = np.maximum(histogram.centres[None] - thresholds[:, None], 0.0)  # (K, NUM_BINS)
    return (mass * np.where(beyond > 0, beyond**2, ((thresholds / LEVELS) ** 2 / 12)[:, None])).sum(1)


def mse_threshold(histogram: Histogram) -> float:
    """The threshold of least mean squared error, of 200 from a hundredth of the greatest magnitude up to it."""
    if not histogram.counts.sum():
        return histogram.amax
    candidates = np.geomspace(0.01, 1.0, 200) * histogram.amax
    return float(candidates[np.argmin(squared_errors(histogram, candidates))])


def entropy_threshold(histogram: Histogram) -> float:
    """The threshold whose quantized distribution is nearest to the clipped one by Kullback-Leibler divergence.

    As in TensorRT's entropy calibration (Migacz, "8-bit inference with TensorRT", GTC 2017): the clipped distribution
    has everything beyond the threshold in its last bin, the quantized one spreads each of 128 levels over its bins.
    """
    last = int(np.ceil(histogram.amax / histogram.limit * NUM_BINS))
    if last <= _ENTROPY_LEVELS or not histogram.counts.sum():
        return histogram.amax
    sizes = np.unique(np.linspace(_ENTROPY_LEVELS, last, 120).astype(int))
    divergences = [_divergence(histogram.counts, size) for size in sizes]
    return min(histogram.amax, float(sizes[int(np.argmin(divergences))]) * histogram.limit / NUM_BINS)


def _divergence(counts: Counts, size: int) -> float:
    """KL divergence of clipping at bin ``size`` and quantizing to 128 levels."""
    inside = counts[:size]
    reference = inside.copy()
    reference[-1] += counts[size:].sum()
    level = (np.arange(size) * _ENTROPY_LEVELS) // size
    filled = inside > 0
    sums = np.bincount(level, inside, _ENTROPY_LEVELS)
    shares = np.bincount(level, filled, _ENTROPY_LEVELS)
    spread = np.where(filled, sums[level] / np.maximum(shares[level], 1.0), 0.0)
    p, q = reference / reference.sum(), spread / max(spread.sum(), 1e-300)
    used = p > 0
    if (q[used] <= 0).any():
        return float("inf")
    return float((p[used] * np.log(p[used] / q[used])).sum())


CALIBRATORS: dict[str, Callable[[Histogram], float]] = {
    "max": max_threshold,
    "percentile": percentile_threshold,
    "entropy": entropy_threshold,
    "mse": mse_threshold,
}
"""How a clipping threshold is chosen from a histogram, by name."""
