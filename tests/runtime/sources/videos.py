"""Videos that tests write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

av = pytest.importorskip("av", reason="videos are read with PyAV, the video extra")

FPS = 10


def write_video(
    path: Path,
    pictures: Sequence[npt.NDArray[Any]],
    format: str,
    codec: str = "ffv1",
    pix_fmt: str | None = None,
    options: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """``pictures`` at 10 frames a second, given in libav's pixel format ``format``."""
    with av.open(str(path), "w", format=container_format, options=dict(options or {})) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt or format
        stream.codec_context.time_base = Fraction(1, FPS)
        for number, picture in enumerate(pictures):
            frame = _as_frame(picture, format)
            frame.pts = number
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _as_frame(picture: npt.NDArray[Any], format: str) -> Any:
    if not (format.startswith("gray") and picture.dtype == np.uint16):
        return av.VideoFrame.from_ndarray(picture, format=format)
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], format)  # counts of 10 bits are stored in 16, too
    rows = np.zeros((picture.shape[0], frame.planes[0].line_size // 2), "<u2")
    rows[:, : picture.shape[1]] = picture
    frame.planes[0].update(rows.tobytes())
    return frame


def noise(count: int, height: int, width: int, dtype: str = "uint8", bands: int = 0) -> list[npt.NDArray[Any]]:
    """Random counts: a lossless codec cannot shrink them, so that cutting a file cuts pictures."""
    random = np.random.default_rng(5)
    shape = (height, width, bands) if bands else (height, width)
    return [random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True) for _ in range(count)]
