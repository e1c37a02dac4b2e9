from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.histogram import (
    CALIBRATORS,
    LEVELS,
    MAX_SAMPLES,
    NUM_BINS,
    PERCENTILE,
    Histogram,
    entropy_threshold,
    mse_threshold,
    percentile_threshold,
    pooled,
    squared_errors,
)

Values = npt.NDArray[np.float32]


def of(*parts: Values) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def normal(count: int, scale: float = 1.0, seed: int = 0) -> Values:
    return (scale * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def quantization_error(values: Values, threshold: float) -> float:
    """Mean squared error of symmetric INT8 in float64."""
    step = threshold / LEVELS
    quantized = np.clip(np.round(values.astype(np.float64) / step), -LEVELS, LEVELS) * step
    return float(((values - quantized) ** 2).mean())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), st.integers(0, 1000))
def test_counts_are_those_of_binning_everything_at_the_final_range(scales: list[float], seed: int) -> None:
    parts = [normal(500, scale, seed) for scale in scales]
    histogram, values = of(*parts), np.concatenate(parts)
    assert histogram.counts.sum() == values.size
    assert histogram.high == max(0.0, values.max()) and histogram.low == min(0.0, values.min())
    expected, _ = np.histogram(np.abs(values), NUM_BINS, (0.0, histogram.limit))
    # a value may fall into the bin beside where the edges are rounded
    assert np.abs(np.cumsum(expected) - np.cumsum(histogram.counts)).max() <= max(1, 1e-3 * values.size)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8), st.integers(0, 1000), st.data())
def test_merging_counts_what_adding_counts(scales: list[float], seed: int, data: st.DataObject) -> None:
    parts = [normal(500, scale, seed) for scale in scales]
    cut = data.draw(st.integers(1, len(parts) - 1))
    merged, expected = of(*parts[:cut]), of(*parts)
    merged.merge(of(*parts[cut:]))
    assert (merged.limit, merged.low, merged.high) == (expected.limit, expected.low, expected.high)
    # only a value that is a power of two, at the end of one range, may lie in the bin beside
    assert np.abs(np.cumsum(merged.counts) - np.cumsum(expected.counts)).max() <= 1


def test_of_large_tensors_the_extremes_are_exact() -> None:
    values = normal(5 * MAX_SAMPLES)
    values[12345], values[-3] = 91.5, -47.25
    histogram = of(values)
    assert (histogram.low, histogram.high, histogram.amax) == (-47.25, 91.5, 91.5)
    assert MAX_SAMPLES / 2 <= histogram.counts.sum() <= 2 * MAX_SAMPLES


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Histogram().add(np.array([1.0, np.nan], np.float32))


def test_pooling_weighs_every_histogram_alike() -> None:
    few, many = of(np.full(10, 0.5, np.float32)), of(np.full(1000, 6.0, np.float32), np.array([-7.0], np.float32))
    both = pooled([few, many])
    small = both.counts[: int(1.0 / both.limit * NUM_BINS)].sum()
    assert small == pytest.approx(both.counts.sum() / 2)
    assert (both.low, both.high) == (-7.0, 6.0)


def test_the_percentile_is_that_of_the_values() -> None:
    values = normal(60_000)
    threshold = percentile_threshold(of(values))
    assert threshold == pytest.approx(np.quantile(np.abs(values), PERCENTILE), abs=2 * 8 / NUM_BINS)


@pytest.mark.parametrize("outlier", [0.0, 30.0, 300.0])
def test_the_mse_threshold_is_nearly_the_best_there_is(outlier: float) -> None:
    values = normal(60_000)
    values[0] = outlier
    threshold = mse_threshold(of(values))
    best = min(quantization_error(values, each) for each in np.linspace(0.5, max(np.abs(values)), 400))
    assert quantization_error(values, threshold) <= 1.05 * best


def test_squared_errors_are_those_of_quantizing() -> None:
    values = normal(60_000)
    thresholds = np.array([1.0, 2.0, 3.5, 4.5])
    expected = [quantization_error(values, threshold) for threshold in thresholds]
    np.testing.assert_allclose(squared_errors(of(values), thresholds), expected, rtol=0.03)


def test_entropy_clips_an_outlier_and_keeps_a_uniform_range() -> None:
    values = normal(60_000)
    values[:3] = 80.0
    assert 2.0 < entropy_threshold(of(values)) < 20.0
    uniform = np.linspace(-3, 3, 60_000).astype(np.float32)
    assert entropy_threshold(of(uniform)) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("name", CALIBRATORS)
@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-5, 1e5), outlier=st.floats(1.0, 1e4), seed=st.integers(0, 100))
def test_thresholds_lie_within_the_values_and_scale_with_them(
    name: str, scale: float, outlier: float, seed: int
) -> None:
    values = normal(4000, 1.0, seed)
    values[7] = outlier
    threshold = CALIBRATORS[name](of(values))
    assert 0 < threshold <= np.abs(values).max()
    # powers of two scale the bins with the values
    factor = 2.0 ** np.round(np.log2(scale))
    assert CALIBRATORS[name](of((values * factor).astype(np.float32))) == pytest.approx(threshold * factor, rel=1e-5)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_nothing_but_zeros_has_a_threshold_of_zero(name: str) -> None:
    assert CALIBRATORS[name](of(np.zeros(100, np.float32))) == 0.0
