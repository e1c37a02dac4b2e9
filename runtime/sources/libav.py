"""Decoded video frames as raw counts; PyAV is loaded on first use."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from babelrs.images import Frame
from babelrs.sensors import Sensor

_GRAY = re.compile(r"gray(9|10|12|14|16|f32)?(le|be)?")
_PLANAR_8_BIT = re.compile(r"yuvj?4(20|22|44|40|11|10)p")
_NEUTRAL, _CHROMA_TOLERANCE = 128, 8  # what a gray picture's chroma is, and how far compression bends it


def require_av() -> Any:
    """The ``av`` module.

    Raises:
        BabelRSError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        remedy = "Install it with `pip install 'babelrs[video]'`."
        raise BabelRSError(f"Videos and network streams need PyAV ({error}).", remedy) from None
    module: Any = av
    return module


def frame_of(picture: Any, sensor: Sensor, source: str) -> Frame:
    """The raw counts of a decoded picture.

    Gray pixel formats of 8 to 16 bits and floats are taken as they are. Of sensors with one band, video in colour
    whose pictures are gray gives the luma, full range. All else becomes R, G, B.

    Args:
        picture: An ``av.VideoFrame``.
        sensor: What took it.
        source: What messages call the frame.
    """
    if _GRAY.fullmatch(picture.format.name):
        return Frame(_plane(picture, 0), None, source)
    is_gray = sensor.num_channels == 1 and _PLANAR_8_BIT.fullmatch(picture.format.name) and _is_gray(picture)
    return Frame(picture.to_ndarray(format="gray" if is_gray else "rgb24"), None, source)


def reason(error: Exception) -> str:
    """What libav says is wrong, without the address."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _plane(picture: Any, index: int) -> npt.NDArray[Any]:
    """``(H, W)``, a copy without padding, in the machine's byte order."""
    plane, name = picture.planes[index], picture.format.name
    bits = _GRAY.fullmatch(name)
    depth = "8" if bits is None or bits.group(1) is None else bits.group(1)
    dtype = np.dtype({"8": "u1", "f32": "f4"}.get(depth, "u2")).newbyteorder(">" if name.endswith("be") else "<")
    rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)[:, : plane.width]
    return np.array(rows, dtype.newbyteorder("="), order="C")


def _is_gray(picture: Any) -> bool:
    chroma = (_plane(picture, index) for index in (1, 2))
    return all(
        int(plane.min()) >= _NEUTRAL - _CHROMA_TOLERANCE and int(plane.max()) <= _NEUTRAL + _CHROMA_TOLERANCE
        for plane in chroma
    )
