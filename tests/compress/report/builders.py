"""A report as quantization of a small model could give it; all of it from a seed, none of it measured."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners
from babelrs.detections import Detections
from babelrs.metrics import harmonic_map
from babelrs.sensors import Sensor
from compress.report.examples import Example
from compress.report.record import (
    Accuracy,
    CalibratorResult,
    EvaluationSet,
    Limit,
    Part,
    PartPrecision,
    RangePoint,
    Report,
    Row,
    RowName,
    Sensitivity,
)

FLOAT_AP = {Sensor.RGB: (0.4731, 0.2213), Sensor.SAR: (0.9342, 0.5127), Sensor.IR: (0.6118, 0.2964)}
LOSSES: dict[RowName, tuple[float, float, float]] = {
    "float32": (0, 0, 0),
    "float16": (0.0001, -0.0002, 0.0001),
    "naive": (0.0061, 0.2310, 0.0982),
    "pooled": (0.0118, 0.0291, 0.0244),
    "per-sensor": (0.0072, 0.0089, 0.0101),
    "mixed": (0.0021, 0.0046, 0.0038),
}
SIZES: dict[RowName, int] = {
    "float32": 11_048_211, "float16": 5_601_880, "naive": 3_000_412, "pooled": 3_000_412, "per-sensor": 3_014_936,
    "mixed": 3_152_001,
}  # fmt: skip
FACTORS: dict[RowName, float] = {
    "float32": 1, "float16": 1.31, "naive": 0.5, "pooled": 0.5, "per-sensor": 0.502, "mixed": 0.547,
}  # fmt: skip
MS = {Sensor.RGB: 61.84, Sensor.SAR: 33.18, Sensor.IR: 40.07}
PARTS = (
    *(f"stem.{n}" for n in range(5)),
    *(f"blocks.{n}" for n in range(6)),
    "pyramid", "heads",
)  # fmt: skip
CLASSES = {
    Sensor.RGB: ("ship", "large-vehicle", "small-vehicle"),
    Sensor.SAR: ("vehicle",),
    Sensor.IR: ("Bicycle", "Car", "Person"),
}
STEM_POINTS = ("conv.input", "norm.input")
BLOCK_POINTS = ("qkv.input", "scores", "attention.output", "proj.input", "fc1.input", "gelu.output", "fc2.input", "sum")
CALIBRATORS = ("max", "percentile", "entropy", "mse")


def sample_row(name: RowName, **changes: Any) -> Row:
    """A row with every number."""
    sensors = {}
    for loss, (sensor, (ap50, ap)) in zip(LOSSES[name], FLOAT_AP.items(), strict=True):
        sensors[sensor] = Accuracy(ap50 - 1.4 * loss, 0.7 * ap - loss, ap - loss)
    h_map = harmonic_map([one.ap for one in sensors.values() if one.ap is not None])
    columns = zip(*((one.ap50 or 0.0, one.ap75 or 0.0, one.ap or 0.0) for one in sensors.values()), strict=True)
    overall = Accuracy(*(sum(column) / len(sensors) for column in columns))
    latency = {sensor: round(FACTORS[name] * ms, 3) for sensor, ms in MS.items()}
    row = Row(name, sensors, h_map, overall, "onnxruntime", SIZES[name], latency)
    return replace(row, **changes)


def sample_ranges(seed: int = 7) -> tuple[RangePoint, ...]:
    """Some seventy points; radar's ranges are wide in the stem, infrared's narrow; the heads serve one sensor each."""
    rng = np.random.default_rng(seed)
    points: list[RangePoint] = []
    for depth, part in enumerate(PARTS):
        for name in STEM_POINTS if part.startswith("stem") else BLOCK_POINTS:
            base = 2.0 * np.exp(0.16 * depth + rng.normal(0, 0.5))
            powers = (0.0, 1.5 * np.exp(-((depth - 2) ** 2) / 9), -0.9 * np.exp(-depth / 4))
            amax = {
                sensor: round(float(base * np.exp(power + rng.normal(0, 0.12))), 5)
                for sensor, power in zip(Sensor, powers, strict=True)
            }
            if part == "heads":
                served = list(Sensor)[len(points) % 3]
                amax = {served: amax[served]}
            points.append(RangePoint(f"{part}.{name}", part, amax, round(0.97 * max(amax.values()), 5)))
    return tuple(points)


def sample_parts(seed: int = 5) -> tuple[Part, ...]:
    """Three parts in float, for two reasons."""
    rng = np.random.default_rng(seed)
    floats: dict[str, tuple[PartPrecision, str]] = {
        "heads": ("fp16", "start"), "stem.0": ("fp32", "most hurtful"), "blocks.0": ("fp16", "most hurtful"),
    }  # fmt: skip
    chosen = [(name, *floats.get(name, ("int8", "start"))) for name in PARTS]
    return tuple(Part(name, precision, int(rng.integers(9_000, 400_000)), why) for name, precision, why in chosen)


def sample_sensitivity(seed: int = 5) -> Sensitivity:
    """Most parts hurt little; the first one all sensors, a block the radar most, the heads everybody."""
    hurt = np.abs(np.random.default_rng(seed).normal(0.004, 0.002, (len(PARTS), 3))) + 1e-4
    hurt[0] += (0.05, 0.021, 0.034)
    hurt[5] += (0.004, 0.045, 0.012)
    hurt[-1] += (0.08, 0.06, 0.11)
    values = tuple(tuple(row) for row in hurt.round(6).tolist())
    return Sensitivity(PARTS, tuple(Sensor), values, "relative error of the outputs")


def sample_calibrators(h_map: float) -> tuple[CalibratorResult, ...]:
    """Percentile and MSE near each other, the others far off."""
    results = []
    for name, loss in zip(CALIBRATORS, (0.0271, 0.0093, 0.0414, 0.0088), strict=True):
        shares = zip(Sensor, (0.8, 0.9, 1.2), strict=True)
        ap = {sensor: FLOAT_AP[sensor][1] - loss * share for sensor, share in shares}
        results.append(CalibratorResult(name, h_map - loss, ap))
    return tuple(results)


def sample_calibration() -> dict[Sensor, dict[str, str]]:
    """A hundred images a sensor."""
    return {
        sensor: {f"{sensor}-{n:04d}.png": hashlib.sha256(f"{sensor}{n}".encode()).hexdigest() for n in range(100)}
        for sensor in Sensor
    }


def sample_report(**changes: Any) -> Report:
    """A search that ended within its limit, for an ONNX Runtime target."""
    rows = tuple(sample_row(name) for name in LOSSES)
    h_map = rows[0].h_map or 0.0
    report = Report(
        name="babelrs-tiny",
        target="cpu-x86",
        settings={"calibrators": list(CALIBRATORS), "max_hmap_drop": 0.5, "per_sensor": True, "qat_epochs": 0},
        rows=rows,
        limit=Limit(0.5, 100 * (h_map - (rows[-1].h_map or 0.0)), True),
        parts=sample_parts(),
        evaluation=EvaluationSet("eval", {Sensor.RGB: 68, Sensor.SAR: 60, Sensor.IR: 220}),
        calibration=sample_calibration(),
        seed=3,
        final="mixed",
        calibrators=sample_calibrators(h_map),
        chosen_calibrator="mse",
        sensitivity=sample_sensitivity(),
        ranges=sample_ranges(),
    )
    return replace(report, **changes)


def sample_examples(seed: int = 11, side: int = 320) -> tuple[Example, ...]:
    """One made-up image a sensor; INT8 moves every box a little, loses one and finds one more."""
    return tuple(_example(sensor, np.random.default_rng([seed, number]), side) for number, sensor in enumerate(Sensor))


def _example(sensor: Sensor, rng: np.random.Generator, side: int) -> Example:
    count = 7
    size = rng.uniform(0.06, 0.13, count) * side
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(-1, 2)[:count]
    centres = (grid + 0.5 + rng.uniform(-0.15, 0.15, (count, 2))) * side / 3
    angles = rng.uniform(-1.5, 1.5, count)
    boxes = np.column_stack([centres, size, 0.4 * size, angles]).astype(np.float32)
    labels = rng.integers(0, len(CLASSES[sensor]), count).astype(np.int32)
    scores = np.sort(rng.uniform(0.35, 0.97, count))[::-1].astype(np.float32)
    found = Detections(boxes, scores, labels, CLASSES[sensor], sensor)
    moved = boxes + np.column_stack([rng.normal(0, 0.4, (count, 4)), np.zeros(count)])
    shifted = replace(found, boxes=moved.astype(np.float32), scores=(scores - 0.02).astype(np.float32))
    extra = Detections([[0.9 * side, 0.9 * side, 20, 9, 0.3]], [0.31], [0], found.classes, sensor)  # type: ignore[arg-type]
    after = Detections.concatenate([shifted.select(np.arange(count - 1)), extra])
    return Example(f"{sensor}-0001.png", _scene(sensor, boxes, rng, side), found, after)


def _scene(
    sensor: Sensor, boxes: npt.NDArray[np.float32], rng: np.random.Generator, side: int
) -> npt.NDArray[np.uint8]:
    ground = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), 14)
    canvas = (90 + 500 * ground).astype(np.float32)
    for corners in to_corners(boxes):
        cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], float(rng.uniform(150, 240)), cv2.LINE_AA)
    speckle = rng.gamma(4, 0.25, canvas.shape) if sensor is Sensor.SAR else 1 + rng.normal(0, 0.03, canvas.shape)
    gray = np.clip(canvas * speckle, 0, 255)
    bands = (0.9, 1.0, 0.75) if sensor is Sensor.RGB else (1.0,)
    return np.stack([gray * band for band in bands], -1).astype(np.uint8)
