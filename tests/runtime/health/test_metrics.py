from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.health.metrics import FEW, REMEMBERED, Metrics, percentile
from runtime.stopwatch import STAGES


def times(ms: float) -> dict[str, float]:
    return dict.fromkeys(STAGES, ms)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([50, 75, 90, 99]))
def test_percentiles_are_numpys(values: list[float], percent: int) -> None:
    assert percentile(sorted(values), percent) == np.percentile(values, percent, method="inverted_cdf")


def test_percentiles_are_of_the_last_results_of_every_stage() -> None:
    metrics = Metrics()
    for number in range(3 * REMEMBERED):
        metrics.add(times(float(number)), 2.0 * number, 1)
    counts = metrics.counts()
    last = np.arange(2 * REMEMBERED, 3 * REMEMBERED)
    expected = {f"p{p}": float(np.percentile(last, p, method="inverted_cdf")) for p in (50, 90, 99)}
    assert counts["latency_ms"]["infer"] == expected  # type: ignore[index]
    assert counts["latency_ms"]["total"]["p50"] == 2 * expected["p50"]  # type: ignore[index]
    assert (counts["images"], counts["detections"]) == (3 * REMEMBERED, 3 * REMEMBERED)


@pytest.mark.parametrize(("fps", "seconds"), [(0.5, 200), (10.0, 120), (200.0, 60), (10.0, 5)])
def test_the_rate_is_that_of_the_last_seconds(fps: float, seconds: float) -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    for number in range(int(fps * seconds)):
        now[0] = number / fps
        metrics.add(times(1.0), 1.0, 0)
    assert metrics.counts()["fps"] == pytest.approx(fps, rel=0.12)
    now[0] += 1000
    assert metrics.counts()["fps"] == 0


def test_what_is_kept_does_not_grow() -> None:
    metrics = Metrics()
    for number in range(5000):
        metrics.begun(lambda: None)()
        metrics.add(times(1.0), 1.0, 1)
        metrics.skip(f"cause {number % 3}")
    assert metrics.counts()["under_way"] == 0 and len(metrics._results) == REMEMBERED
    assert metrics.counts()["skipped"] == {"cause 0": 1667, "cause 1": 1667, "cause 2": 1666}


def test_the_lag_is_what_three_in_four_images_keep_to_and_forgets() -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    for _ in range(FEW - 1):
        metrics.add(times(1.0), 900.0, 0)
    assert metrics.lag_ms() == 0  # too few to tell
    for _ in range(20):
        metrics.add(times(1.0), 50.0, 0)
    assert metrics.lag_ms() == 50  # a few slow ones are no lag
    for _ in range(30):
        metrics.add(times(1.0), 700.0, 0)
    assert metrics.lag_ms() == 700
    now[0] = 61.0
    assert metrics.lag_ms() == 0


def test_an_image_that_does_not_come_out_is_a_lag_by_its_age() -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    released: list[str] = []
    first, second = metrics.begun(lambda: released.append("first")), metrics.begun(lambda: released.append("second"))
    now[0] = 3.0
    assert metrics.lag_ms() == 3000 and metrics.counts()["under_way"] == 2
    first()
    second()
    assert metrics.lag_ms() == 0 and released == ["first", "second"] and metrics.counts()["under_way"] == 0


def test_it_can_be_asked_while_it_is_told() -> None:
    metrics, stop = Metrics(), threading.Event()

    def tell() -> None:
        while not stop.is_set():
            metrics.begun(lambda: metrics.add(times(1.0), 1.0, 1))()

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        seen = [metrics.counts()["images"] for _ in range(300)]
        assert all(metrics.lag_ms() >= 0 for _ in range(300))
    finally:
        stop.set()
        teller.join()
    assert seen == sorted(seen)  # type: ignore[type-var]
