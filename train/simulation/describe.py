"""Scenes and objects in words, and the same facts as fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from babelrs.sensors import Sensor
from train.simulation.annotate import Annotation
from train.simulation.world import Setting

_ATTRIBUTE = {Sensor.RGB: "colour", Sensor.IR: "thermal", Sensor.SAR: "backscatter"}
_PHOTO = {Sensor.RGB: "aerial photograph", Sensor.IR: "thermal infrared image", Sensor.SAR: "radar image"}


def position_words(x_px: float, y_px: float, shape: tuple[int, int]) -> str:
    """Which ninth of the image a point lies in, for instance ``upper left``."""
    row = ("upper", "middle", "lower")[min(max(int(3 * y_px / shape[0]), 0), 2)]
    column = ("left", "centre", "right")[min(max(int(3 * x_px / shape[1]), 0), 2)]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def heading_words(heading_rad: float) -> str:
    """Direction of travel by compass, north at the top of the image."""
    names = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
    return names[round(heading_rad / (3.141592653589793 / 4)) % 8]


def describe(setting: Setting, annotations: Sequence[Annotation], sensor: Sensor) -> dict[str, Any]:
    """Words and fields of one image: ``text``, ``scene``, ``counts`` and ``objects``."""
    counts = Counter(str(annotation.solid.label) for annotation in annotations)
    return {
        "text": _scene_text(setting, counts, sensor),
        "scene": {
            "kind": setting.kind,
            "season": setting.season,
            "time": "night" if _is_dark(setting, sensor) else "day",
            "wind": round(setting.wind, 3),
            "gsd_m": round(setting.gsd_m, 4),
        },
        "counts": dict(sorted(counts.items())),
        "objects": [_describe_object(setting, annotation, sensor) for annotation in annotations],
    }


def _is_dark(setting: Setting, sensor: Sensor) -> bool:
    return setting.dark_rgb if sensor is Sensor.RGB else setting.night


def _scene_text(setting: Setting, counts: Counter[str], sensor: Sensor) -> str:
    parts = [f"{number} {label}{'s' if number > 1 else ''}" for label, number in sorted(counts.items())]
    content = (
        "no ships or vehicles"
        if not parts
        else parts[0]
        if len(parts) == 1
        else ", ".join(parts[:-1]) + " and " + parts[-1]
    )
    place = (
        "open water"
        if setting.kind == "open water"
        else f"{'an' if setting.kind == 'urban' else 'a'} {setting.kind} scene"
    )
    when = "" if sensor is Sensor.SAR else f" by {'night' if _is_dark(setting, sensor) else 'day'}"
    return f"A{'n' if sensor is Sensor.RGB else ''} {_PHOTO[sensor]} of {place}{when} with {content}."


def _describe_object(setting: Setting, annotation: Annotation, sensor: Sensor) -> dict[str, Any]:
    solid = annotation.solid
    place = position_words(solid.x_px, solid.y_px, setting.shape)
    attribute, state = solid.words[_ATTRIBUTE[sensor]], solid.words["state"]
    heading = heading_words(solid.heading_rad)
    course = f", heading {heading}" if state in ("driving", "under way") else ""
    look = f"{attribute} {solid.kind}" if sensor is Sensor.RGB else f"{solid.kind} with a {attribute}"
    return {
        "class": solid.label,
        "kind": solid.kind,
        "text": f"{state} {look} in the {place}{course}",
        "position": place,
        "state": state,
        _ATTRIBUTE[sensor]: attribute,
        "polygon": [[round(float(x), 1), round(float(y), 1)] for x, y in annotation.corners_px],
        "length_m": round(solid.length_m, 2),
        "width_m": round(solid.width_m, 2),
        "heading_deg": round(float(solid.heading_rad) * 57.29577951308232 % 360, 1),
        "difficult": annotation.difficult,
    }
