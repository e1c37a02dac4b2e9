"""One labelled image, wherever it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError, collected
from babelrs.sensors import Sensor


@dataclass(frozen=True)
class Sample:
    """An image and its objects.

    Attributes:
        path: The image file.
        sensor: Its sensor.
        boxes: ``(M, 5)`` float32 ``le90`` pixels.
        names: M class names.
        ignore: ``(M,)`` bool: difficult or crowd objects, neither learned nor counted.
    """

    path: Path
    sensor: Sensor
    boxes: npt.NDArray[np.float32]
    names: tuple[str, ...]
    ignore: npt.NDArray[np.bool_]

    @property
    def name(self) -> str:
        """Name of the image among all sensors, ``sensor/file name``; with the ending, since stems may repeat."""
        return f"{self.sensor}/{self.path.name}"


def class_list(samples: list[Sample]) -> tuple[str, ...]:
    """The class names that occur, sorted: class lists come from the data."""
    return tuple(sorted({name for sample in samples for name in sample.names}))


def check_objects(samples: Mapping[Sensor, list[Sample]]) -> None:
    """Refuse sensors without anything to learn.

    Raises:
        BabelRSError: A sensor has no object.
    """
    if empty := [sensor.value for sensor, group in samples.items() if not class_list(group)]:
        raise BabelRSError(f"No image of {', '.join(empty)} has an object.", "Annotate some, or change data.sensors.")


def check_classes(samples: list[Sample], classes: tuple[str, ...], sensor: Sensor) -> None:
    """Refuse samples with classes outside ``classes``.

    Raises:
        BabelRSError: Listing each unknown class with a file it occurs in.
    """
    known: set[str] = set(classes)
    unknown: dict[str, Path] = {}
    for sample in samples:
        for name in sample.names:
            if name not in known:
                unknown.setdefault(name, sample.path)
    if unknown:
        faults = [f"{name!r}, first in {path}" for name, path in sorted(unknown.items())]
        remedy = f"The checkpoint knows {', '.join(classes)}: rename the classes or train with these data."
        raise collected(f"The {sensor} annotations have classes that the checkpoint lacks", faults, remedy)


def limited(samples: dict[Sensor, list[Sample]], count: int | None) -> dict[Sensor, list[Sample]]:
    """The first ``count`` samples of each sensor; all of them for ``None``."""
    return {sensor: group[:count] for sensor, group in samples.items()}
