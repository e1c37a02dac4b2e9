"""The contents of ``report.json``: plain values, the same bytes for the same values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from pathlib import PurePath
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from babelrs.errors import BabelRSError, collected
from babelrs.metrics import Evaluation, Precision
from babelrs.sensors import Sensor
from compress.parity import Parity

SCHEMA = "babelrs.quantization-report/1"

RowName = Literal["float32", "float16", "naive", "pooled", "per-sensor", "mixed"]
ROW_NAMES: tuple[RowName, ...] = get_args(RowName)
MeasuredBy = Literal["onnxruntime", "pytorch simulation"]
PartPrecision = Literal["int8", "fp16", "fp32"]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MAKE_AGAIN = "Make it again with compress.quantize."


@dataclass(frozen=True)
class Accuracy:
    """Average precision as a fraction: at IoU 0.50, at 0.75, over 0.50:0.05:0.95; ``None``: nothing to find."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    ap50: float | None
    ap75: float | None
    ap: float | None

    @classmethod
    def of(cls, precision: Precision) -> Accuracy:
        """What :mod:`babelrs.metrics` measured."""
        return cls(**precision.to_dict())


@dataclass(frozen=True)
class Row:
    """One way to compute the model, measured.

    Attributes:
        name: ``naive`` is INT8 calibrated on RGB alone, ``mixed`` is INT8 with parts in float.
        sensors: Mean over the sensor's classes.
        h_map: A fraction.
        overall: Mean over the classes of all sensors.
        size_bytes: Of the graphs and their weights; ``None``: no file was made.
        latency_ms: Of one inference, by sensor; ``None``: not measured.
        measured_by: What computed the detections.
        note: Anything a reader should know, or nothing.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: RowName
    sensors: Mapping[Sensor, Accuracy]
    h_map: float | None
    overall: Accuracy
    measured_by: MeasuredBy
    size_bytes: int | None = None
    latency_ms: Mapping[Sensor, float] | None = None
    note: str = ""

    @classmethod
    def from_evaluation(cls, name: RowName, evaluation: Evaluation, measured_by: MeasuredBy) -> Row:
        """A row without size and latency; :func:`dataclasses.replace` adds them."""
        return cls(
            name,
            {sensor: Accuracy.of(precision) for sensor, precision in evaluation.sensors.items()},
            None if math.isnan(evaluation.h_map) else evaluation.h_map,
            Accuracy.of(evaluation.overall),
            measured_by,
        )


@dataclass(frozen=True)
class Limit:
    """The H-mAP that may be lost against float32 and the loss of what was found, in points (hundredths)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    max_hmap_drop: float
    drop: float | None
    met: bool


