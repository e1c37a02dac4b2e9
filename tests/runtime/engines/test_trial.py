"""A trial finds what is wrong in any row of any batch, with and without graphs, and takes graphs where they pay."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from babelrs.bundle import Bundle, SelfTest, read_selftest
from babelrs.sensors import Sensor
from runtime.engines import Outputs, trial
from runtime.engines.trial import try_engine


class Scripted:
    """Gives the self-test's own outputs; ``wrong`` says in which row of which batch it does not, graph or not."""

    name, precision, reason = "scripted", "fp32", ""

    def __init__(self, selftest: SelfTest, wrong: tuple[int, int, bool] | None = None, gain: float = 0.0) -> None:
        self.graph_batches: frozenset[int] = frozenset()
        self._selftest, self._wrong, self._gain = selftest, wrong, gain

    def infer(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        batch, expected = len(pixels), self._selftest
        boxes, scores, labels = (
            np.repeat(each, batch, axis=0) for each in (expected.boxes, expected.scores, expected.labels)
        )
        graph = batch in self.graph_batches
        if self._wrong is not None and (batch, graph) == self._wrong[::2]:
            boxes[self._wrong[1]] += 1
        time.sleep(0.004 * (1 - self._gain) if graph else 0.004)
        return boxes, scores, labels


@pytest.fixture
def selftest(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> SelfTest:
    monkeypatch.setattr(trial, "RUNS", 5)
    return read_selftest(toy_bundle, Sensor.SAR)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("batch", "row"), [(1, 0), (4, 0), (4, 3)])
def test_a_wrong_row_fails_the_trial(selftest: SelfTest, batch: int, row: int, graph: bool) -> None:
    found = try_engine(Scripted(selftest, (batch, row, graph)), selftest, [1, 4])
    assert not found.passed and found.selftest["num_missed"] > 0


@pytest.mark.parametrize(("gain", "paying"), [(0.6, (1, 4)), (-0.6, ())])
def test_graphs_are_used_where_they_pay(selftest: SelfTest, gain: float, paying: tuple[int, ...]) -> None:
    engine = Scripted(selftest, gain=gain)
    found = try_engine(engine, selftest, [1, 4])
    assert found.passed and found.graph_batches == paying and engine.graph_batches == frozenset(paying)
    assert found.times_ms.keys() == {1, 4} and all(times["median"] >= 4 for times in found.times_ms.values())
