"""``python -m benchmarks.picture IMAGE... --out FILE``: images in a grid, as in the README and the guides.

16-bit images are shown as infrared and floating-point ones as SAR, by the default radiometry.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from babelrs.errors import run_command
from babelrs.images import read_frame
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor

GAP_PX = 6
SHOWN_AS = {"uint8": Sensor.RGB, "uint16": Sensor.IR, "float32": Sensor.SAR}

Picture = npt.NDArray[np.uint8]


def as_picture(path: Path, side_px: int) -> Picture:
    """An image file as the model sees it, ``(side_px, W, 3)`` uint8 R, G, B.

    Raises:
        BabelRSError: The file is no readable image.
    """
    frame = read_frame(path)
    image = to_uint8(frame, DEFAULT_PROFILES[SHOWN_AS[frame.pixels.dtype.name]])
    image = np.repeat(image, 3 // image.shape[2], axis=2)
    width = round(image.shape[1] * side_px / image.shape[0])
    return np.asarray(cv2.resize(image, (width, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def grid(pictures: list[Picture], columns: int) -> Picture:
    """Pictures of one height in rows of ``columns``, white between them and where a row is shorter."""
    rows = []
    for start in range(0, len(pictures), columns):
        padded = [
            np.pad(p, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255)
            for p in pictures[start : start + columns]
        ]
        rows.append(np.hstack(padded))
    widest = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def main(arguments: list[str]) -> int:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description="Show images in a grid.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--out", required=True, type=Path, help="PNG or JPEG file to write")
    parser.add_argument("--side", type=int, default=480, help="height of each image, pixels (default 480)")
    parser.add_argument("--columns", type=int, default=3, help="images a row (default 3)")
    given = parser.parse_args(arguments)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    joined = grid([as_picture(path, given.side) for path in given.images], given.columns)
    cv2.imwrite(str(given.out), joined[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