@dataclass(frozen=True)
class CalibratorResult:
    """What a calibrator gives: H-mAP and mAP by sensor as fractions, or the outputs' error where no AP was measured."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    calibrator: str
    h_map: float | None = None
    ap: Mapping[Sensor, float | None] | None = None
    error: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """The error of the outputs when one part alone is INT8.

    Attributes:
        parts: Stem stages, blocks, pyramid, heads, in the order of the computation.
        sensors: Columns of ``values``.
        values: A row for each part; ``None`` where a part does not serve a sensor.
        unit: What the error is, in words.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    parts: tuple[str, ...]
    sensors: tuple[Sensor, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str

    def __post_init__(self) -> None:
        if len(self.values) != len(self.parts) or any(len(row) != len(self.sensors) for row in self.values):
            raise ValueError(f"values must have {len(self.parts)} rows of {len(self.sensors)}")


@dataclass(frozen=True)
class Part:
    """A part of the model, its final precision and why: ``start``, ``most hurtful``, ..."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    precision: PartPrecision
    num_weights: int
    reason: str


@dataclass(frozen=True)
class RangePoint:
    """A tensor that is quantized.

    Attributes:
        name: Of the quantizer.
        part: The part it lies in.
        amax: Largest absolute value that INT8 keeps, by sensor; only the sensors that pass here.
        pooled: The same of all sensors together; ``None``: not calibrated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    part: str
    amax: Mapping[Sensor, float]
    pooled: float | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """The images on which accuracy was measured."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    split: str
    images: Mapping[Sensor, int]


@dataclass(frozen=True)
class DetectedObject:
    """One detection: class, score, and ``cx, cy, w, h, theta`` in pixels and radians."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    label: str
    score: float
    obb: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class ExampleRecord:
    """What float and INT8 found in one image."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    sensor: Sensor
    image: str
    float32: tuple[DetectedObject, ...]
    int8: tuple[DetectedObject, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values for JSON."""
        plain: dict[str, Any] = _plain(self)
        return plain


@dataclass(frozen=True)
class Report:
    """Everything that quantization chose and measured.

    Attributes:
        name: Of the model.
        target: The device it is for.
        settings: The command's settings by name; a path counts by its last part only.
        rows: Measured so far, any of :data:`ROW_NAMES`, each once.
        limit: Of the loss, and whether it was kept.
        parts: The final precision of every part, in the order of the computation.
        evaluation: What the rows were measured on.
        calibration: By sensor, SHA-256 (hexadecimal) of each calibration image, by name.
        seed: Of every random draw.
        final: The row whose model went into the bundle; ``None``: no bundle was written.
        calibrators: Those that were compared.
        chosen_calibrator: One of them; ``None``: none was compared.
        sensitivity: ``None``: not measured.
        ranges: In the order of the computation.
        examples: Detections to look at, float against INT8.
        parity: How many detections the written graphs share with what was measured, by sensor; empty: no bundle.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    target: str
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    limit: Limit
    parts: tuple[Part, ...]
    evaluation: EvaluationSet
    calibration: Mapping[Sensor, Mapping[str, str]]
    seed: int
    final: RowName | None = None
    calibrators: tuple[CalibratorResult, ...] = ()
    chosen_calibrator: str | None = None
    sensitivity: Sensitivity | None = None
    ranges: tuple[RangePoint, ...] = ()
    examples: tuple[ExampleRecord, ...] = ()
    parity: Mapping[Sensor, Parity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"rows {names} are not distinct")
        if self.final is not None and self.final not in names:
            raise ValueError(f"final row {self.final!r} is not among {names}")
        calibrators = [one.calibrator for one in self.calibrators]
        if self.chosen_calibrator is not None and self.chosen_calibrator not in calibrators:
            raise ValueError(f"chosen calibrator {self.chosen_calibrator!r} is not among {calibrators}")

    def row(self, name: RowName) -> Row | None:
        """The row of that name; ``None``: it was not measured."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors that any row was measured on."""
        return tuple(sensor for sensor in Sensor if any(sensor in row.sensors for row in self.rows))

    def without_latency(self) -> Report:
        """The same without times: what a bundle whose bytes must not depend on the day can hold."""
        return replace(self, rows=tuple(replace(row, latency_ms=None) for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON, with its schema."""
        return {"schema": SCHEMA, **_plain(self)}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no timestamps, no paths, so that equal reports have equal bytes.

        Raises:
            ValueError: A number is NaN or infinite.
        """
        return json.dumps(self.to_dict(), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "report.json") -> Report:
        """Parse and check a report.

        Args:
            values: As :meth:`to_dict` gives them.
            source: Their name, for messages.

        Raises:
            BabelRSError: The schema is another, or a field is missing, unknown or wrong; all faults at once.
        """
        if values.get("schema") != SCHEMA:
            raise BabelRSError(f"{source}: schema {values.get('schema')!r}, where {SCHEMA!r} is read.", _MAKE_AGAIN)
        try:
            return _PARSER.validate_python({key: value for key, value in values.items() if key != "schema"})
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'report'}: {fault['msg']}" for fault in error.errors()]
            raise collected(f"{source} is no report", faults, _MAKE_AGAIN) from None


_PARSER = TypeAdapter(Report)


def _plain(value: Any) -> Any:
    """``value`` in JSON's types; of a path only the last part, so that no folder of a machine is told."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list, np.ndarray)):
        return [_plain(part) for part in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return value.name
    return value.item() if isinstance(value, np.generic) else value
