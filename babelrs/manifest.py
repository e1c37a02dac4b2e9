"""What a bundle says about itself: the contents of ``manifest.json``, parsed strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from babelrs.errors import BabelRSError, collected
from babelrs.radiometry import RadiometryProfile
from babelrs.sensors import Sensor
from babelrs.strict_json import parse_json

SCHEMA = "babelrs.bundle/1"
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
SIGNATURE_BYTES = 64
MAX_FILES = 64
MAX_MANIFEST_BYTES = 8 << 20
MAX_INPUT_BYTES = 1 << 26
"""Bytes of one image of a graph's input: 4096 x 4096 in four bands. More would take all memory before anything runs."""

_MAKE_AGAIN = "Make the bundle again with compress.quantize, or fetch it again."


@dataclass(frozen=True)
class SensorEntry:
    """How one sensor's graph is fed and read.

    Attributes:
        classes: Class names; a label of the graph is an index into them.
        profile: Raw counts to the uint8 image the graph takes.
        graph: File name of the ONNX graph.
        selftest: File name of the self-test vectors.
        input_height: Rows of the graph's input, pixels.
        input_width: Columns of the graph's input, pixels.
        channels: Bands of the graph's input.
        max_detections: Candidates an image, K of the graph's outputs.
        score_threshold: Least score that is reported unless the user says otherwise.
        nms_iou: Rotated IoU of non-maximum suppression.
        tile_overlap: Overlap of tiles, a fraction of the input size.
        precision: ``fp32``, ``fp16`` or ``int8``: for people, and part of an engine's cache key.
    """

    classes: tuple[str, ...]
    profile: RadiometryProfile
    graph: str
    selftest: str
    input_height: int
    input_width: int
    channels: int
    max_detections: int
    score_threshold: float
    nms_iou: float
    tile_overlap: float
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain values for JSON."""
        return {**vars(self), "classes": list(self.classes), "profile": self.profile.to_dict()}


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        name: The model's name.
        target: What it was made for: ``cpu``, a Jetson, ...
        taps: Numbers of the backbone's blocks that the neck reads, counted from 1.
        strides: Strides of the pyramid's levels, pixels.
        sensors: One entry a sensor.
        files: SHA-256 (hexadecimal) of every file but the manifest and its signature, by name.
        metrics: Measured accuracy, as the exporter wrote it.
        calibration: Which data set the quantization ranges, as the exporter wrote it.
        training: How the model was trained, as the exporter wrote it.
    """

    name: str
    target: str
    taps: tuple[int, ...]
    strides: tuple[int, ...]
    sensors: Mapping[Sensor, SensorEntry]
    files: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, sensor: Sensor) -> SensorEntry:
        """The entry of ``sensor``.

        Raises:
            BabelRSError: The model was not made for this sensor.
        """
        if sensor not in self.sensors:
            known = ", ".join(item.value for item in self.sensors)
            raise BabelRSError(f"The bundle {self.name!r} has no model for sensor {sensor}.", f"It has: {known}.")
        return self.sensors[sensor]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no timestamps, so that equal models have equal bytes.

        Raises:
            ValueError: A number is NaN or infinite.
        """
        values = {
            **vars(self),
            "schema": SCHEMA,
            "taps": list(self.taps),
            "strides": list(self.strides),
            "sensors": {sensor.value: entry.to_dict() for sensor, entry in self.sensors.items()},
            "files": dict(self.files),
        }
        return json.dumps(values, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_bytes(cls, data: bytes, source: str = MANIFEST_NAME) -> Manifest:
        """Parse and check the bytes of a ``manifest.json``; see :meth:`from_json`.

        Raises:
            BabelRSError: They are too many, no UTF-8 text, or no manifest.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise BabelRSError(f"{source}: {len(data)} bytes, too many for a manifest.", _MAKE_AGAIN)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"{source}: not UTF-8 text ({error.reason} at byte {error.start})."
            raise BabelRSError(what, _MAKE_AGAIN) from None
        return cls.from_json(text, source)

    @classmethod
    def from_json(cls, text: str, source: str = MANIFEST_NAME) -> Manifest:
        """Parse and check a manifest.

        Args:
            text: The JSON text.
            source: Its name, for messages.

        Raises:
            BabelRSError: It is no JSON, of another schema, or a field is missing, unknown or wrong; all faults at once.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise BabelRSError(f"{source}: not valid JSON ({error}).", _MAKE_AGAIN) from None
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            found = values.get("schema") if isinstance(values, dict) else type(values).__name__
            raise BabelRSError(f"{source}: schema {str(found)[:80]!a}, where {SCHEMA!r} is read.", _MAKE_AGAIN)
        return _parse({key: value for key, value in values.items() if key != "schema"}, source)


def is_plain_name(name: object) -> bool:
    """Whether ``name`` is a file name without any path: no separators, no drive, no ``..``, not hidden."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 128
        and name[0] not in ".-"
        and all(char.isascii() and (char.isalnum() or char in "._-") for char in name)
    )


