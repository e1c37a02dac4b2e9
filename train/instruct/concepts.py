"""One name per concept over all sensors and data sets: that is what makes a concept shared through language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor

SENSOR_WORDS: Mapping[Sensor, str] = {
    Sensor.RGB: "optical",
    Sensor.SAR: "synthetic aperture radar",
    Sensor.IR: "infrared",
}

CONCEPTS: Mapping[str, str] = {
    # SARDet
    "aircraft": "aircraft",
    "ship": "ship",
    "car": "car",
    "bridge": "bridge",
    "tank": "storage tank",  # of oil: SARDet's tanks stand in ports
    "harbor": "harbor",
    # DOTA
    "plane": "aircraft",
    "baseball diamond": "baseball diamond",
    "ground track field": "ground track field",
    "small vehicle": "car",
    "large vehicle": "large vehicle",  # trucks and buses: no concept of the other sets holds both
    "tennis court": "tennis court",
    "basketball court": "basketball court",
    "storage tank": "storage tank",
    "soccer ball field": "soccer field",
    "roundabout": "roundabout",
    "swimming pool": "swimming pool",
    "helicopter": "helicopter",
    # DroneVehicle
    "truck": "truck",
    "bus": "bus",
    "van": "van",
    "freight car": "freight car",
    "feright car": "freight car",
    # other sets in the same layout
    "airplane": "aircraft",
    "person": "person",
    "pedestrian": "person",
    "bicycle": "bicycle",
    "vehicle": "vehicle",
    "harbour": "harbor",
    "boat": "ship",
}
"""Class names, in small letters with spaces, and their concepts. Names that are not here pass through."""

_PLURALS: Mapping[str, str] = {"person": "people", "aircraft": "aircraft"}


def plain_name(name: str) -> str:
    """A class name in small letters, words separated by one space."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def concept_of(name: str, table: Mapping[str, str] = CONCEPTS) -> str:
    """The concept of a class name; an unknown one passes through as :func:`plain_name` writes it."""
    plain = plain_name(name)
    return table.get(plain, plain)


def is_known(name: str, table: Mapping[str, str] = CONCEPTS) -> bool:
    """Whether the table says what a class name means."""
    return plain_name(name) in table


def plural(concept: str) -> str:
    """The plural of a concept's name."""
    if concept in _PLURALS:
        return _PLURALS[concept]
    if concept.endswith(("s", "x", "ch", "sh")):
        return concept + "es"
    if re.search(r"[^aeiou]y$", concept):
        return concept[:-1] + "ies"
    return concept + "s"


def read_concepts(path: Path) -> dict[str, str]:
    """The table with a YAML file's entries over it: class name to concept.

    Raises:
        BabelRSError: The file cannot be read, or is no mapping of texts.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BabelRSError(f"Cannot read the concepts {path}: {error}.", "Give a YAML file.") from None
    if not isinstance(content, dict) or not all(isinstance(v, str) and v.strip() for p in content.items() for v in p):
        raise BabelRSError(
            f"{path} is not a mapping of class names to concepts.", "Write lines like `plane: aircraft`."
        )
    return {**CONCEPTS, **{plain_name(name): plain_name(concept) for name, concept in content.items()}}
