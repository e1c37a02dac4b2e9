"""Which parts of a model stay INT8: as many as the limit on the loss of H-mAP allows.

For TensorRT the start is INT8 in the backbone and the pyramid with float16 heads; for CPUs, where a float32 head takes
longer than all that INT8 saves, it is INT8 throughout. Where the start loses too much, parts go back to float, the most
hurtful first, as few as it takes (by bisection). Every step's result is kept, so that a killed search
goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import TypeAdapter

from babelrs.metrics import evaluate
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from compress.compressor import Compressor
from compress.histogram import Histogram
from compress.output_error import worst
from compress.parts import is_head, serves
from compress.ranges import Scales, SensorRanges, choose, per_sensor
from compress.report.record import CalibratorResult, Row, RowName, Sensitivity
from compress.steps import Steps
from train.evaluation.inputs import Samples

_ROWS = TypeAdapter(Row)
UNIT = "mean change of score and overlap"


class Watcher(Protocol):
    """What is told how a search goes, such as :class:`compress.report.live.SearchTable`."""

    def row(self, row: Row) -> None:
        """A row was measured."""

    def step(self, text: str, done: int, total: int) -> None:
        """A step is under way."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search may do.

    Attributes:
        scales: Whether sensors have ranges of their own.
        calibrators: Names of those that are compared; the first alone is taken without comparing.
        max_hmap_drop: H-mAP that may be lost against float32, in points (hundredths).
        rows: Ways of quantizing to measure beside the final one, for the report.
        float_heads: Whether heads are float from the start.
    """

    scales: Scales
    calibrators: tuple[str, ...]
    max_hmap_drop: float
    rows: tuple[RowName, ...]
    float_heads: bool


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        int8_parts: The parts that stay INT8.
        ranges: Of every sensor's quantization points.
        pooled: The same, calibrated on all sensors together.
        calibrators: How they compared.
        calibrator: The one taken.
        sensitivity: Error of the outputs by part and sensor.
        rows: What was measured.
        drop: H-mAP lost, in points.
    """

    int8_parts: tuple[str, ...]
    ranges: SensorRanges
    pooled: SensorRanges
    calibrators: tuple[CalibratorResult, ...]
    calibrator: str
    sensitivity: Sensitivity
    rows: tuple[Row, ...]
    drop: float


