"""What a search found, as the report tells it."""

from __future__ import annotations

from collections.abc import Mapping

from babelrs.images import read_frame
from babelrs.radiometry import RadiometryProfile, to_uint8
from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from compress.compressor import Compressor
from compress.config import QuantizeConfig
from compress.parts import is_head, part_of
from compress.ranges import magnitude
from compress.report.examples import Example
from compress.report.record import EvaluationSet, Limit, Part, PartPrecision, RangePoint, Report, RowName
from compress.search import Found
from compress.targets import Target
from train.data.samples import Sample

FINAL: RowName = "mixed"
_FLOAT: Mapping[str, PartPrecision] = {"tensorrt": "fp16", "onnxruntime": "fp32"}
"""What the parts beside INT8 compute in."""
_UNTOLD = {"checkpoint", "out", "targets_file", "selftest_root", "threads"}
"""Settings that say what there was on one machine."""


def report_of(
    config: QuantizeConfig,
    target: Target,
    compressor: Compressor,
    found: Found,
    samples: Mapping[Sensor, list[Sample]],
    images: CalibrationSet,
) -> Report:
    """The report of a search, without sizes."""
    met = found.drop <= config.max_hmap_drop
    return Report(
        name=config.name,
        target=target.name,
        settings=config.model_dump(
            mode="json", exclude={**dict.fromkeys(_UNTOLD, True), "data": {"root"}, "calibration": {"root"}}
        ),
        rows=found.rows,
        limit=Limit(config.max_hmap_drop, found.drop, met),
        parts=parts_of_model(compressor, found, target),
        evaluation=EvaluationSet(config.data.split, {sensor: len(group) for sensor, group in samples.items()}),
        calibration={
            sensor: {image.name: image.sha256 for image in chosen} for sensor, chosen in images.images.items()
        },
        seed=config.calibration.seed,
        final=FINAL if met else None,
        calibrators=found.calibrators,
        chosen_calibrator=found.calibrator,
        sensitivity=found.sensitivity,
        ranges=range_points(found),
    )


def parts_of_model(compressor: Compressor, found: Found, target: Target) -> tuple[Part, ...]:
    """Every part with its final precision and the reason."""
    weights = compressor.num_weights()
    return tuple(
        Part(
            part,
            "int8" if part in found.int8_parts else _FLOAT[target.kind],
            weights[part],
            _reason(part, found, target),
        )
        for part in compressor.parts
    )


def _reason(part: str, found: Found, target: Target) -> str:
    if part in found.int8_parts:
        return "within the limit"
    return "heads start in float" if is_head(part) and target.kind == "tensorrt" else "given back: most hurtful"


def range_points(found: Found) -> tuple[RangePoint, ...]:
    """The thresholds of every point, by sensor and pooled."""
    names = dict.fromkeys(name for ranges in found.ranges.values() for name in ranges)
    joint = {name: kept for ranges in found.pooled.values() for name, kept in ranges.items()}
    return tuple(
        RangePoint(
            name,
            part_of(name),
            {sensor: magnitude(ranges[name]) for sensor, ranges in found.ranges.items() if name in ranges},
            magnitude(joint[name]),
        )
        for name in names
    )


def examples_of(
    config: QuantizeConfig,
    compressor: Compressor,
    found: Found,
    samples: Mapping[Sensor, list[Sample]],
    profiles: Mapping[Sensor, RadiometryProfile],
) -> list[Example]:
    """The fullest held-out images of every sensor, with what float32 and the final model find in them."""
    chosen = {
        sensor: sorted(group, key=lambda sample: (-len(sample.names), sample.name))[: config.examples]
        for sensor, group in samples.items()
    }
    if not config.examples:
        return []
    exact = compressor.predict((), {}, False, chosen)
    rounded = compressor.predict(found.int8_parts, found.ranges, True, chosen)
    return [
        Example(
            sample.path.name,
            to_uint8(read_frame(sample.path), profiles[sensor]),
            *(
                side.found[sample.name].select(side.found[sample.name].scores >= config.score_threshold)
                for side in (exact, rounded)
            ),
        )
        for sensor, group in chosen.items()
        for sample in group
    ]