_Check = Callable[[Any], bool]


def _is_int(low: int, high: int) -> _Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()  # it is printed and written in rows


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_ints(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_int(0, 1 << 16), value))


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _is_hashes(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_FILES
        and all(
            is_plain_name(name)
            and name not in (MANIFEST_NAME, SIGNATURE_NAME)
            and isinstance(digest, str)
            and len(digest) == 64
            and set(digest) <= set("0123456789abcdef")
            for name, digest in value.items()
        )
    )


_SENSOR_FIELDS: dict[str, tuple[_Check, str]] = {
    "classes": (_is_texts, "a list of distinct names"),
    "profile": (_is_dict, "an object"),
    "graph": (is_plain_name, "a plain file name"),
    "selftest": (is_plain_name, "a plain file name"),
    "input_height": (_is_int(1, 1 << 16), "a positive whole number"),
    "input_width": (_is_int(1, 1 << 16), "a positive whole number"),
    "channels": (_is_int(1, 4), "1 to 4"),
    "max_detections": (_is_int(1, 1 << 20), "a positive whole number"),
    "score_threshold": (_is_fraction, "a number in 0..1"),
    "nms_iou": (_is_fraction, "a number in 0..1"),
    "tile_overlap": (lambda value: _is_fraction(value) and value < 1, "a number in [0, 1)"),
    "precision": (_is_text, "a name"),
}
_FIELDS: dict[str, tuple[_Check, str]] = {
    "name": (_is_text, "a name"),
    "target": (_is_text, "a name"),
    "taps": (_is_ints, "a list of block numbers"),
    "strides": (_is_ints, "a list of strides"),
    "sensors": (lambda value: _is_dict(value) and bool(value), "an object with an entry a sensor"),
    "files": (_is_hashes, f"an object of plain file names and SHA-256 digests, at most {MAX_FILES}"),
    "metrics": (_is_dict, "an object"),
    "calibration": (_is_dict, "an object"),
    "training": (_is_dict, "an object"),
}


def _shown(name: str) -> str:
    """A name from the file as a message may show it: short, and nothing that moves a terminal's cursor."""
    return ascii(name[:80])[1:-1]


def _faults(values: Mapping[str, Any], checks: Mapping[str, tuple[_Check, str]], prefix: str) -> list[str]:
    found = [f"{prefix}{name}: missing" for name in checks if name not in values]
    found += [f"{prefix}{_shown(name)}: unknown field" for name in values if name not in checks]
    for name, (check, wanted) in checks.items():
        if name in values and not check(values[name]):
            found.append(f"{prefix}{name}: {str(values[name])[:80]!r} is not {wanted}")
    return found


def _parse(values: dict[str, Any], source: str) -> Manifest:
    faults = _faults(values, _FIELDS, "")
    entries: dict[Sensor, SensorEntry] = {}
    sensors = values.get("sensors")
    for name, entry in (sensors if isinstance(sensors, dict) else {}).items():
        parsed = _parse_entry(name, entry, values.get("files"), faults)
        if parsed is not None:
            entries[Sensor(name)] = parsed
    if faults:
        raise collected(f"{source} is wrong", faults, _MAKE_AGAIN)
    plain = {name: values[name] for name in ("name", "target", "files", "metrics", "calibration", "training")}
    return Manifest(taps=tuple(values["taps"]), strides=tuple(values["strides"]), sensors=entries, **plain)


def _parse_entry(name: str, entry: Any, files: Any, faults: list[str]) -> SensorEntry | None:
    prefix = f"sensors.{name}."
    if name not in {item.value for item in Sensor} or not isinstance(entry, dict):
        faults.append(f"sensors.{_shown(name)}: not a sensor with an object of fields")
        return None
    found = _faults(entry, _SENSOR_FIELDS, prefix) or _contradictions(Sensor(name), entry, files, prefix)
    profile = None
    if not found:
        try:
            profile = RadiometryProfile.from_dict(entry["profile"])
        except BabelRSError as error:
            found.append(f"{prefix}profile: {str(error)[:500]}")
    if profile is not None and profile.sensor != name:
        found.append(f"{prefix}profile: it is for sensor {profile.sensor}")
    faults.extend(found)
    if found or profile is None:
        return None
    return SensorEntry(**{**entry, "classes": tuple(entry["classes"]), "profile": profile})


def _contradictions(sensor: Sensor, entry: Mapping[str, Any], files: Any, prefix: str) -> list[str]:
    listed = files if isinstance(files, dict) else {}
    names = ("graph", "selftest")
    found = [f"{prefix}{key}: {entry[key]!r} is not in files" for key in names if entry[key] not in listed]
    if entry["input_height"] * entry["input_width"] * entry["channels"] > MAX_INPUT_BYTES:
        found.append(f"{prefix}input_height: an image of the input has more than {MAX_INPUT_BYTES} bytes")
    if entry["channels"] != sensor.num_channels:
        found.append(f"{prefix}channels: {entry['channels']}, where {sensor} has {sensor.num_channels}")
    return found
