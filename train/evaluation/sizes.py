"""Average precision by the size of the objects, in bins made for aerial images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.boxes import Boxes
from babelrs.metrics import Matched, Precision, class_precisions, rematch

SIZE_BINS: tuple[tuple[str, float, float], ...] = (
    ("very tiny", 0, 8),
    ("tiny", 8, 16),
    ("small", 16, 32),
    ("medium", 32, 64),
    ("large", 64, math.inf),
)
"""Square root of a box's area in pixels, from (including) and to (excluding): AI-TOD's bins (Wang et al., Tiny Object
Detection in Aerial Images, ICPR 2020), open at both ends. COCO's bounds, 32 and 96, would call nearly all of it small.
"""


@dataclass(frozen=True)
class SizeResult:
    """The accuracy on objects of one size, as the mean over the classes that have some.

    Attributes:
        name: The bin.
        lowest_px: Least square root of the area, included.
        highest_px: Greatest, excluded.
        precision: Average precisions.
        num_objects: Objects that count.
    """

    name: str
    lowest_px: float
    highest_px: float
    precision: Precision
    num_objects: int


def sizes_px(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Square roots of the areas of ``(N, 5)`` boxes, pixels."""
    return np.sqrt(boxes[:, 2].astype(np.float64) * boxes[:, 3])


def by_size(matched: Matched) -> list[SizeResult]:
    """Accuracy in each of :data:`SIZE_BINS`.

    As in COCO, objects of another size are ignored, and so is a detection of another size that finds nothing.
    """
    objects, found = sizes_px(matched.pool.objects.boxes), sizes_px(matched.pool.found.boxes)
    results = []
    for name, lowest, highest in SIZE_BINS:
        outside = (objects < lowest) | (objects >= highest)
        again = rematch(matched.pool, matched.candidates, matched.ignore | outside)
        loose = (again.chosen < 0) & ((found < lowest) | (found >= highest))
        precision = Precision.mean(class_precisions(again, loose))
        results.append(SizeResult(name, lowest, highest, precision, int(np.count_nonzero(~again.ignore))))
    return results
