"""The self-test vectors of a bundle: ``selftest.<sensor>.npz``, read without trust in what the file says of itself."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from babelrs.plain_files import open_plain
from babelrs.sensors import Sensor

if TYPE_CHECKING:
    from babelrs.bundle import Bundle
    from babelrs.manifest import SensorEntry

_MOST_HEADER_BYTES = 4096
_FETCH_AGAIN = "Fetch the bundle again."


@dataclass(frozen=True)
class SelfTest:
    """A known input of one graph and the outputs it must give.

    Attributes:
        pixels: ``(1, H, W, C)`` uint8.
        boxes: ``(1, K, 5)`` float32.
        scores: ``(1, K)`` float32, descending.
        labels: ``(1, K)`` int32.
        score_tolerance: Largest allowed difference of a score.
        box_tolerance_px: Largest allowed difference of a box coordinate, pixels (and of an angle, radians, times half
            the long side).
        min_score: Candidates below it are not compared: the order of what INT8 can hardly tell apart is its own.
    """

    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    score_tolerance: float
    box_tolerance_px: float
    min_score: float = 0.0


def write_selftest(path: str | Path, selftest: SelfTest) -> None:
    """Write self-test vectors as ``.npz``; same vectors, same bytes."""
    with Path(path).open("wb") as stream:
        np.savez_compressed(
            stream,
            pixels=selftest.pixels,
            boxes=selftest.boxes,
            scores=selftest.scores,
            labels=selftest.labels,
            score_tolerance=np.float64(selftest.score_tolerance),
            box_tolerance_px=np.float64(selftest.box_tolerance_px),
            min_score=np.float64(selftest.min_score),
        )


def read_selftest(bundle: Bundle, sensor: Sensor) -> SelfTest:
    """The self-test of a sensor's graph.

    Raises:
        BabelRSError: The sensor is not in the bundle, or its file is missing or not a self-test of this graph.
    """
    entry = bundle.manifest.entry(sensor)
    path = bundle.folder / entry.selftest
    try:
        with open_plain(path) as stream, zipfile.ZipFile(stream) as arrays:
            return _read(arrays, entry)
    except BabelRSError:
        raise
    except Exception as error:  # NumPy lets through what its tokenizer, zlib and zipfile raise, each their own
        raise BabelRSError(f"{path}: not a self-test ({error}).", _FETCH_AGAIN) from None


def _read(arrays: zipfile.ZipFile, entry: SensorEntry) -> SelfTest:
    count = entry.max_detections
    return SelfTest(
        _array(arrays, "pixels", np.uint8, (1, entry.input_height, entry.input_width, entry.channels)),
        _array(arrays, "boxes", np.float32, (1, count, 5)),
        _array(arrays, "scores", np.float32, (1, count)),
        _array(arrays, "labels", np.int32, (1, count)),
        _number(arrays, "score_tolerance"),
        _number(arrays, "box_tolerance_px"),
        _number(arrays, "min_score") if "min_score.npy" in arrays.namelist() else 0.0,  # before 0.2 all are compared
    )


def _number(arrays: zipfile.ZipFile, name: str) -> float:
    value = float(_array(arrays, name, np.float64, ()))
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value


def _array(arrays: zipfile.ZipFile, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """An array of a known type and shape; not a byte more is unpacked, whatever the file declares.

    Raises:
        ValueError: It is another.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with arrays.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{name} is of the version {version}")
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=_MOST_HEADER_BYTES)
        if (found, fortran and len(shape) > 1, kind) != (shape, False, np.dtype(dtype)):
            raise ValueError(f"{name} is {kind} {found}, where {np.dtype(dtype)} {shape} belongs")
        data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"{name} ends early")
    return np.frombuffer(data, dtype).reshape(shape)