class Search:
    """One search over one model.

    Args:
        compressor: Runs the model with any choice.
        images: Calibration images.
        samples: Held-out samples of every sensor.
        plan: What it may do.
        steps: Results that are there already.
        watcher: Told how it goes.
    """

    def __init__(
        self,
        compressor: Compressor,
        images: CalibrationSet,
        samples: Samples,
        plan: SearchPlan,
        steps: Steps,
        watcher: Watcher,
    ) -> None:
        self.compressor, self.images, self.samples = compressor, images, samples
        self.plan, self.steps, self.watcher = plan, steps, watcher
        self.sensors = list(images.images)
        self.rows: list[Row] = []

    def run(self, exact: Row | None = None) -> Found:
        """Calibrate, compare, and give parts back until the limit is kept or nothing is left to give.

        Args:
            exact: The row to lose nothing against, where it is another model's; ``None``: this one in float32.
        """
        if exact is None:
            exact = self.measure("float32", (), {}, half=False)
        else:
            self._add(exact)
        if "float16" in self.plan.rows:
            self.measure("float16", (), {}, half=True)
        tables = self.ranges()
        calibrators = self.compare(tables)
        calibrator = min(calibrators, key=lambda result: result.error or 0.0).calibrator
        ranges = tables[self.plan.scales][calibrator]
        for name in ("naive", "pooled", "per-sensor"):
            if name in self.plan.rows:
                self.measure(name, self.compressor.parts, tables[name][calibrator])
        sensitivity = self.sensitivity(ranges)
        int8_parts, mixed = self.give_back(exact, ranges, sensitivity)
        self._add(mixed)
        return Found(
            int8_parts, ranges, tables["pooled"][calibrator], calibrators, calibrator, sensitivity,
            tuple(self.rows), dropped(exact, mixed),
        )  # fmt: skip

    def measure(self, name: RowName, int8_parts: Collection[str], ranges: SensorRanges, half: bool = True) -> Row:
        """A row of the table."""
        row = self._measured(f"row {name}", name, int8_parts, ranges, half)
        self._add(row)
        return row

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self.watcher.row(row)

    def _measured(
        self, step: str, name: RowName, int8_parts: Collection[str], ranges: SensorRanges, half: bool = True
    ) -> Row:
        self.watcher.step(f"measuring {step}", 0, 1)

        def compute() -> Row:
            scored = self.compressor.predict(int8_parts, ranges, half, self.samples)
            return Row.from_evaluation(name, evaluate(scored.found, scored.truth), self.compressor.measured_by)

        return self.steps.do(
            step, compute, to=lambda row: _ROWS.dump_python(row, mode="json"), back=_ROWS.validate_python
        )

    def ranges(self) -> dict[str, dict[str, SensorRanges]]:
        """Ranges by how scales are set (``naive``, ``pooled``, ``per-sensor``) and by calibrator."""

        def compute() -> dict[str, dict[str, SensorRanges]]:
            own = self._histograms({sensor: sensor for sensor in self.sensors})
            foreign = Sensor.RGB if Sensor.RGB in self.sensors else self.sensors[0]
            naive = self._histograms(dict.fromkeys(self.sensors, foreign)) if "naive" in self.plan.rows else {}
            return {
                "naive": {name: per_sensor(naive, name) for name in self.plan.calibrators},
                "pooled": {name: choose("pooled", own, name) for name in self.plan.calibrators},
                "per-sensor": {name: choose("per-sensor", own, name) for name in self.plan.calibrators},
            }

        return self.steps.do("ranges", compute, to=_ranges_to_json, back=_ranges_from_json)

    def _histograms(self, images_of: Mapping[Sensor, Sensor]) -> dict[Sensor, dict[str, Histogram]]:
        """Histograms of every sensor's graph, of the images of the sensor it is given."""
        found = {}
        for done, (sensor, source) in enumerate(images_of.items()):
            self.watcher.step(f"calibrating {sensor} on {source} images", done, len(images_of))
            found[sensor] = self.compressor.observe(self.images, source, sensor)
        return found

    def compare(self, tables: Mapping[str, Mapping[str, SensorRanges]]) -> tuple[CalibratorResult, ...]:
        """The error of the outputs with each calibrator, all that starts in INT8 being so; of the worst sensor."""
        start = starting_parts(self.compressor.parts, self.plan.float_heads)
        results = []
        for done, name in enumerate(self.plan.calibrators):
            self.watcher.step(f"calibrator {name}", done, len(self.plan.calibrators))
            ranges = tables[self.plan.scales][name]
            error = self.steps.do(
                f"calibrator {name}", lambda given=ranges: worst(self.compressor.errors(start, given)),  # type: ignore[misc]
                to=float, back=float,
            )  # fmt: skip
            results.append(CalibratorResult(name, error=error))
        return tuple(results)

    def sensitivity(self, ranges: SensorRanges) -> Sensitivity:
        """The error of each sensor's outputs when one part alone is INT8."""
        parts, values = self.compressor.parts, []
        for done, part in enumerate(parts):
            self.watcher.step(f"sensitivity of {part}", done, len(parts))
            served = {sensor: ranges[sensor] for sensor in self.sensors if serves(part, sensor.value)}
            found = self.steps.do(
                f"sensitivity {part}", lambda one=part, given=served: self.compressor.errors((one,), given),  # type: ignore[misc]
                to=lambda errors: {sensor.value: error for sensor, error in errors.items()},
                back=lambda stored: {Sensor(name): error for name, error in stored.items()},
            )  # fmt: skip
            values.append(tuple(found.get(sensor) for sensor in self.sensors))
        return Sensitivity(parts, tuple(self.sensors), tuple(values), UNIT)

    def give_back(self, exact: Row, ranges: SensorRanges, sensitivity: Sensitivity) -> tuple[tuple[str, ...], Row]:
        """The INT8 parts that are left when the limit is kept, or none; and their row.

        The loss is taken to fall with every part that goes back, most hurtful first, so that bisection finds the least
        number of them; what is returned was measured, whether or not that is so.
        """
        order = most_hurtful_first(sensitivity, starting_parts(self.compressor.parts, self.plan.float_heads))
        tried: dict[int, Row] = {}

        def row(count: int) -> Row:
            if count not in tried:
                self.watcher.step(f"{count} of {len(order)} parts in float", count, len(order))
                tried[count] = self._measured(f"mixed {count}", "mixed", order[count:], ranges)
            return tried[count]

        def kept(count: int) -> bool:
            return dropped(exact, row(count)) <= self.plan.max_hmap_drop

        least = first_kept(kept, len(order))
        left = set(order[least:])
        return tuple(part for part in self.compressor.parts if part in left), row(least)


def first_kept(kept: Any, most: int) -> int:
    """The least count in ``0..most`` that ``kept`` accepts, if it accepts all above one; ``most`` where it has none.

    Few parts suffice as a rule, so counts are doubled first: 0, 1, 2, 4, ...
    """
    low, high = -1, 0  # everything up to low was refused
    while high < most and not kept(high):
        low, high = high, min(most, max(1, 2 * high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


def starting_parts(parts: Sequence[str], float_heads: bool) -> tuple[str, ...]:
    """The parts that a search starts with in INT8."""
    return tuple(part for part in parts if not (float_heads and is_head(part)))


def most_hurtful_first(sensitivity: Sensitivity, start: Sequence[str]) -> list[str]:
    """The parts of ``start`` by the error of the sensor that suffers most from each."""
    hurt = {
        part: max((value for value in row if value is not None), default=0.0)
        for part, row in zip(sensitivity.parts, sensitivity.values, strict=True)
    }
    return sorted(start, key=lambda part: -hurt[part])


def dropped(exact: Row, row: Row) -> float:
    """H-mAP lost against float32, in points."""
    return 100.0 * ((exact.h_map or 0.0) - (row.h_map or 0.0))


def _ranges_to_json(tables: Mapping[str, Mapping[str, SensorRanges]]) -> Any:
    return {
        way: {name: {sensor.value: found for sensor, found in ranges.items()} for name, ranges in by_name.items()}
        for way, by_name in tables.items()
    }


def _ranges_from_json(stored: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]]) -> Any:
    return {
        way: {
            name: {
                Sensor(sensor): {point: (low, high) for point, (low, high) in found.items()}
                for sensor, found in ranges.items()
            }
            for name, ranges in by_name.items()
        }
        for way, by_name in stored.items()
    }
